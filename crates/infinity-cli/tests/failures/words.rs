//! Mistakes and damage, and the words for them.

use super::common::{TINY, infinity, shell, with_model, with_texts};
use super::{PROGRAM, names, prepared};
use std::fs;

#[test]
fn a_missing_step_is_answered_with_those_that_are_there() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 6 {TINY} --save-steps 2 \
         --set checkpoint.keep_last=0"
    );
    infinity(dir.path(), &line).exits(0);
    let made = infinity(dir.path(), &format!("{line} --resume 3")).exits(2);
    assert!(!made.err.contains("overwrite"), "{}", made.err);
    made.says(&["step 3", "2, 4, 6", "checkpoints"]);
    fs::remove_dir_all(dir.path().join("run/checkpoints")).unwrap();
    infinity(dir.path(), &format!("{line} --resume 3"))
        .exits(2)
        .says(&["no complete checkpoint", "run.overwrite"]);
}

#[test]
fn too_many_workers_are_refused() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run {TINY} --set data.num_workers=100000");
    infinity(dir.path(), &line)
        .exits(2)
        .says(&["data.num_workers", "100000", "256"]);
}

#[test]
fn a_run_past_its_end_says_so() {
    let dir = with_texts();
    let line = |steps| {
        format!(
            "train --train-file train.txt -o run --max-steps {steps} {TINY} \
             --lr-scheduler-type constant"
        )
    };
    infinity(dir.path(), &line(6)).exits(0);
    let past = infinity(dir.path(), &format!("{} --resume", line(2))).exits(0);
    assert!(past.out.contains("at step 6, past the 2"), "{}", past.out);
}

#[test]
fn a_full_disk_at_the_end_names_the_model() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 2 {TINY} --set model.hidden_size=64"
    );
    let first = format!("{line} --set checkpoint.export_safetensors=false");
    infinity(dir.path(), &first).exits(0);
    // 120 blocks are 60 KiB; without the trap the system would end the program instead.
    let limited = format!("trap '' XFSZ; ulimit -f 120; exec '{PROGRAM}' {line} --resume");
    let full = shell(dir.path(), &limited).exits(1);
    assert!(!full.err.contains("partial"), "{}", full.err);
    full.says(&["cannot write", "run/final/model.safetensors", "too large"]);
    let left = names(&dir.path().join("run"));
    assert!(!left.iter().any(|name| name.contains("final")), "{left:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn standard_output_that_is_full_is_named() {
    let dir = with_texts();
    let line = format!("'{PROGRAM}' tokenize train.txt -o tokens > /dev/full");
    shell(dir.path(), &line)
        .exits(1)
        .says(&["cannot write to standard output", "No space"]);
}

#[test]
fn texts_that_are_missing_or_too_short_are_named_as_they_were_given() {
    let dir = with_model();
    let missing = infinity(dir.path(), "eval model --file missing.txt").exits(2);
    assert!(!missing.err.contains("train_file"), "{}", missing.err);
    missing.says(&["no file or directory missing.txt"]);
    fs::write(dir.path().join("short.txt"), "too short").unwrap();
    let line = format!("train --train-file train.txt --validation-file short.txt -o run {TINY}");
    let short = infinity(dir.path(), &line);
    assert!(!short.err.contains("val_fraction"), "{}", short.err);
    short.says(&["9 tokens", "a longer `data.validation_file`"]);
}

#[test]
fn damage_says_what_to_do() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    infinity(dir.path(), &line).exits(0);
    let weights = dir.path().join("run/checkpoints/step-00000002/model.bpk");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    infinity(dir.path(), &format!("{line} --resume"))
        .exits(1)
        .says(&["model.bpk is damaged", "its fingerprint is not that"]);
    let prepared = prepared(dir.path());
    fs::remove_file(prepared.join("meta.json")).unwrap();
    infinity(dir.path(), &format!("{line} --overwrite"))
        .exits(1)
        .says(&[
            "meta.json is damaged: it is missing",
            "delete .infinity-cache/",
        ]);
}
