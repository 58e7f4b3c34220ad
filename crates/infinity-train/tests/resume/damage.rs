//! Damaged, half-written and missing checkpoints.

use crate::common::run;
use crate::{copy, directory, edit, result, stopped, store};
use infinity_train::checkpoint::TrainerState;
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use std::fs;
use std::path::Path;

/// Every kind of damage to a checkpoint: its name, the file that is named, and how it is made.
type Damage = (&'static str, &'static str, fn(&Path));

const DAMAGES: [Damage; 7] = [
    ("no COMPLETE", "step-00000004", |dir| {
        fs::remove_file(dir.join("COMPLETE")).unwrap()
    }),
    ("half a model", "model.bpk", |dir| {
        edit(&dir.join("model.bpk"), |bytes| {
            bytes.truncate(bytes.len() / 2)
        });
    }),
    ("no optimizer", "optim.bpk", |dir| {
        fs::remove_file(dir.join("optim.bpk")).unwrap()
    }),
    ("a flipped bit", "optim.bpk", |dir| {
        edit(&dir.join("optim.bpk"), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }),
    ("another state", "trainer_state.json", |dir| {
        edit(&dir.join("trainer_state.json"), |bytes| bytes.push(b' '));
    }),
    ("an empty list", "COMPLETE", |dir| {
        fs::write(dir.join("COMPLETE"), "{}").unwrap()
    }),
    ("half a list", "COMPLETE", |dir| {
        edit(&dir.join("COMPLETE"), |bytes| {
            bytes.truncate(bytes.len() / 2)
        });
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
        let told = heard
            .messages
            .iter()
            .any(|text| text.contains(file) && text.contains("older"));
        assert_eq!(told, name != "no COMPLETE", "{name}: {:?}", heard.messages);
        assert_eq!(result(&directory), result(&whole), "{name}");
        assert_eq!(store(&config).steps(), [2, 4, 6, 8], "{name}");
        store(&config)
            .load(4)
            .unwrap_or_else(|error| panic!("{name} is not made again: {error}"));
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

#[test]
fn with_nothing_whole_there_is_nothing_to_go_on_from() {
    let (_directory, config) = stopped();
    for step in [2, 4] {
        edit(&store(&config).path(step).join("model.bpk"), |bytes| {
            bytes[100] ^= 1
        });
    }
    let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
    let damaged = matches!(
        error,
        TrainError::Checkpoint(CheckpointError::Damaged { .. })
    );
    assert!(
        damaged && error.to_string().contains("step-00000004/model.bpk"),
        "{error}"
    );

    let (_directory, config) = directory(Packing::Shuffled, |_| {});
    let error = run(&config, Some(Resume::Step(2)), None).0.unwrap_err();
    assert!(
        matches!(error, TrainError::Checkpoint(CheckpointError::None { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("checkpoints"), "{error}");
    assert!(!config.output_dir().exists(), "nothing half-written");
}

/// The store alone: a state comes back as it was.
#[test]
fn a_state_is_read_as_it_was_written() {
    let (_directory, config) = stopped();
    let state = store(&config).load(4).unwrap();
    assert_eq!(
        (state.step, state.micro_step, state.tokens, state.skipped),
        (4, 4, 4 * 4 * 16, 0)
    );
    assert!(state.best_loss.is_some() && state.best_step == 4);
    assert!(state.config.contains("hidden_size = 16"));
    assert_ne!(state, TrainerState::default());
    let none = store(&config).load(5).unwrap_err().to_string();
    assert!(none.contains("step 5") && none.contains("2, 4"), "{none}");
}
