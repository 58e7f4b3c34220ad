//! What is not the same run is not gone on with.

use crate::common::run;
use crate::{directory, result, rewrite, stopped, store};
use infinity_train::config::{LrSchedulerType, Precision, RunConfig};
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use std::fs;

/// A checkpoint of another run is not taken for the one of that step here.
#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let (_one, config) = stopped();
    let (_other, other) = stopped();
    let elsewhere = store(&other).path(4);
    let error = run(&config, Some(Resume::Directory(elsewhere.clone())), None)
        .0
        .unwrap_err();
    assert!(
        error.to_string().contains(&elsewhere.display().to_string()),
        "{error}"
    );
    let (report, _) = run(
        &config,
        Some(Resume::Directory(store(&config).path(4))),
        None,
    );
    assert_eq!(report.unwrap().step, 8);
}

#[test]
fn changed_settings_are_refused_by_name() {
    let (_directory, config) = stopped();
    type Change = fn(&mut RunConfig);
    let changes: [(&str, Change); 11] = [
        ("run.seed", |config| config.run.seed += 1),
        ("run.precision", |config| {
            config.run.precision = Precision::Bf16Mixed
        }),
        ("model.hidden_size", |config| config.model.hidden_size = 8),
        ("model.num_memory_scales", |config| {
            config.model.num_memory_scales = 1
        }),
        ("tokenizer", |config| {
            config.tokenizer.kind = infinity_train::data::TokenizerKind::Char
        }),
        ("data.packing", |config| {
            config.data.packing = Packing::Random
        }),
        ("data.max_seq_length", |config| {
            config.data.max_seq_length = 8
        }),
        ("training.per_device_train_batch_size", |config| {
            config.training.per_device_train_batch_size = 2;
        }),
        ("optimizer.learning_rate", |config| {
            config.optimizer.learning_rate *= 2.0
        }),
        // The cosine's shape depends on the length.
        ("training.max_steps", |config| {
            config.training.max_steps = 16
        }),
        ("lr_scheduler.warmup_steps", |config| {
            config.lr_scheduler.warmup_steps = 3
        }),
    ];
    for (key, change) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        let error = run(&changed, Some(Resume::Latest), None).0.unwrap_err();
        let is_changed = matches!(
            error,
            TrainError::Checkpoint(CheckpointError::Changed { .. })
        );
        assert!(
            is_changed && error.to_string().contains(key),
            "{key}: {error}"
        );
    }
    // Of two, the one that was set is named, not the one that follows from it.
    let mut shorter = config.clone();
    shorter.data.max_seq_length = 8;
    shorter.model.max_position_embeddings = 8;
    let error = run(&shorter, Some(Resume::Latest), None).0.unwrap_err();
    assert!(error.to_string().contains("data.max_seq_length"), "{error}");
    // How it is watched may change.
    let mut watched = config;
    watched.logging.every = 3;
    watched.checkpoint.every = 3;
    watched.eval.every = 5;
    assert_eq!(run(&watched, Some(Resume::Latest), None).0.unwrap().step, 8);
}

/// A rate that does not depend on the length of the run lets it be longer.
#[test]
fn a_run_at_a_constant_rate_can_be_made_longer() {
    let constant = |config: &mut RunConfig| {
        config.lr_scheduler.kind = LrSchedulerType::ConstantWithWarmup;
    };
    let (whole, mut config) = directory(Packing::Shuffled, constant);
    config.training.max_steps = 12;
    run(&config, None, None).0.unwrap();
    let (parts, mut config) = directory(Packing::Shuffled, constant);
    run(&config, None, None).0.unwrap();
    config.training.max_steps = 12;
    let report = run(&config, Some(Resume::Latest), None).0.unwrap();
    assert_eq!(report.step, 12);
    assert_eq!(
        result(&parts).0,
        result(&whole).0,
        "as if it had always been so long"
    );
}

/// The refusal of another length says what would have to be otherwise.
#[test]
fn another_length_is_refused_with_its_reason() {
    let (_directory, mut config) = stopped();
    config.training.max_steps = 16;
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    let error = error.to_string();
    for words in [
        "was 8 and is now 16",
        "lr_scheduler.type = \"cosine\"",
        "constant",
    ] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    config.training.max_steps = 8;
    config.optimizer.learning_rate *= 2.0;
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert!(!error.to_string().contains("constant"), "{error}");
}

/// A text is its contents, not its path.
#[test]
fn the_same_text_by_another_path_goes_on() {
    let (whole, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let whole = result(&whole);
    let (directory, mut config) = stopped();
    let file = directory.path().join("./run/../text.jsonl");
    assert_ne!(file.as_os_str(), config.data.train_file.as_os_str());
    config.data.train_file = file;
    run(&config, Some(Resume::Latest), Some(6)).0.unwrap();
    config.data.train_file = directory.path().join("moved.jsonl");
    fs::rename(directory.path().join("text.jsonl"), &config.data.train_file).unwrap();
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
    assert_eq!(result(&directory), whole);
}

/// Other tokens of the same text, as a prepared directory may hold, are another run.
#[test]
fn other_tokens_of_the_same_text_are_refused() {
    let (directory, mut config) = stopped();
    let mut other = config.clone();
    other.data.val_fraction = Some(0.3);
    other.run.output_dir = directory.path().join("other").display().to_string();
    other.data.cache_dir = directory.path().join("prepared");
    run(&other, None, Some(1)).0.unwrap();
    let made = fs::read_dir(&other.data.cache_dir).unwrap();
    let made = made
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("meta.json").exists());
    config.data.train_file = made.expect("a prepared directory");
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert!(error.to_string().contains("data.train_file"), "{error}");
}

/// The same file with another text in it is not what the checkpoint learned from.
#[test]
fn another_text_under_the_same_name_is_refused() {
    let (_directory, config) = stopped();
    let file = &config.data.train_file;
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.replace("foxes", "boxes")).unwrap();
    let error = run(&config, Some(Resume::Latest), None)
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("data.train_file") && error.contains("contents"),
        "{error}"
    );
    fs::write(file, text).unwrap();
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
}

#[test]
fn a_run_is_not_overwritten_by_a_new_one() {
    let (_directory, config) = stopped();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(matches!(error, TrainError::OutputExists { .. }), "{error}");
    assert_eq!(store(&config).steps(), [2, 4]);
}

/// A checkpoint of a version that knew fewer keys goes on: what it lacks are defaults.
#[test]
fn keys_that_are_newer_than_a_checkpoint_are_their_defaults() {
    let resumed_without = |key: &str| {
        let (_directory, config) = stopped();
        rewrite(&store(&config).path(4), "trainer_state.json", |bytes| {
            let mut state: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            let text = state["config"].as_str().unwrap();
            let mut table: toml::Table = text.parse().unwrap();
            let section = table["optimizer"].as_table_mut().unwrap();
            section.remove(key).expect("a key");
            state["config"] = table.to_string().into();
            *bytes = state.to_string().into_bytes();
        });
        run(&config, Some(Resume::Step(4)), None).0
    };
    assert_eq!(resumed_without("muon_momentum").unwrap().step, 8);
    let error = resumed_without("learning_rate").unwrap_err().to_string();
    assert!(
        error.contains("optimizer.learning_rate"),
        "not its default: {error}"
    );
}

/// The text to validate on belongs to the run as the text to learn from does.
#[test]
fn a_changed_validation_text_is_refused() {
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.data.validation_file = config.data.train_file.with_file_name("valid.jsonl");
        config.data.val_fraction = None;
        fs::copy(&config.data.train_file, &config.data.validation_file).unwrap();
    });
    run(&config, None, Some(4)).0.unwrap();
    let valid = &config.data.validation_file;
    let text = fs::read_to_string(valid).unwrap();
    fs::write(valid, text.replacen("foxes", "wolves", 1)).unwrap();
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    let changed = matches!(&error, TrainError::Checkpoint(CheckpointError::Changed { key, .. }) if key == "data.validation_file");
    assert!(changed, "{error}");
    fs::write(valid, text).unwrap();
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
}
