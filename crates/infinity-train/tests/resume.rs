//! A run that was stopped goes on as if nothing had happened, and only from what is whole.

mod common;

use common::{config, metrics, run};
use infinity_train::checkpoint::{CheckpointStore, TrainerState};
use infinity_train::config::{OptimizerName, RunConfig};
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole model, byte by byte, and everything the run logged but times.
fn result(directory: &TempDir) -> (Vec<u8>, Vec<Value>) {
    let run = directory.path().join("run");
    (fs::read(run.join("final/model.safetensors")).unwrap(), metrics(&run))
}

/// A directory with a run of `change`d configuration, and that configuration.
fn directory(packing: Packing, change: impl Fn(&mut RunConfig)) -> (TempDir, RunConfig) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), packing);
    change(&mut config);
    (directory, config)
}

/// Eight steps in one go, and four and four: bit by bit the same model and the same losses.
fn goes_on_exactly(packing: Packing, change: impl Fn(&mut RunConfig)) {
    let (whole, config) = directory(packing, &change);
    run(&config, None, None).0.unwrap();
    let (parts, config) = directory(packing, &change);
    let (first, _) = run(&config, None, Some(4));
    let first = first.unwrap();
    assert_eq!((first.step, first.interrupted), (4, true));
    assert!(!parts.path().join("run/final").exists(), "not finished yet");
    let (second, heard) = run(&config, Some(Resume::Latest), None);
    let second = second.unwrap();
    assert_eq!((second.step, second.interrupted), (8, false));
    let steps: Vec<u64> = heard.steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, [5, 6, 7, 8]);
    let ((model, lines), (parts_model, parts_lines)) = (result(&whole), result(&parts));
    assert_eq!(lines.len(), 10, "eight steps and two validations: {lines:?}");
    assert_eq!(parts_lines, lines, "{packing:?}");
    assert!(parts_model == model, "{packing:?}: the models differ");
}

#[test]
fn random_windows_go_on_exactly() {
    goes_on_exactly(Packing::Random, |_| {});
}

#[test]
fn shuffled_windows_go_on_exactly() {
    goes_on_exactly(Packing::Shuffled, |config| config.optimizer.name = OptimizerName::Muon);
}

#[test]
fn documents_go_on_exactly() {
    goes_on_exactly(Packing::Documents, |config| config.model.hidden_dropout_prob = 0.1);
}

#[test]
fn contiguous_windows_go_on_exactly() {
    goes_on_exactly(Packing::Contiguous, |config| {
        config.training.gradient_accumulation_steps = 2;
    });
}

#[test]
fn a_stream_goes_on_with_what_it_remembers() {
    for packing in [Packing::Contiguous, Packing::Documents] {
        goes_on_exactly(packing, |config| config.data.stateful = true);
    }
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

/// A run stopped after step 4, with checkpoints of the steps 2 and 4.
fn stopped() -> (TempDir, RunConfig) {
    let (directory, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, Some(4)).0.unwrap();
    assert_eq!(store(&config).steps(), [2, 4]);
    (directory, config)
}

fn store(config: &RunConfig) -> CheckpointStore {
    CheckpointStore::new(config.output_dir().join("checkpoints"))
}

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Every kind of damage to a checkpoint: its name, the file that is named, and how it is made.
type Damage = (&'static str, &'static str, fn(&Path));

const DAMAGES: [Damage; 7] = [
    ("no COMPLETE", "step-00000004", |dir| fs::remove_file(dir.join("COMPLETE")).unwrap()),
    ("half a model", "model.bpk", |dir| {
        edit(&dir.join("model.bpk"), |bytes| bytes.truncate(bytes.len() / 2));
    }),
    ("no optimizer", "optim.bpk", |dir| fs::remove_file(dir.join("optim.bpk")).unwrap()),
    ("a flipped bit", "optim.bpk", |dir| {
        edit(&dir.join("optim.bpk"), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }),
    ("another state", "trainer_state.json", |dir| {
        edit(&dir.join("trainer_state.json"), |bytes| bytes.push(b' '));
    }),
    ("an empty list", "COMPLETE", |dir| fs::write(dir.join("COMPLETE"), "{}").unwrap()),
    ("half a list", "COMPLETE", |dir| {
        edit(&dir.join("COMPLETE"), |bytes| bytes.truncate(bytes.len() / 2));
    }),
];

/// A damaged checkpoint is never loaded: by name it is refused, and the one before it is taken
/// instead. The run then ends as it would have.
#[test]
fn a_damaged_checkpoint_is_never_loaded() {
    let (whole, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    for (name, file, damage) in DAMAGES {
        let (directory, config) = stopped();
        let checkpoint = store(&config).path(4);
        damage(&checkpoint);
        for resume in [Resume::Step(4), Resume::Directory(checkpoint.clone())] {
            let error = run(&config, Some(resume), None).0.unwrap_err().to_string();
            assert!(error.contains(file), "{name}: {error}");
        }
        assert!(!directory.path().join("run/final").exists(), "{name}");
        let (report, heard) = run(&config, Some(Resume::Latest), None);
        assert_eq!(report.unwrap().step, 8, "{name}");
        assert_eq!(heard.steps[0].step, 3, "{name}: on from step 2");
        // Without COMPLETE it was never a checkpoint, so nothing is said of it.
        let told = heard.messages.iter().any(|text| text.contains(file) && text.contains("older"));
        assert_eq!(told, name != "no COMPLETE", "{name}: {:?}", heard.messages);
        assert_eq!(result(&directory), result(&whole), "{name}");
        assert_eq!(store(&config).steps(), [2, 4, 6, 8], "{name}");
        store(&config).load(4).unwrap_or_else(|error| panic!("{name} is not made again: {error}"));
    }
}

#[test]
fn what_was_never_finished_is_not_seen_and_goes_away() {
    let (_directory, config) = stopped();
    let checkpoints = config.output_dir().join("checkpoints");
    let half = checkpoints.join(".tmp-step-00000006");
    copy(&store(&config).path(4), &half);
    let odd = checkpoints.join(".tmp-step-00000005");
    fs::create_dir_all(&odd).unwrap();
    fs::write(odd.join("model.bpk"), "half a mod").unwrap();
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, 8);
    assert_eq!(heard.steps[0].step, 5);
    assert!(!half.exists() && !odd.exists());
    for step in [2, 4, 6, 8] {
        assert_eq!(store(&config).load(step).unwrap().step, step);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn with_nothing_whole_there_is_nothing_to_go_on_from() {
    let (_directory, config) = stopped();
    for step in [2, 4] {
        edit(&store(&config).path(step).join("model.bpk"), |bytes| bytes[100] ^= 1);
    }
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    let damaged = matches!(error, TrainError::Checkpoint(CheckpointError::Damaged { .. }));
    assert!(damaged && error.to_string().contains("step-00000004/model.bpk"), "{error}");

    let (_directory, config) = directory(Packing::Shuffled, |_| {});
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint(CheckpointError::None { .. })), "{error}");
    assert!(error.to_string().contains("checkpoints"), "{error}");
    assert!(!config.output_dir().exists(), "nothing half-written");
}

/// A checkpoint of another run is not taken for the one of that step here.
#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let (_one, config) = stopped();
    let (_other, other) = stopped();
    let elsewhere = store(&other).path(4);
    let error = run(&config, Some(Resume::Directory(elsewhere.clone())), None).0.unwrap_err();
    assert!(error.to_string().contains(&elsewhere.display().to_string()), "{error}");
    let (report, _) = run(&config, Some(Resume::Directory(store(&config).path(4))), None);
    assert_eq!(report.unwrap().step, 8);
}

#[test]
fn changed_settings_are_refused_by_name() {
    let (_directory, config) = stopped();
    type Change = fn(&mut RunConfig);
    let changes: [(&str, Change); 9] = [
        ("run.seed", |config| config.run.seed += 1),
        ("model.hidden_size", |config| config.model.hidden_size = 8),
        ("model.num_memory_scales", |config| config.model.num_memory_scales = 1),
        ("tokenizer", |config| config.tokenizer.kind = infinity_train::data::TokenizerKind::Char),
        ("data.packing", |config| config.data.packing = Packing::Random),
        ("data.max_seq_length", |config| config.data.max_seq_length = 8),
        ("training.per_device_train_batch_size", |config| {
            config.training.per_device_train_batch_size = 2;
        }),
        ("optimizer.learning_rate", |config| config.optimizer.learning_rate *= 2.0),
        ("lr_scheduler.warmup_steps", |config| config.lr_scheduler.warmup_steps = 3),
    ];
    for (key, change) in changes {
        let mut changed = config.clone();
        change(&mut changed);
        let error = run(&changed, Some(Resume::Latest), None).0.unwrap_err();
        let is_changed = matches!(error, TrainError::Checkpoint(CheckpointError::Changed { .. }));
        assert!(is_changed && error.to_string().contains(key), "{key}: {error}");
    }
    // How it is watched may change.
    let mut watched = config;
    watched.logging.every = 3;
    watched.checkpoint.every = 3;
    watched.eval.every = 5;
    assert_eq!(run(&watched, Some(Resume::Latest), None).0.unwrap().step, 8);
}

/// A text that is another one now is not what the checkpoint learned from.
#[test]
fn a_run_is_not_overwritten_by_a_new_one() {
    let (_directory, config) = stopped();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(matches!(error, TrainError::OutputExists { .. }), "{error}");
    assert_eq!(store(&config).steps(), [2, 4]);
}

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
    assert!(write && error.to_string().contains("step-00000006"), "{error}");
    assert_eq!(heard.steps.last().unwrap().step, 6, "the run ends there");
    assert!(!config.output_dir().join("final").exists());
    fs::remove_file(&blocked).unwrap();
    let left = entries(&checkpoints);
    assert_eq!(left, ["best", "step-00000002", "step-00000004"], "nothing half-written");
    assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_output_directory_that_is_a_file_is_an_error() {
    let (directory, config) = directory(Packing::Shuffled, |_| {});
    fs::write(config.output_dir(), "a file").unwrap();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(error.to_string().contains(&config.output_dir().display().to_string()), "{error}");
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
    assert_eq!(entries(&config.output_dir().join("checkpoints")), ["step-00000007", "step-00000008"]);

    // A rate that spoils the model after its second step: the best is an early one.
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.keep_last = 1;
        config.checkpoint.every = 1;
        config.eval.every = 2;
        config.optimizer.learning_rate = 3.0;
        config.lr_scheduler.warmup_steps = 8;
        config.training.max_grad_norm = 0.0;
    });
    let (report, heard) = run(&config, None, None);
    report.unwrap();
    let best = heard.evals.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap().step;
    assert!(best < 8, "{:?}", heard.evals);
    let best = format!("step-{best:08}");
    let checkpoints = config.output_dir().join("checkpoints");
    assert_eq!(entries(&checkpoints), ["best", &best, "step-00000008"]);
    assert_eq!(fs::read_to_string(checkpoints.join("best")).unwrap().trim(), best);
    assert_eq!(store(&config).load(8).unwrap().best_step, best[5..].parse::<u64>().unwrap());
}

/// With one checkpoint kept, going back to an older one must not cost that one.
#[test]
fn going_back_keeps_what_is_written_anew() {
    let (_directory, mut config) = stopped();
    edit(&store(&config).path(4).join("model.bpk"), |bytes| bytes[100] ^= 1);
    config.checkpoint.keep_last = 1;
    config.checkpoint.keep_best = false;
    config.checkpoint.every = 1;
    run(&config, Some(Resume::Latest), Some(3)).0.unwrap();
    assert_eq!(store(&config).steps(), [3], "not the damaged one of step 4");
    assert_eq!(store(&config).latest().unwrap().0.step, 3);
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

/// The store alone: a state comes back as it was.
#[test]
fn a_state_is_read_as_it_was_written() {
    let (_directory, config) = stopped();
    let state = store(&config).load(4).unwrap();
    assert_eq!((state.step, state.micro_step, state.tokens, state.skipped), (4, 4, 4 * 4 * 16, 0));
    assert!(state.best_loss.is_some() && state.best_step == 4);
    assert!(state.config.contains("hidden_size = 16"));
    assert_ne!(state, TrainerState::default());
    let none: PathBuf = store(&config).path(5);
    assert!(store(&config).load(5).unwrap_err().to_string().contains(&none.display().to_string()));
}
