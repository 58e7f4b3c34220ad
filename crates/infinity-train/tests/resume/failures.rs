//! What goes wrong around a run while it runs.

use crate::common::{Hook, run, run_with};
use crate::{directory, entries, result, store};
use infinity_train::config::RunConfig;
use infinity_train::data::Packing;
use infinity_train::{Resume, TrainError};
use std::fs;

/// Somebody tidies up while the run goes on: it says so, and goes on.
#[test]
fn a_checkpoint_directory_that_is_removed_is_made_again() {
    let (whole, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let (parts, config) = directory(Packing::Shuffled, |_| {});
    let checkpoints = config.output_dir().join("checkpoints");
    let (root, hook_root) = (config.output_dir(), config.output_dir());
    let hook: Hook = Box::new(move |step| {
        if step == 5 {
            fs::remove_dir_all(hook_root.join("checkpoints")).unwrap();
        }
    });
    let (report, heard) = run_with(&config, None, None, Some(hook));
    assert_eq!(report.unwrap().step, 8);
    let told = |words: &str| heard.messages.iter().any(|text| text.contains(words));
    assert!(
        told("step-00000004 has been removed"),
        "{:?}",
        heard.messages
    );
    assert_eq!(
        entries(&checkpoints),
        ["best", "step-00000006", "step-00000008"]
    );
    assert_eq!(result(&parts), result(&whole));

    // All of it, this time: the log begins anew, and what follows is there.
    fs::remove_dir_all(&root).unwrap();
    let hook_root = root.clone();
    let hook: Hook = Box::new(move |step| {
        if step == 5 {
            fs::remove_dir_all(&hook_root).unwrap();
        }
    });
    let (report, heard) = run_with(&config, None, None, Some(hook));
    report.unwrap();
    let told = |words: &str| heard.messages.iter().any(|text| text.contains(words));
    assert!(
        told("metrics.jsonl has been removed"),
        "{:?}",
        heard.messages
    );
    assert!(
        fs::read_to_string(root.join("metrics.jsonl"))
            .unwrap()
            .contains("\"step\":8")
    );
    assert_eq!(store(&config).steps(), [6, 8]);
    run(&config, Some(Resume::Latest), None).0.unwrap();
}

/// Data that cannot be read any more costs no step that was learned before.
#[test]
fn a_token_file_that_is_cut_ends_the_run_with_a_checkpoint() {
    let saves_nothing = |config: &mut RunConfig| {
        config.training.max_steps = 40;
        config.checkpoint.every = 0;
        config.eval.every = 0;
    };
    let (whole, config) = directory(Packing::Shuffled, saves_nothing);
    run(&config, None, None).0.unwrap();
    let (parts, config) = directory(Packing::Shuffled, saves_nothing);
    let cache = config.data.cache_dir.clone();
    let hook: Hook = Box::new(move |step| {
        if step == 3 {
            let made = fs::read_dir(&cache).unwrap();
            let files = made.map(|entry| entry.unwrap().path().join("train.bin"));
            let file = files.filter(|file| file.exists()).last().unwrap();
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(64).unwrap();
        }
    });
    let (report, heard) = run_with(&config, None, None, Some(hook));
    let error = report.unwrap_err();
    let last = heard.steps.last().unwrap().step;
    assert!(
        (3..12).contains(&last),
        "some batches were made before: {last}"
    );
    assert!(
        matches!(error, TrainError::DataLost { saved, .. } if saved == last),
        "{error}"
    );
    let error = error.to_string();
    for words in ["train.bin", "64", &format!("step {last}"), "--resume"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    assert_eq!(store(&config).steps(), [last]);
    fs::remove_dir_all(&config.data.cache_dir).unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    assert_eq!(result(&parts), result(&whole), "as if nothing had happened");
}

/// Where a run that is stopped goes on is what its report says.
#[test]
fn a_report_says_what_is_saved() {
    for (every, on_interrupt, saved) in [(0, true, Some(3)), (2, false, Some(2)), (0, false, None)]
    {
        let (_directory, config) = directory(Packing::Shuffled, |config| {
            config.checkpoint.every = every;
            config.checkpoint.save_on_interrupt = on_interrupt;
        });
        let report = run(&config, None, Some(3)).0.unwrap();
        assert!(report.interrupted);
        assert_eq!((report.step, report.saved), (3, saved));
    }
}

/// A checkpoint is the last thing of a step: one that is there has its sample and its log.
#[test]
fn what_a_killed_run_goes_on_from_has_its_sample() {
    let (directory, config) = directory(Packing::Shuffled, |config| {
        config.eval.every = 2;
        config.eval.sample_every = 2;
        config.checkpoint.every = 0;
    });
    let root = directory.path().join("run");
    let samples = root.join("samples");
    let hook: Hook = Box::new(move |step| {
        // The step is reported before its validation: what is saved is of earlier steps.
        for saved in
            infinity_train::checkpoint::CheckpointStore::new(root.join("checkpoints")).steps()
        {
            let sample = samples.join(format!("step-{saved:08}.txt"));
            assert!(sample.is_file(), "step {step}: {}", sample.display());
        }
    });
    run_with(&config, None, None, Some(hook)).0.unwrap();
    assert!(
        !store(&config).steps().is_empty(),
        "the best ones were saved"
    );
}

/// A model that is no longer finite ends the run as lost, not as finished.
#[test]
fn a_model_that_is_not_finite_is_lost() {
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.optimizer.learning_rate = 1e38;
        config.lr_scheduler.warmup_steps = 0;
        config.training.max_grad_norm = 0.0;
        config.checkpoint.every = 1;
    });
    let (report, heard) = run(&config, None, None);
    let error = report.unwrap_err().to_string();
    assert!(error.contains("diverged"), "{error}");
    assert!(
        heard.messages.iter().any(|text| text.contains("left out")),
        "{:?}",
        heard.messages
    );
    assert!(!config.output_dir().join("final").exists());
    assert!(
        store(&config).steps().iter().all(|step| *step < 3),
        "nothing lost is saved"
    );
}

/// Numbers for TensorBoard go into a file for each session.
#[test]
fn every_session_has_its_event_file() {
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.logging.tensorboard = true;
    });
    run(&config, None, Some(4)).0.unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    let files = entries(&config.output_dir().join("tensorboard"));
    assert_eq!(files.len(), 2, "{files:?}");
    for (file, held) in files.iter().zip(["gates/0/half_life_p50", "eval/loss"]) {
        let bytes = fs::read(config.output_dir().join("tensorboard").join(file)).unwrap();
        let found = bytes
            .windows(held.len())
            .any(|part| part == held.as_bytes());
        assert!(found && file.contains("tfevents"), "{file}: {held}");
    }
}
