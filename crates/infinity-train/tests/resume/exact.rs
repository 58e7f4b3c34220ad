//! Stopped and resumed is bit by bit the same as never stopped.

use crate::common::{metrics, run};
use crate::{directory, result};
use infinity_train::Resume;
use infinity_train::config::{OptimizerName, Precision, RunConfig};
use infinity_train::data::{InitialState, Packing};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Eight steps in one go, and four and four with another number of threads that prepare batches:
/// bit by bit the same model and the same losses.
fn goes_on_exactly(packing: Packing, change: impl Fn(&mut RunConfig)) {
    let (whole, config) = directory(packing, &change);
    run(&config, None, None).0.unwrap();
    let (parts, config) = directory(packing, &change);
    let (first, _) = run(&config, None, Some(4));
    let first = first.unwrap();
    assert_eq!((first.step, first.interrupted), (4, true));
    assert!(!parts.path().join("run/final").exists(), "not finished yet");
    let mut with_threads = config.clone();
    with_threads.data.num_workers = 3;
    let (second, heard) = run(&with_threads, Some(Resume::Latest), None);
    let second = second.unwrap();
    assert_eq!((second.step, second.interrupted), (8, false));
    let steps: Vec<u64> = heard.steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, [5, 6, 7, 8]);
    let ((model, lines), (parts_model, parts_lines)) = (result(&whole), result(&parts));
    assert_eq!(
        lines.len(),
        10,
        "eight steps and two validations: {lines:?}"
    );
    assert_eq!(parts_lines, lines, "{packing:?}");
    assert!(parts_model == model, "{packing:?}: the models differ");
}

#[test]
fn random_windows_go_on_exactly() {
    goes_on_exactly(Packing::Random, |_| {});
}

#[test]
fn shuffled_windows_go_on_exactly() {
    goes_on_exactly(Packing::Shuffled, |config| {
        config.optimizer.name = OptimizerName::Muon
    });
}

#[test]
fn documents_go_on_exactly() {
    goes_on_exactly(Packing::Documents, |config| {
        config.model.hidden_dropout_prob = 0.1
    });
}

#[test]
fn packed_documents_go_on_exactly() {
    goes_on_exactly(Packing::Packed, |_| {});
}

#[test]
fn contiguous_windows_go_on_exactly() {
    goes_on_exactly(Packing::Contiguous, |config| {
        config.training.gradient_accumulation_steps = 2;
    });
}

#[test]
fn a_stream_goes_on_with_what_it_remembers() {
    for packing in [Packing::Contiguous, Packing::Documents, Packing::Packed] {
        goes_on_exactly(packing, |config| config.data.stateful = true);
    }
}

/// Which numbers windows share depends on the step, not on where a run was interrupted.
#[test]
fn numbers_that_windows_share_go_on_exactly() {
    let hiding = |config: &mut RunConfig| {
        config.data.stateful = true;
        config.data.max_seq_length = 128;
        config.model.max_position_embeddings = 128;
        config.training.per_device_train_batch_size = 2;
        config.data.needle_fraction = 1.0;
    };
    goes_on_exactly(Packing::Contiguous, hiding);
    let losses = |change: &dyn Fn(&mut RunConfig)| {
        let (directory, config) = directory(Packing::Contiguous, change);
        run(&config, None, None).0.unwrap();
        result(&directory).1
    };
    let without = |config: &mut RunConfig| {
        hiding(config);
        config.data.needle_fraction = 0.0;
    };
    assert_ne!(losses(&hiding), losses(&without), "they change the run");
}

/// Draws of initial states depend on the step, not on where a run was interrupted.
#[test]
fn a_mixture_of_initial_states_goes_on_exactly() {
    let mixed = |config: &mut RunConfig| {
        config.data.stateful = true;
        config.data.initial_state = InitialState {
            own: None,
            other: 0.4,
            zero: 0.3,
            last_fraction: 0.0,
        };
    };
    for packing in [Packing::Contiguous, Packing::Documents, Packing::Packed] {
        goes_on_exactly(packing, mixed);
    }
    let losses = |change: &dyn Fn(&mut RunConfig)| {
        let (directory, config) = directory(Packing::Contiguous, change);
        run(&config, None, None).0.unwrap();
        result(&directory).1
    };
    let own = losses(&|config| config.data.stateful = true);
    assert_ne!(losses(&mixed), own, "the mixture changes the run");
}

/// The last steps start from other rows' states, also where the run is left in between; before them
/// nothing is changed.
#[test]
fn states_that_are_passed_on_go_on_exactly() {
    // Left before the first of them, on it, and between them.
    for fraction in [0.375, 0.5, 0.75] {
        let passing = |config: &mut RunConfig| config.data.initial_state.last_fraction = fraction;
        goes_on_exactly(Packing::Shuffled, passing);
    }
    let losses = |change: &dyn Fn(&mut RunConfig)| {
        let (directory, config) = directory(Packing::Shuffled, change);
        run(&config, None, None).0.unwrap();
        let rows = result(&directory).1.into_iter();
        let steps = rows.filter_map(|row| row.get("train/loss")?.as_f64());
        steps.collect::<Vec<f64>>()
    };
    let alone = losses(&|_| {});
    let passed = losses(&|config| config.data.initial_state.last_fraction = 0.5);
    let (left, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let files = walk(&left.path().join("run/checkpoints"));
    assert!(!files.is_empty() && !files.iter().any(|name| name.contains("stream")));
    assert_eq!(
        passed[..4],
        alone[..4],
        "the first four steps are what they were"
    );
    assert!(
        passed[4] != alone[4] && passed[5] != alone[5],
        "the fifth starts from a state"
    );
}

/// Names of all files below a directory.
fn walk(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let names = entries.map(|path| match path.is_dir() {
        true => walk(&path),
        false => vec![path.display().to_string()],
    });
    names.flatten().collect()
}

#[test]
fn cautious_weight_decay_goes_on_exactly() {
    for name in [OptimizerName::Adamw, OptimizerName::Muon] {
        let decaying = |cautious| {
            move |config: &mut RunConfig| {
                config.optimizer.name = name;
                config.optimizer.weight_decay = 0.5;
                config.optimizer.cautious_weight_decay = cautious;
            }
        };
        goes_on_exactly(Packing::Shuffled, decaying(true));
        let model = |cautious| {
            let (directory, config) = directory(Packing::Shuffled, decaying(cautious));
            run(&config, None, None).0.unwrap();
            result(&directory).0
        };
        assert!(model(true) != model(false), "{name:?}: it changes the run");
    }
}

#[test]
fn half_precision_goes_on_exactly() {
    goes_on_exactly(Packing::Shuffled, |config| {
        config.run.precision = Precision::Bf16Mixed;
        config.optimizer.name = OptimizerName::Muon;
    });
    goes_on_exactly(Packing::Contiguous, |config| {
        config.run.precision = Precision::Bf16True;
        config.data.stateful = true;
    });
}

/// A scale that overflows at first and grows every two steps: it changes on both sides of the cut.
fn scaled(config: &mut RunConfig) {
    config.run.precision = Precision::F16Mixed;
    config.training.loss_scale.initial = 2f64.powi(20);
    config.training.loss_scale.growth_interval = 2;
}

#[test]
fn the_loss_scale_goes_on_exactly() {
    goes_on_exactly(Packing::Shuffled, scaled);
}

/// What the comparison would say of a scale that is counted differently after the interruption.
#[test]
fn another_count_of_good_steps_is_caught() {
    let (whole, config) = directory(Packing::Shuffled, scaled);
    run(&config, None, None).0.unwrap();
    let (parts, mut config) = directory(Packing::Shuffled, scaled);
    run(&config, None, Some(4)).0.unwrap();
    config.training.loss_scale.growth_interval = 3;
    run(&config, Some(Resume::Latest), None).0.unwrap();
    assert_ne!(result(&parts).1, result(&whole).1);
}

/// What the comparison would say of a state that is not carried over the interruption.
#[test]
fn a_stream_that_forgets_is_caught() {
    let stateful = |config: &mut RunConfig| config.data.stateful = true;
    let (whole, config) = directory(Packing::Contiguous, stateful);
    run(&config, None, None).0.unwrap();
    let (parts, config) = directory(Packing::Contiguous, stateful);
    run(&config, None, Some(4)).0.unwrap();
    let checkpoint = parts.path().join("run/checkpoints/step-00000004");
    fs::remove_file(checkpoint.join("stream.safetensors")).unwrap();
    let (missing, _) = run(&config, Some(Resume::Latest), None);
    missing.unwrap(); // From step 2, whose stream is there: the same again.
    assert_eq!(result(&parts), result(&whole));

    let (parts, config) = directory(Packing::Contiguous, stateful);
    run(&config, None, Some(4)).0.unwrap();
    let checkpoint = parts.path().join("run/checkpoints/step-00000004");
    fs::remove_file(checkpoint.join("stream.safetensors")).unwrap();
    unlist(&checkpoint, "stream.safetensors");
    run(&config, Some(Resume::Latest), None).0.unwrap();
    assert_ne!(result(&parts).1, result(&whole).1);
}

/// Strikes a file off the list of a checkpoint.
fn unlist(checkpoint: &Path, name: &str) {
    let marker = checkpoint.join("COMPLETE");
    let mut marks: Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    marks.as_object_mut().unwrap().remove(name).expect("listed");
    fs::write(&marker, marks.to_string()).unwrap();
}

/// `metrics.jsonl` has every step once, whatever was logged after the checkpoint.
#[test]
fn steps_that_run_again_are_logged_once() {
    let (directory, config) = directory(Packing::Random, |config| {
        config.checkpoint.every = 3;
        config.checkpoint.save_on_interrupt = false;
    });
    run(&config, None, Some(5)).0.unwrap();
    let log = directory.path().join("run/metrics.jsonl");
    let mut text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("\"step\":5"));
    text.push_str("{\"step\":6,\"train/lo"); // Half a line, as a kill leaves it.
    fs::write(&log, text).unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    let lines = metrics(&directory.path().join("run"));
    let steps: Vec<u64> = lines
        .iter()
        .filter(|line| line["train/loss"].is_f64())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8]);
}
