//! Steps that are lost: what a run that loses them keeps, and where it goes on.

use crate::common::{Hook, run, run_with};
use crate::{directory, rewrite, store};
use infinity_kernels::testing::values;
use infinity_model::burn::tensor::Device;
use infinity_model::{LayerState, ModelState};
use infinity_train::config::{LossWatchdog, LrSchedulerType, Precision, RunConfig};
use infinity_train::data::Packing;
use infinity_train::{Resume, TrainError};
use std::fs;
use std::path::Path;

/// Puts something that is not finite into the last parameters of a checkpoint.
fn spoil_model(checkpoint: &Path) {
    rewrite(checkpoint, "model.bpk", |bytes| {
        let end = bytes.len();
        for number in bytes[end - 1024..].chunks_exact_mut(4) {
            number.copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
}

/// And into all that a stream remembers.
fn spoil_stream(checkpoint: &Path) {
    let bytes = fs::read(checkpoint.join("stream.safetensors")).unwrap();
    let mut state = ModelState::from_bytes(&bytes, &Device::flex()).unwrap();
    for layer in &mut state.layers {
        let LayerState::Infinity { memory, tails } = layer else {
            panic!("a layer without memory");
        };
        *memory = memory.clone() * f32::NAN;
        for tail in tails {
            *tail = tail.clone() * f32::NAN;
        }
    }
    let spoiled = state.to_bytes(None).unwrap();
    rewrite(checkpoint, "stream.safetensors", |bytes| {
        *bytes = spoiled.clone()
    });
}

/// A run of four steps whose last checkpoint is not finite; the one before is.
fn spoiled(change: impl Fn(&mut RunConfig)) -> (tempfile::TempDir, RunConfig) {
    let (directory, mut config) = directory(Packing::Shuffled, |config| {
        config.training.max_steps = 30;
        config.checkpoint.every = 1;
        config.checkpoint.keep_last = 2;
        config.checkpoint.keep_best = false;
        config.eval.every = 0;
        change(config);
    });
    run(&config, None, Some(4)).0.unwrap();
    assert_eq!(store(&config).steps(), [3, 4]);
    spoil_model(&store(&config).path(4));
    config.training.loss_watchdog.non_finite_patience = 3;
    (directory, config)
}

/// On the way to the floor of the loss scale every step overflows, and none of them is saved.
#[test]
fn a_run_that_only_overflows_keeps_its_good_checkpoints() {
    let (_directory, config) = spoiled(|config| {
        config.run.precision = Precision::F16Mixed;
        config.training.loss_scale.initial = 64.0;
    });
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    let error = report.unwrap_err();
    assert!(
        matches!(error, TrainError::Diverged { step: 11, .. }),
        "64, 32, … 1 and one more: {error}"
    );
    let error = error.to_string();
    for words in ["bf16-mixed", "good checkpoint is that of step 3", "step 4"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    assert_eq!(heard.steps.len(), 6);
    assert_eq!(store(&config).steps(), [3, 4]);
    // Nor where it is stopped on the way.
    let report = run(&config, Some(Resume::Latest), Some(6)).0.unwrap();
    assert_eq!((report.step, report.saved), (6, Some(4)));
    assert_eq!(store(&config).steps(), [3, 4]);
    // From the one that is named it goes on.
    let report = run(&config, Some(Resume::Step(3)), None).0.unwrap();
    assert_eq!((report.step, report.saved), (30, Some(30)));
}

/// A checkpoint that no finite step has followed is not the good one, and does not cost that one.
#[test]
fn the_good_checkpoint_is_one_that_a_finite_step_has_followed() {
    let (_directory, config) = spoiled(|_| {});
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert!(
        matches!(error, TrainError::Diverged { step: 7, .. }),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("good checkpoint is that of step 3"),
        "{error}"
    );

    // In one session, and with one checkpoint kept: what a step has shown to be good is kept as long
    // as there is nothing newer, and no longer.
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.every = 2;
        config.checkpoint.keep_last = 1;
        config.checkpoint.keep_best = false;
        config.eval.every = 0;
    });
    let (seen, steps) = std::sync::mpsc::channel();
    let there = store(&config);
    let hook = Box::new(move |step| seen.send((step, there.steps())).unwrap());
    run_with(&config, None, None, Some(hook)).0.unwrap();
    let expected: [(u64, &[u64]); 8] = [
        (1, &[]),
        (2, &[]),
        (3, &[2]),
        (4, &[2]),
        (5, &[4]),
        (6, &[4]),
        (7, &[6]),
        (8, &[6]),
    ];
    let seen: Vec<_> = steps.iter().collect();
    let seen: Vec<(u64, &[u64])> = seen.iter().map(|(step, all)| (*step, &all[..])).collect();
    assert_eq!(seen, expected);
    assert_eq!(store(&config).steps(), [8], "validated at the end");
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.every = 2;
        config.checkpoint.keep_last = 1;
        config.checkpoint.keep_best = false;
    });
    run(&config, None, Some(6)).0.unwrap();
    assert_eq!(store(&config).steps(), [4, 6], "nothing has followed 6");
}

/// `non_finite_patience` is what ends a run without a threshold; with one, `patience` does.
#[test]
fn the_watchdog_says_how_many_steps_may_be_lost() {
    let lost_at = |watchdog: LossWatchdog| {
        let (_directory, mut config) = spoiled(|_| {});
        config.training.loss_watchdog = watchdog;
        match run(&config, Some(Resume::Latest), None).0 {
            Err(TrainError::Diverged { step, .. }) => step,
            other => panic!("{other:?}"),
        }
    };
    let watchdog = LossWatchdog::default();
    assert_eq!(watchdog.non_finite_patience, 100);
    let patient = |threshold, patience, non_finite_patience| LossWatchdog {
        threshold,
        patience,
        non_finite_patience,
    };
    assert_eq!(lost_at(patient(0.0, 3, 5)), 9);
    assert_eq!(lost_at(patient(100.0, 2, 5)), 6);
    assert_eq!(lost_at(watchdog), 30, "at the end of the run at last");
}

/// A scale that is too high for all steps of a run leaves nothing learned.
#[test]
fn a_run_of_which_every_step_overflowed_has_not_ended_well() {
    for stale in [0, 2] {
        let (_directory, config) = directory(Packing::Shuffled, |config| {
            config.run.precision = Precision::F16Mixed;
            config.training.loss_scale.initial = 2f64.powi(60);
            config.checkpoint.every = 1;
            config.eval.every = 1;
            config.eval.early_stopping_patience = stale;
        });
        let (report, heard) = run(&config, None, None);
        let error = report.unwrap_err();
        assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("every step") && error.contains("there is no checkpoint"),
            "{error}"
        );
        assert!(
            heard
                .steps
                .iter()
                .all(|step| step.loss.is_some_and(f64::is_finite))
        );
        assert!(store(&config).steps().is_empty());
        assert!(!config.output_dir().join("final").exists());
    }
}

/// A step from a state that is not finite is left out, and the run goes on: it costs the rows what
/// they remembered, and nothing else.
#[test]
fn one_step_that_is_not_finite_changes_nothing() {
    let began = || {
        let (directory, mut config) = directory(Packing::Contiguous, |config| {
            config.data.stateful = true;
            config.lr_scheduler.kind = LrSchedulerType::ConstantWithWarmup;
            config.checkpoint.every = 1;
            config.training.max_steps = 4;
        });
        run(&config, None, None).0.unwrap();
        let model = config.output_dir().join("final/model.safetensors");
        let weights = fs::read(&model).unwrap();
        config.training.max_steps = 5;
        (directory, config, model, weights)
    };
    // Without anything wrong the fifth step learns.
    let (_directory, config, model, weights) = began();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    assert!(fs::read(&model).unwrap() != weights, "a step that learns");

    let (_directory, mut config, model, weights) = began();
    spoil_stream(&store(&config).path(4));
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, 5);
    assert!(!heard.steps[0].loss.is_some_and(f64::is_finite));
    assert_eq!(heard.steps[0].skipped, 1);
    assert!(fs::read(&model).unwrap() == weights, "weights unchanged");
    let state = store(&config).load(5).unwrap();
    assert_eq!((state.skipped, state.lost_in_a_row), (1, 1));
    let checkpoints = store(&config);
    let stream = |step| checkpoints.stream(step, &Device::flex()).unwrap();
    assert!(stream(5).is_none(), "what was not finite is forgotten");

    config.training.max_steps = 7;
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    report.unwrap();
    for step in &heard.steps {
        assert!(step.loss.is_some_and(f64::is_finite) && step.grad_norm.is_finite());
        assert_eq!(step.skipped, 1, "counted once");
    }
    let state = stream(7).expect("a stream again");
    for layer in state.layers {
        let LayerState::Infinity { memory, tails } = layer else {
            panic!("a layer without memory");
        };
        assert!(values(memory).iter().all(|x| x.is_finite()));
        assert!(tails.into_iter().flat_map(values).all(|x| x.is_finite()));
    }
    let in_two = fs::read(&model).unwrap();
    assert!(in_two != weights, "it learns again");

    // The same in one session, which saves nothing at the lost step.
    let (_directory, mut config, model, _) = began();
    spoil_stream(&store(&config).path(4));
    config.training.max_steps = 7;
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    report.unwrap();
    let finite: Vec<bool> = heard
        .steps
        .iter()
        .map(|step| step.loss.is_some_and(f64::is_finite))
        .collect();
    assert_eq!(finite, [false, true, true]);
    assert_eq!(store(&config).steps(), [1, 2, 3, 4, 6, 7]);
    assert!(fs::read(&model).unwrap() == in_two, "the same run");
}

/// The best validation may fall on a step that was left out: the weights it saw are saved all the same.
#[test]
fn the_best_of_a_step_that_was_left_out_is_kept() {
    let (_directory, config) = directory(Packing::Contiguous, |config| {
        config.data.stateful = true;
        config.lr_scheduler.kind = LrSchedulerType::ConstantWithWarmup;
        config.checkpoint.every = 0;
        config.eval.every = 5;
    });
    run(&config, None, Some(4)).0.unwrap();
    spoil_stream(&store(&config).path(4));
    let checkpoints = store(&config);
    let hook: Hook = Box::new(move |step| {
        if step == 6 {
            assert_eq!(checkpoints.best(), Some(5));
            assert_eq!(checkpoints.load(5).unwrap().skipped, 1);
        }
    });
    let (report, heard) = run_with(&config, Some(Resume::Latest), None, Some(hook));
    report.unwrap();
    assert!(!heard.steps[0].loss.is_some_and(f64::is_finite));
    assert!(heard.evals[0].best && heard.evals[0].step == 5);
}
