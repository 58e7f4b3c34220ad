//! The whole path: train, stop, go on, measure, generate.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{TINY, command, infinity, ran, shell, with_texts};

/// A finished run of two steps in `run`.
fn trained(dir: &Path) {
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    infinity(dir, &line).exits(0);
}

#[test]
fn the_original_projects_line_works_verbatim() {
    let dir = with_texts();
    let line = format!(
        "train --train_file train.txt --validation_file valid.txt --output_dir out --do_train \
         --do_eval --per_device_train_batch_size 8 --per_device_eval_batch_size 8 \
         --learning_rate 5e-5 --num_train_epochs 3 --max_seq_length 1024 --use_rotary_embeddings \
         --use_multi_scale_memory --num_memory_scales 3 --kernel_type elu --max-steps 2 {TINY}"
    );
    let made = infinity(dir.path(), &line).exits(0);
    for words in [
        "step 00001/2",
        "step 00002/2",
        "gnorm",
        "tok/s",
        "validation loss",
        "bits per byte",
    ] {
        assert!(made.out.contains(words), "no {words:?} in\n{}", made.out);
    }
    for file in [
        "final/model.safetensors",
        "final/config.json",
        "final/tokenizer.json",
    ] {
        assert!(dir.path().join("out").join(file).is_file(), "{file}");
    }
    assert_eq!(made.err, "", "nothing noisy");

    // The command it ends with is one that works, as it is typed.
    let last = made.out.lines().last().unwrap().trim();
    assert!(
        last.ends_with("infinity generate out/final -p 'Once upon a time'"),
        "{last}"
    );
    let again = shell(dir.path(), &format!("{last} -n 4 --ignore-eos")).exits(0);
    assert!(again.out.starts_with("Once upon a time"), "{}", again.out);
    for words in [
        "prompt: 16 tokens",
        "decode: 4 tokens",
        "tok/s",
        "state",
        "position 20",
        "seed",
    ] {
        assert!(again.err.contains(words), "no {words:?} in {}", again.err);
    }

    // --do_eval alone measures what was trained.
    let line = line.replace("--do_train", "");
    assert!(infinity(dir.path(), &line).exits(0).out.contains("bpb"));
}

/// Under `cargo run` there is no `infinity` on the PATH.
#[test]
fn a_run_that_cargo_started_ends_with_a_command_of_cargo() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 1 {TINY}");
    let mut under_cargo = command(dir.path(), &line);
    under_cargo
        .env("CARGO", "cargo")
        .env("CARGO_PKG_NAME", "infinity-cli");
    let made = ran(under_cargo).exits(0);
    let last = made.out.lines().last().unwrap().trim();
    assert!(
        last.starts_with("cargo run --release") && last.contains("-- generate run/final -p"),
        "{last}"
    );
}

#[test]
fn a_run_is_not_overwritten_by_accident_and_resumes() {
    let dir = with_texts();
    trained(dir.path());
    let line = format!("train --train-file train.txt -o run {TINY}");
    infinity(dir.path(), &format!("{line} --max-steps 2"))
        .exits(2)
        .says(&["run", "--resume"]);
    let again = infinity(dir.path(), &format!("{line} --max-steps 2 --resume")).exits(0);
    assert!(!again.out.contains("step 0000"), "{}", again.out);
    let other = format!("{line} --max-steps 2 --resume --set model.hidden_size=8");
    infinity(dir.path(), &other)
        .exits(2)
        .says(&["model.hidden_size", "16", "8"]);
    let anew = infinity(dir.path(), &format!("{line} --max-steps 2 --overwrite")).exits(0);
    assert!(anew.out.contains("step 00001/2"), "{}", anew.out);
    let none = infinity(dir.path(), &format!("{line} --max-steps 2 --resume 77"));
    assert!([1, 2].contains(&none.code), "{}", none.code);
    none.says(&["77"]);
}

/// A job that is started again and again has one command: `--resume`, which is `--resume auto`.
#[test]
fn resume_without_a_step_starts_where_nothing_is_saved_and_then_goes_on() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    for (resume, words) in [
        ("--resume", ["the run starts anew", "step 00001/2"]),
        (
            "--resume auto",
            ["going on after step 2", "model in run/final"],
        ),
    ] {
        let made = infinity(dir.path(), &format!("{line} {resume}")).exits(0);
        for words in words {
            assert!(made.out.contains(words), "no {words:?} in {}", made.out);
        }
    }
}

#[test]
fn a_dry_run_says_and_writes_nothing() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 --dry-run {TINY}");
    let made = infinity(dir.path(), &line).exits(0);
    for words in [
        "parameters",
        "64 tokens a step",
        "2 steps",
        "FLOP",
        "ms a step",
        "tok/s",
        "memory    about",
    ] {
        assert!(made.out.contains(words), "no {words:?} in\n{}", made.out);
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_run_on_two_devices_says_so_and_goes_on_with_one() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt {TINY} --lr-scheduler-type constant --set \
         training.per_device_train_batch_size"
    );
    let two = |strategy: &str| {
        format!("{line}=1 --max-steps 2 -o {strategy} --strategy {strategy} --devices flex,flex")
    };
    let told = |line: &str, words: &[&str]| {
        let out = infinity(dir.path(), line).exits(0).out;
        for word in words {
            assert!(out.contains(word), "no {word:?} in\n{out}");
        }
    };
    let announced = ["devices   2 × flex (CPU", "1 rows × 2 devices × 32 tokens"];
    for strategy in ["multi", "ddp"] {
        let two = two(strategy);
        told(&format!("{two} --dry-run"), &announced);
        told(&format!("{two} --dry-run"), &["ms a step", "tok/s"]);
        told(&two, &announced);
        let on = format!("{line}=2 -o {strategy} --max-steps 4 --resume");
        told(
            &on,
            &["device    flex", "going on after step 2", "step 00004/4"],
        );
    }
    let ddp = two("ddp").replace("-o ddp", "-o added");
    told(
        &ddp,
        &["reduction gradients are added up on the main device"],
    );
}

#[test]
fn devices_that_cannot_be_are_named() {
    let dir = with_texts();
    for (flags, words) in [
        (
            "--strategy multi --devices 3",
            &["distributed.devices", "3", "has 1 here"][..],
        ),
        (
            "--strategy multi --devices flex,gpu",
            &["distributed.devices", "`gpu`"],
        ),
        (
            "--devices 2",
            &["distributed.devices", "distributed.strategy"],
        ),
        (
            "--strategy ddp --devices 3",
            &["distributed.devices", "3", "has 1 here"],
        ),
    ] {
        let line = format!("train --train-file train.txt -o run --device flex {flags} {TINY}");
        let failed = infinity(dir.path(), &line).exits(2);
        for word in words {
            assert!(failed.err.contains(word), "no {word:?} in {}", failed.err);
        }
    }
}

#[test]
fn progress_for_programs_is_json() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 --progress json {TINY}");
    let made = infinity(dir.path(), &line).exits(0);
    let events: Vec<serde_json::Value> = made
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let steps = events.iter().filter(|event| event["event"] == "step");
    assert_eq!(steps.filter(|step| step["train/loss"].is_f64()).count(), 2);
    let silent = format!("-q train --train-file train.txt -o quiet --max-steps 1 {TINY}");
    let silent = infinity(dir.path(), &silent).exits(0);
    assert!(!silent.out.contains("step 0"), "{}", silent.out);
}

#[test]
fn a_run_that_is_lost_has_an_exit_code_of_its_own() {
    let dir = with_texts();
    let watchdog = "--set training.loss_watchdog={threshold=0.001,patience=2}";
    let line = format!("train --train-file train.txt -o run --max-steps 9 {TINY} {watchdog}");
    infinity(dir.path(), &line)
        .exits(3)
        .says(&["diverged", "step 2"]);
}

#[test]
fn a_run_is_measured_on_what_it_validated_on() {
    let dir = with_texts();
    trained(dir.path());
    let report = infinity(dir.path(), "eval run --json --max-eval-batches 0")
        .exits(0)
        .out;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let loss = report["loss"].as_f64().unwrap();
    assert!((3.0..7.0).contains(&loss), "{report}");
    assert_eq!(report["window"], 32);
}

#[test]
fn a_run_without_validation_text_is_measured_on_a_file() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 1 --val-fraction 0 {TINY}");
    infinity(dir.path(), &line).exits(0);
    infinity(dir.path(), "eval run")
        .exits(2)
        .says(&["kept none for validation", "--file"]);
    infinity(dir.path(), "eval run --file valid.txt").exits(0);
}

/// A model that got worse after its best checkpoint is not lost: any checkpoint can be used as the
/// finished model can, while the run goes on too.
#[test]
fn checkpoints_are_models() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt --tokenizer char -o run --max-steps 4 --save-steps 2 \
         --eval-steps 2 {TINY}"
    );
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(&infinity(dir.path(), line).exits(0).out).unwrap()
    };
    infinity(dir.path(), &line).exits(0);
    let eval = |model: &str| json(&format!("eval {model} --json"))["loss"].clone();
    let last = eval("run");
    assert_eq!(eval("run/checkpoints/step-00000004"), last);
    assert_eq!(eval("run/checkpoints/step-4/"), last);
    assert_ne!(eval("run/checkpoints/step-2"), last);
    let best = dir.path().join("run/checkpoints/best");
    std::fs::write(&best, "step-00000002\n").unwrap();
    assert_eq!(eval("run/checkpoints/best"), eval("run/checkpoints/step-2"));
    let named = "eval run/checkpoints/best --file valid.txt --json";
    assert!(json(named)["loss"].is_f64());

    let greedy = |model: &str| json(&format!("generate {model} -p line --greedy -n 6 --json"));
    let finished = greedy("run/final");
    // Nothing of the finished model is needed.
    std::fs::remove_dir_all(dir.path().join("run/final")).unwrap();
    assert_eq!(
        greedy("run/checkpoints/step-4")["tokens"],
        finished["tokens"]
    );
    let said = infinity(dir.path(), "generate run/checkpoints/best -p line -n 1").exits(0);
    said.says(&["checkpoint of step 2 of the run in run"]);

    infinity(dir.path(), "generate run -p line")
        .exits(2)
        .says(&["--resume", "run/checkpoints/best"]);
    infinity(dir.path(), "generate run/checkpoints/step-3 -p line")
        .exits(2)
        .says(&["step 3", "2, 4"]);
    std::fs::remove_file(&best).unwrap();
    infinity(dir.path(), "eval run/checkpoints/best")
        .exits(2)
        .says(&["checkpoint.keep_best", "step-00000004"]);
    let tokenizer = dir.path().join("run/tokenizer.json");
    std::fs::rename(&tokenizer, dir.path().join("moved.json")).unwrap();
    infinity(dir.path(), "generate run/checkpoints/step-4 -p line")
        .exits(2)
        .says(&["tokenizer.json", "--resume"]);
    infinity(dir.path(), &format!("{line} --resume")).exits(0);
    assert!(tokenizer.is_file());
    infinity_model::Tokenizer::bytes().save(&tokenizer).unwrap();
    infinity(dir.path(), "generate run/checkpoints/step-4 -p line")
        .exits(2)
        .says(&["not the tokenizer", "step 4"]);
}

/// Ctrl-C, or what a machine sends before it goes down, ends the run with a checkpoint, from which
/// it goes on.
#[test]
#[cfg(unix)]
fn an_interrupt_saves_and_the_run_goes_on() {
    for signal in ["INT", "TERM"] {
        interrupted_by(signal);
    }
}

#[cfg(unix)]
fn interrupted_by(signal: &str) {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 300 {TINY}");
    let mut child = command(dir.path(), &line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = String::new();
    let started = Instant::now();
    while !seen.contains("step 00003") {
        let mut piece = [0; 4096];
        let n = out.read(&mut piece).unwrap();
        seen.push_str(&String::from_utf8_lossy(&piece[..n]));
        assert!(
            n > 0 && started.elapsed() < Duration::from_secs(60),
            "{seen}"
        );
    }
    let sent = std::process::Command::new("sh")
        .args(["-c", &format!("kill -{signal} {}", child.id())])
        .status()
        .unwrap();
    assert!(sent.success());
    // Reading on keeps the pipe from filling.
    out.read_to_string(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{seen}");
    let last = |text: &str| {
        text.lines()
            .rfind(|line| line.starts_with("step "))
            .map(str::to_owned)
    };
    let stopped = last(&seen).unwrap()[5..10].parse::<u64>().unwrap();
    assert!(stopped < 300, "{seen}");
    let more = infinity(dir.path(), &format!("{line} --resume")).exits(0);
    let first = more
        .out
        .lines()
        .find(|line| line.starts_with("step "))
        .unwrap();
    assert_eq!(
        first[5..10].parse::<u64>().unwrap(),
        stopped + 1,
        "{}",
        more.out
    );
    assert!(
        last(&more.out).unwrap().starts_with("step 00300/300"),
        "{}",
        more.out
    );
}
