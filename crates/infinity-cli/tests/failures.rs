//! What goes wrong around a run: a full disk, a kill, a damaged file, a model that is lost.
#![cfg(all(feature = "flex", unix))]

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{TINY, command, infinity, shell, with_texts};

const PROGRAM: &str = env!("CARGO_BIN_EXE_infinity");

fn checkpoints(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("run/checkpoints"))
        .into_iter()
        .flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A limit on the size of files stands for the end of a disk: writing beyond it is an error.
#[test]
fn a_full_disk_ends_the_run_with_an_error_and_keeps_what_was_saved() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run {TINY} --set model.hidden_size=64 --save-steps 2 \
         --lr-scheduler-type constant"
    );
    infinity(dir.path(), &format!("{line} --max-steps 2")).exits(0);
    assert!(
        fs::metadata(dir.path().join("run/final/model.safetensors"))
            .unwrap()
            .len()
            > 80_000
    );
    let more = format!("{line} --max-steps 6 --resume");
    // 120 blocks are 60 KiB. Without the trap the system would end the program instead.
    let limited = format!("trap '' XFSZ; ulimit -f 120; exec '{PROGRAM}' {more}");
    let full = shell(dir.path(), &limited).exits(1);
    full.says(&["cannot write the checkpoint", "step-00000004"]);
    assert_eq!(
        checkpoints(dir.path()),
        ["best", "step-00000002"],
        "nothing half-written"
    );
    let again = infinity(dir.path(), &more).exits(0);
    assert!(again.out.contains("step 00003/6"), "{}", again.out);
}

/// Killed at any moment, a run goes on from its last complete checkpoint, and ends as one that was
/// never killed.
#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let dir = with_texts();
    let line = |output: &str| {
        format!(
            "train --train-file train.txt -o {output} --max-steps 40 {TINY} --save-steps 1 \
             --eval-steps 3 --packing shuffled"
        )
    };
    infinity(dir.path(), &line("whole")).exits(0);
    for wait in [40, 90, 160, 250] {
        let resume = if checkpoints(dir.path())
            .iter()
            .any(|name| name.starts_with("step-"))
        {
            "--resume"
        } else {
            "--overwrite"
        };
        let mut child = command(dir.path(), &format!("{} {resume}", line("run")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not before it has begun to learn, else slow machines test nothing.
        let mut first = [0; 1];
        let _ = child.stdout.as_mut().unwrap().read(&mut first).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    infinity(dir.path(), &format!("{} --resume", line("run"))).exits(0);
    let model = |output: &str| fs::read(dir.path().join(output).join("final/model.safetensors"));
    assert!(
        model("run").unwrap() == model("whole").unwrap(),
        "another model"
    );
}

#[test]
fn a_model_that_is_lost_has_the_exit_code_of_divergence() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 6 {TINY} --eval-steps 5 --lr 1e38 \
         --max-grad-norm 0"
    );
    let lost = infinity(dir.path(), &line).exits(3);
    assert!(lost.out.contains("left out"), "{}", lost.out);
    lost.says(&["diverged"]);
    assert!(!dir.path().join("run/final").exists());
}

#[test]
fn a_damaged_token_file_is_named() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    infinity(dir.path(), &line).exits(0);
    let cache = fs::read_dir(dir.path().join(".infinity-cache")).unwrap();
    let prepared: PathBuf = cache.map(|entry| entry.unwrap().path()).next().unwrap();
    let file = prepared.join("train.bin");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 0x40;
    fs::write(&file, bytes).unwrap();
    infinity(dir.path(), &format!("{line} --resume"))
        .exits(1)
        .says(&["train.bin", "damaged"]);
    fs::remove_dir_all(&prepared).unwrap();
    infinity(dir.path(), &format!("{line} --resume")).exits(0);
}
