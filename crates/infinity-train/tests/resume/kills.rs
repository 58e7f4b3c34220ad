//! Runs whose process is killed at any moment go on, and end as if nothing had happened.
//!
//! A process of this test's own trains, over and over from where the last one was killed. It has no
//! device to fall back on (`BURN_DEVICE` names one that this build lacks): whatever is loaded has to be put
//! on the device that was chosen.

use crate::common::{run, text};
use crate::{directory, result, store};
use infinity_kernels::testing::Random;
use infinity_train::Resume;
use infinity_train::config::{LrSchedulerType, OptimizerName, RunConfig};
use infinity_train::data::Packing;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FOLDER: &str = "INFINITY_TEST_KILLED_RUN";

fn killed(config: &mut RunConfig) {
    config.training.max_steps = 30;
    config.lr_scheduler.kind = LrSchedulerType::Cosine;
    config.optimizer.name = OptimizerName::Muon;
    config.data.stateful = true;
    config.eval.every = 5;
    config.eval.sample_every = 10;
    config.checkpoint.every = 3;
    config.checkpoint.keep_last = 2;
    config.logging.tensorboard = true;
}

/// The same run in a folder that is there already.
fn in_folder(folder: &Path) -> RunConfig {
    let mut config = crate::common::config(folder, Packing::Contiguous);
    killed(&mut config);
    config
}

fn process(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "kills::the_run_that_is_killed"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if !cfg!(feature = "cuda") {
        command.env("BURN_DEVICE", "cuda");
    }
    command
}

#[test]
#[ignore = "the process that the others kill"]
fn the_run_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let config = in_folder(Path::new(&folder));
    let report = run(&config, Some(Resume::Latest), None).0.unwrap();
    assert_eq!(report.step, 30);
}

/// Kills processes `kills` times, at moments drawn by `seed`; how many runs came to their end.
fn survives(kills: usize, seed: u64) -> usize {
    let (whole, config) = directory(Packing::Contiguous, killed);
    run(&config, None, None).0.unwrap();
    let whole = result(&whole);
    let ends = |folder: &TempDir| {
        let output = process(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(result(folder).1, whole.1, "other numbers");
        assert!(result(folder).0 == whole.0, "other bits");
        let config = in_folder(folder.path());
        assert!(store(&config).steps().contains(&30));
        assert_eq!(store(&config).load(30).unwrap().micro_step, 30);
    };
    // How long a process takes that nobody kills.
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    ends(&folder);
    let long = began.elapsed().as_secs_f64();
    let (mut random, mut finished) = (Random(seed), 0);
    let mut folder = tempfile::tempdir().unwrap();
    for kill in 0..kills {
        let mut child = process(folder.path()).spawn().unwrap();
        let delay = random.uniform(0.0, 1.1 * long);
        std::thread::sleep(Duration::from_secs_f64(delay));
        match child.try_wait().unwrap() {
            Some(status) => {
                let output = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(status.success(), "after {kill} kills: {said}");
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        // It has come far enough when it is done; the next one begins anew.
        if folder.path().join("run/final/model.safetensors").exists() || kill + 1 == kills {
            ends(&folder);
            finished += 1;
            folder = tempfile::tempdir().unwrap();
        }
    }
    finished
}

#[test]
fn twenty_kills_cost_nothing() {
    assert!(survives(20, 1) > 0);
}

/// The long form, for `cargo test --release --workspace --test resume -- --ignored kills::a_thousand`.
#[test]
#[ignore = "minutes"]
#[allow(clippy::print_stdout, reason = "it says what it tried")]
fn a_thousand_kills_cost_nothing() {
    let finished = survives(1000, 2);
    println!("{finished} runs came to their end, each with the bits of one that nobody killed");
    assert!(finished > 0);
}

/// A validation that takes long is broken off when somebody asks for an end, and done again.
#[test]
fn a_long_validation_is_broken_off_and_done_again() {
    let long = |folder: &TempDir, config: &mut RunConfig| {
        fs::write(folder.path().join("long.txt"), text(3000)).unwrap();
        config.data.train_file = folder.path().join("long.txt");
        config.data.val_fraction = Some(0.9);
        config.training.per_device_eval_batch_size = 1;
        config.training.max_steps = 4;
        config.checkpoint.every = 4;
    };
    let begin = || {
        let (folder, mut config) = directory(Packing::Shuffled, |_| {});
        long(&folder, &mut config);
        (folder, config)
    };
    let (whole, config) = begin();
    let (report, heard) = run(&config, None, None);
    let seconds = report.unwrap().eval.expect("validated").seconds;
    assert_eq!(heard.evals.len(), 1);
    if seconds < 1.0 {
        // A machine so fast that nothing is long.
        return;
    }
    let (parts, config) = begin();
    let (report, heard) = run(&config, None, Some(4));
    let report = report.unwrap();
    assert!(report.interrupted && report.eval.is_none() && heard.evals.is_empty());
    assert_eq!((report.step, report.saved), (4, Some(4)));
    assert!(store(&config).load(4).unwrap().validation_owed);
    assert!(!config.output_dir().join("final").exists());
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, 4);
    assert_eq!((heard.steps.len(), heard.evals.len()), (0, 1));
    assert_eq!(result(&parts), result(&whole));
    let state = store(&config).load(4).unwrap();
    assert!(!state.validation_owed && state.best_loss.is_some());
    assert_eq!(store(&config).best(), Some(4));
}
