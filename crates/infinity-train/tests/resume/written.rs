//! What is written and kept, and what happens when it cannot be.

use crate::common::run;
use crate::{copy, directory, edit, entries, stopped, store};
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use std::fs;

/// A file in the place of the directory: nothing can be written there, not even by root.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_with_an_error() {
    let (directory, config) = stopped();
    let checkpoints = config.output_dir().join("checkpoints");
    let kept = directory.path().join("kept");
    copy(&store(&config).path(4), &kept);
    // The blockade appears while the run goes on: it has been read from before.
    let blocked = checkpoints.join(".tmp-step-00000006");
    fs::write(&blocked, "a file").unwrap();
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    let error = report.unwrap_err();
    let write = matches!(error, TrainError::Checkpoint(CheckpointError::Write { .. }));
    assert!(
        write && error.to_string().contains("step-00000006"),
        "{error}"
    );
    assert_eq!(heard.steps.last().unwrap().step, 6, "the run ends there");
    assert!(!config.output_dir().join("final").exists());
    fs::remove_file(&blocked).unwrap();
    let left = entries(&checkpoints);
    assert_eq!(
        left,
        ["best", "step-00000002", "step-00000004"],
        "nothing half-written"
    );
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
}

#[test]
fn an_output_directory_that_is_a_file_is_an_error() {
    let (directory, config) = directory(Packing::Shuffled, |_| {});
    fs::write(config.output_dir(), "a file").unwrap();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&config.output_dir().display().to_string()),
        "{error}"
    );
    assert_eq!(fs::read(directory.path().join("run")).unwrap(), b"a file");
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.keep_last = 2;
        config.checkpoint.every = 1;
        config.checkpoint.keep_best = false;
    });
    run(&config, None, None).0.unwrap();
    assert_eq!(
        entries(&config.output_dir().join("checkpoints")),
        ["step-00000007", "step-00000008"]
    );

    // A rate that spoils the model after its second step: the best is an early one.
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.keep_last = 1;
        config.checkpoint.every = 1;
        config.eval.every = 2;
        config.optimizer.learning_rate = 3.0;
        config.lr_scheduler.warmup_steps = 7;
        config.training.max_grad_norm = 0.0;
    });
    let (report, heard) = run(&config, None, None);
    report.unwrap();
    let best = heard
        .evals
        .iter()
        .min_by(|a, b| a.loss.total_cmp(&b.loss))
        .unwrap()
        .step;
    assert!(best < 8, "{:?}", heard.evals);
    let best = format!("step-{best:08}");
    let checkpoints = config.output_dir().join("checkpoints");
    let newest = ["best", &best, "step-00000008"];
    let mut left = entries(&checkpoints);
    assert!(
        newest
            .iter()
            .all(|name| left.iter().any(|there| there == name)),
        "{left:?}"
    );
    left.retain(|name| !newest.contains(&&**name));
    // At such a rate the last step may be lost itself: the last good one is kept beside it then.
    let last = heard.steps.last().unwrap();
    let is_lost = !(last.loss.is_finite() && last.grad_norm.is_finite());
    assert!(left.len() <= usize::from(is_lost), "{left:?}");
    assert_eq!(
        fs::read_to_string(checkpoints.join("best")).unwrap().trim(),
        best
    );
    assert_eq!(
        store(&config).load(8).unwrap().best_step,
        best[5..].parse::<u64>().unwrap()
    );
}

/// With one checkpoint kept, going back to an older one must not cost that one.
#[test]
fn going_back_keeps_what_is_written_anew() {
    let (_directory, mut config) = stopped();
    edit(&store(&config).path(4).join("model.bpk"), |bytes| {
        bytes[100] ^= 1
    });
    config.checkpoint.keep_last = 1;
    config.checkpoint.keep_best = false;
    config.checkpoint.every = 1;
    run(&config, Some(Resume::Latest), Some(3)).0.unwrap();
    // Not the damaged one of step 4; and the one before as long as no step has shown the new to be good.
    assert_eq!(store(&config).steps(), [2, 3]);
    assert_eq!(store(&config).latest().unwrap().0.step, 3);
}
