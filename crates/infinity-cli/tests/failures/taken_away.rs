//! What is removed while a run goes on comes back, and the run says so.

use super::common::{TINY, with_texts};
use super::{LONG, Running, has_checkpoint, names, wait_for};
use std::fs;
use std::path::Path;

/// A run that has just written a checkpoint, so that it will not write for a while.
fn after_a_checkpoint(dir: &Path) -> Running {
    let line = format!(
        "train --train-file train.txt -o run {TINY} {LONG} --save-steps 200 --eval-steps 10000 \
         --set logging.tensorboard=true"
    );
    let run = Running::until(dir, &line, "step 0");
    wait_for("checkpoint", || has_checkpoint(dir));
    run
}

#[test]
fn a_run_directory_that_is_removed_is_made_again() {
    const FILES: [&str; 4] = [
        "config.toml",
        "config.effective.toml",
        "run.json",
        "metrics.jsonl",
    ];
    let dir = with_texts();
    let run = after_a_checkpoint(dir.path());
    let path = dir.path().join("run");
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    wait_for("files of the run", || {
        FILES.iter().all(|name| path.join(name).exists())
    });
    run.signal("TERM");
    let ended = run.ended().exits(130);
    for name in FILES.iter().chain(&["tensorboard"]) {
        let told = format!("run/{name} has been removed");
        assert!(ended.out.contains(&told), "{told}: {}", ended.out);
    }
    for name in FILES[..3].iter() {
        let read = |directory: &str| fs::read(dir.path().join(directory).join(name)).unwrap();
        assert!(read("run") == read("elsewhere"), "another {name}");
    }
    assert_eq!(names(&path.join("tensorboard")).len(), 1);
}

#[test]
fn removed_events_begin_anew() {
    let dir = with_texts();
    let run = after_a_checkpoint(dir.path());
    let path = dir.path().join("run/tensorboard");
    fs::remove_dir_all(&path).unwrap();
    wait_for("new events", || !names(&path).is_empty());
    run.signal("TERM");
    let ended = run.ended().exits(130);
    let told = "run/tensorboard has been removed while the run goes on; it begins anew";
    assert!(ended.out.contains(told), "{}", ended.out);
}
