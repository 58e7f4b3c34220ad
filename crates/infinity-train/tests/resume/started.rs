//! `Resume::Latest` starts a run of which nothing is saved, and nothing else.

use crate::common::run;
use crate::{directory, result, stopped, store};
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use std::fs;

#[test]
fn a_run_that_has_saved_nothing_starts_anew() {
    let (whole, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let whole = result(&whole);

    let (parts, config) = directory(Packing::Shuffled, |_| {});
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, 8);
    let told = |text: &String| text.contains("starts anew");
    assert!(heard.messages.iter().any(told), "{:?}", heard.messages);
    assert_eq!(result(&parts), whole);

    // Killed before its first checkpoint: after two steps, or while it was written.
    let (parts, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.save_on_interrupt = false;
        config.checkpoint.every = 4;
        config.eval.sample_every = 1;
        config.logging.tensorboard = true;
    });
    let report = run(&config, None, Some(2)).0.unwrap();
    assert_eq!((report.step, report.saved), (2, None));
    let half = config.output_dir().join("checkpoints/.tmp-step-00000004");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("model.bpk"), "half a mod").unwrap();
    fs::write(config.output_dir().join("run.json.tmp"), "{").unwrap();
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    assert_eq!((report.unwrap().step, heard.steps[0].step), (8, 1));
    assert_eq!(result(&parts), whole);

    // A step and a directory stay what they are.
    let (_parts, config) = directory(Packing::Shuffled, |_| {});
    for resume in [Resume::Step(2), Resume::Directory(store(&config).path(2))] {
        run(&config, Some(resume), None).0.unwrap_err();
        assert!(!config.output_dir().exists());
    }
}

/// Whatever else is there stays there, also where the configuration lets a run be overwritten.
#[test]
fn nothing_is_started_over_anything_else() {
    for (overwrite, name) in [
        (false, "thesis.txt"),
        (true, "thesis.txt"),
        (true, "samples/thesis.txt"),
        (true, "final/model.safetensors"),
        (true, "checkpoints/best"),
        (true, "checkpoints/step-00000004/model.bpk"),
    ] {
        let (_directory, mut config) = directory(Packing::Shuffled, |config| {
            config.checkpoint.save_on_interrupt = false;
        });
        run(&config, None, Some(1)).0.unwrap();
        config.run.overwrite = overwrite;
        let file = config.output_dir().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "mine").unwrap();
        let error = run(&config, Some(Resume::Latest), None).0.unwrap_err();
        let found = matches!(
            &error,
            TrainError::Checkpoint(CheckpointError::None { found: Some(found), .. })
                if file.starts_with(found)
        );
        assert!(found, "{name}: {error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }
    // A configuration that somebody has put where the run is to be.
    let (_directory, config) = directory(Packing::Shuffled, |_| {});
    let file = config.output_dir().join("config.toml");
    fs::create_dir_all(config.output_dir()).unwrap();
    fs::write(&file, "mine").unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// A finished run's directory without its checkpoints is not one of a run that had just begun.
#[test]
fn a_finished_run_is_not_started_anew() {
    let (directory, config) = stopped();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    let whole = result(&directory);
    fs::remove_dir_all(config.output_dir().join("checkpoints")).unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap_err();
    assert_eq!(result(&directory), whole);
}
