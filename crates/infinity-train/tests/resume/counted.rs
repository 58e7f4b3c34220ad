//! What the loop counts goes on with the run: early stopping, the watchdog, the time.

use crate::common::run;
use crate::{directory, entries, rewrite, store};
use infinity_train::config::{LossWatchdog, RunConfig};
use infinity_train::data::Packing;
use infinity_train::model_dir::find;
use infinity_train::{Resume, TrainError};
use std::fs;

/// A rate that spoils the model after its second step, validated every step: the loss rises.
fn rising(config: &mut RunConfig) {
    config.optimizer.learning_rate = 3.0;
    config.lr_scheduler.warmup_steps = 7;
    config.training.max_grad_norm = 0.0;
    config.eval.every = 1;
    config.eval.early_stopping_patience = 3;
}

/// Whether the run stands for the model that it finished with.
fn is_finished(config: &RunConfig) -> bool {
    let found = find(config.run.output_dir.as_ref()).unwrap();
    found.directory().is_some()
}

#[test]
fn early_stopping_counts_on() {
    let (_directory, config) = directory(Packing::Shuffled, rising);
    let (report, heard) = run(&config, None, None);
    let whole = report.unwrap().step;
    let losses: Vec<f64> = heard.evals.iter().map(|eval| eval.report.loss).collect();
    assert!(whole < 8, "it stops early: {losses:?}");
    assert_eq!(store(&config).load(whole).unwrap().stale_evals, 3);
    assert!(is_finished(&config), "before its last step, and by itself");

    // Interrupted in the middle of the count.
    let (_directory, config) = directory(Packing::Shuffled, rising);
    run(&config, None, Some(whole - 1)).0.unwrap();
    assert_eq!(store(&config).load(whole - 1).unwrap().stale_evals, 2);
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, whole);
    assert!(
        heard
            .messages
            .iter()
            .any(|text| text.contains("stopped early"))
    );

    // A run that had stopped early does not learn more.
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!((report.unwrap().step, heard.steps.len()), (whole, 0));
    let mut patient = config;
    patient.eval.early_stopping_patience = 0;
    assert_eq!(run(&patient, Some(Resume::Latest), None).0.unwrap().step, 8);
}

#[test]
fn the_watchdog_counts_on() {
    let (_directory, mut config) = directory(Packing::Shuffled, |_| {});
    config.training.loss_watchdog = LossWatchdog {
        threshold: 0.001,
        patience: 6,
        ..LossWatchdog::default()
    };
    let error = run(&config, None, None).0.unwrap_err();
    assert!(
        matches!(error, TrainError::Diverged { step: 6, .. }),
        "{error}"
    );
    // While steps are lost nothing is saved: what is kept is from before.
    assert!(store(&config).steps().is_empty());

    let (_directory, mut config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, Some(4)).0.unwrap();
    // As if the last three steps of the checkpoint had been lost.
    let checkpoint = store(&config).path(4);
    let state = checkpoint.join("trainer_state.json");
    let text = fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"lost_in_a_row\": 0"), "{text}");
    config.training.loss_watchdog = LossWatchdog {
        threshold: 0.001,
        patience: 2,
        ..LossWatchdog::default()
    };
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert!(
        matches!(error, TrainError::Diverged { step: 6, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("step 4"),
        "where to go on from: {error}"
    );
}

/// A run whose time was over takes no step more.
#[test]
fn time_that_is_over_stays_over() {
    let (_directory, mut config) = directory(Packing::Shuffled, |_| {});
    config.training.max_seconds = 3600;
    run(&config, None, Some(4)).0.unwrap();
    let spent = store(&config).load(4).unwrap().elapsed_s;
    assert!(spent > 0.0);
    // As a checkpoint of a run that had used up its hour.
    rewrite(&store(&config).path(4), "trainer_state.json", |bytes| {
        let mut state: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        state["elapsed_s"] = 3600.5.into();
        *bytes = state.to_string().into_bytes();
    });
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!((report.unwrap().step, heard.steps.len()), (4, 0));
    assert!(heard.messages.iter().any(|text| text.contains("3600 s")));
    assert!(is_finished(&config), "its time was over");
    config.training.max_seconds = 7200;
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
}

/// `best` names a checkpoint that is there, also after a run went back behind it.
#[test]
fn the_note_of_the_best_is_true() {
    let (_directory, mut config) = directory(Packing::Shuffled, |config| {
        config.eval.every = 1;
        config.checkpoint.every = 2;
        config.checkpoint.keep_last = 0;
    });
    run(&config, None, Some(6)).0.unwrap();
    let best = store(&config).best().expect("noted");
    assert!(store(&config).steps().contains(&best) && best > 3, "{best}");
    // From step 2 on, with one checkpoint kept and nothing more validated: the best of then is gone.
    config.checkpoint.keep_last = 1;
    config.checkpoint.every = 1;
    config.eval.every = 8;
    run(&config, Some(Resume::Step(2)), Some(3)).0.unwrap();
    let left = entries(&config.output_dir().join("checkpoints"));
    let steps = store(&config).steps();
    assert!(!steps.contains(&best), "{left:?}");
    match store(&config).best() {
        Some(noted) => assert!(steps.contains(&noted), "{noted} of {left:?}"),
        None => assert!(!left.contains(&"best".to_owned())),
    }
}
