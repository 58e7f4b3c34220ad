//! Steps that are lost: what a run that loses them keeps, and where it goes on.

use crate::common::run;
use crate::{directory, rewrite, store};
use infinity_train::config::{LossWatchdog, RunConfig};
use infinity_train::data::Packing;
use infinity_train::{Resume, TrainError};
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
