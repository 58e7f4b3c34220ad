//! What is written and kept, and what happens when it cannot be.

use crate::common::run;
use crate::{directory, edit, entries, result, stopped, store};
use infinity_files::faults::{Fault, inject};
use infinity_train::config::{LrSchedulerType, RunConfig};
use infinity_train::data::Packing;
use infinity_train::{CheckpointError, Resume, TrainError};
use std::fs;
use std::io::ErrorKind;

/// A disk that is full at any one write of a session, from its first change to its last: the run ends with
/// an error that names the checkpoint, or goes on with what it could do without; nothing half-written has a
/// checkpoint's name, and the run goes on from there as if nothing had happened.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_with_an_error() {
    let (whole, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let mut refused = 0;
    for n in 0.. {
        let (parts, config) = stopped();
        let checkpoints = config.output_dir().join("checkpoints");
        let full = inject(&checkpoints, n, Fault::Error(ErrorKind::StorageFull));
        let (report, heard) = run(&config, Some(Resume::Latest), None);
        let happened = full.happened();
        drop(full);
        if let Err(error) = report {
            refused += 1;
            let write = matches!(error, TrainError::Checkpoint(CheckpointError::Write { .. }));
            let step = heard.steps.last().unwrap().step;
            let named = error.to_string().contains(&format!("step-{step:08}"));
            assert!(write && named && step % 2 == 0, "change {n}: {error}");
            assert!(!config.output_dir().join("final").exists());
        }
        let left = entries(&checkpoints);
        let whole_ones = left.iter().filter(|name| *name != "best");
        for name in whole_ones {
            let step = name
                .strip_prefix("step-")
                .and_then(|step| step.parse().ok());
            let step = step.unwrap_or_else(|| panic!("change {n} leaves {left:?}"));
            store(&config).load(step).unwrap();
        }
        assert_eq!(run(&config, Some(Resume::Latest), None).0.unwrap().step, 8);
        assert_eq!(result(&parts), result(&whole), "change {n}");
        if !happened {
            assert!(
                n > 10 && refused > 6,
                "{refused} of {n} changes were refused"
            );
            break;
        }
    }
}

/// A process that is gone between any two writes.
#[test]
fn a_kill_between_any_two_writes_costs_nothing() {
    let less = |config: &mut RunConfig| config.checkpoint.every = 4;
    let (whole, config) = directory(Packing::Shuffled, less);
    run(&config, None, None).0.unwrap();
    for n in 0.. {
        let (parts, config) = directory(Packing::Shuffled, less);
        fs::create_dir(config.output_dir()).unwrap();
        let kill = inject(&config.output_dir(), n, Fault::Kill);
        let _ = run(&config, None, None);
        let happened = kill.happened();
        drop(kill);
        let (report, _) = run(&config, Some(Resume::Latest), None);
        assert_eq!(report.unwrap().step, 8, "change {n}");
        assert_eq!(result(&parts), result(&whole), "change {n}");
        if !happened {
            assert!(n > 20, "{n} changes");
            break;
        }
    }
}

#[test]
fn an_output_directory_that_is_a_file_is_an_error() {
    let (directory, config) = directory(Packing::Shuffled, |_| {});
    fs::write(config.output_dir(), "a file").unwrap();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&config.output_dir().display().to_string()),
        "{error}"
    );
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
    assert_eq!(
        entries(&config.output_dir().join("checkpoints")),
        ["step-00000007", "step-00000008"]
    );

    // A rate that spoils the model after its second step: the best is an early one.
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.checkpoint.keep_last = 1;
        config.checkpoint.every = 1;
        config.eval.every = 2;
        config.optimizer.learning_rate = 3.0;
        config.lr_scheduler.warmup_steps = 7;
        config.training.max_grad_norm = 0.0;
    });
    let (report, heard) = run(&config, None, None);
    report.unwrap();
    let best = heard
        .evals
        .iter()
        .min_by(|a, b| a.report.loss.total_cmp(&b.report.loss))
        .unwrap()
        .step;
    assert!(best < 8, "{:?}", heard.evals);
    let best = format!("step-{best:08}");
    let checkpoints = config.output_dir().join("checkpoints");
    let newest = ["best", &best, "step-00000008"];
    let mut left = entries(&checkpoints);
    assert!(
        newest
            .iter()
            .all(|name| left.iter().any(|there| there == name)),
        "{left:?}"
    );
    left.retain(|name| !newest.contains(&&**name));
    // At such a rate the last step may be lost itself: the last good one is kept beside it then.
    let last = heard.steps.last().unwrap();
    let is_lost = !(last.loss.is_some_and(f64::is_finite) && last.grad_norm.is_finite());
    assert!(left.len() <= usize::from(is_lost), "{left:?}");
    assert_eq!(
        fs::read_to_string(checkpoints.join("best")).unwrap().trim(),
        best
    );
    assert_eq!(
        store(&config).load(8).unwrap().best_step,
        best[5..].parse::<u64>().unwrap()
    );
}

/// With one checkpoint kept, going back to an older one must not cost that one.
#[test]
fn going_back_keeps_what_is_written_anew() {
    let (_directory, mut config) = stopped();
    edit(&store(&config).path(4).join("model.bpk"), |bytes| {
        bytes[100] ^= 1
    });
    config.checkpoint.keep_last = 1;
    config.checkpoint.keep_best = false;
    config.checkpoint.every = 1;
    run(&config, Some(Resume::Latest), Some(3)).0.unwrap();
    // Not the damaged one of step 4; and the one before as long as no step has shown the new to be good.
    assert_eq!(store(&config).steps(), [2, 3]);
    assert_eq!(store(&config).latest().unwrap().0.step, 3);
}

/// What a run logged that cannot be read is kept beside, with a word about it.
#[test]
fn metrics_that_cannot_be_read_are_kept() {
    let (_directory, config) = stopped();
    let log = config.output_dir().join("metrics.jsonl");
    let kept = |n: u32| config.output_dir().join(format!("metrics.jsonl.kept-{n}"));
    let mut text = fs::read_to_string(&log).unwrap();
    text.insert_str(0, "notes of mine\n");
    fs::write(&log, &text).unwrap();
    let (_, heard) = run(&config, Some(Resume::Latest), Some(6));
    let told = |heard: &crate::common::Heard, path: &std::path::Path| {
        let path = path.display().to_string();
        heard.messages.iter().any(|text| text.contains(&path))
    };
    assert!(told(&heard, &kept(1)), "{:?}", heard.messages);
    assert_eq!(fs::read_to_string(kept(1)).unwrap(), text);
    // A folder cannot be read as a file, not even by root.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    fs::write(log.join("mine"), "too").unwrap();
    let (report, heard) = run(&config, Some(Resume::Latest), None);
    report.unwrap();
    assert!(told(&heard, &kept(2)), "{:?}", heard.messages);
    assert_eq!(fs::read_to_string(kept(2).join("mine")).unwrap(), "too");
    assert!(fs::read_to_string(&log).unwrap().contains("\"step\":8"));
}

/// A finished model of a run that goes on is no longer the run's.
#[test]
fn a_run_that_goes_on_has_no_finished_model() {
    let (_directory, config) = directory(Packing::Shuffled, |config| {
        config.lr_scheduler.kind = LrSchedulerType::ConstantWithWarmup;
        config.training.max_steps = 4;
    });
    run(&config, None, None).0.unwrap();
    let model = |folder: &str| fs::read(config.output_dir().join(folder).join("model.safetensors"));
    let old = model("final").unwrap();
    run(&config, Some(Resume::Latest), None).0.unwrap();
    assert!(model("final").unwrap() == old, "nothing was left to train");
    let mut longer = config.clone();
    longer.training.max_steps = 8;
    let (report, heard) = run(&longer, Some(Resume::Latest), Some(6));
    assert!(report.unwrap().interrupted);
    assert!(model("final").is_err());
    assert!(model("final-step-00000004").unwrap() == old);
    let told = |text: &String| text.contains("final-step-00000004");
    assert!(heard.messages.iter().any(told), "{:?}", heard.messages);
    run(&longer, Some(Resume::Latest), None).0.unwrap();
    assert!(model("final").unwrap() != old);
}

/// Only a run is overwritten, and of it only what a run writes.
#[test]
fn what_somebody_else_put_there_stays() {
    let mine = ["notes.txt", "checkpoints/my.bin", "final/mine"];
    let (_directory, mut config) = directory(Packing::Shuffled, |config| {
        config.run.overwrite = true;
        config.logging.tensorboard = true;
    });
    let put = |config: &RunConfig| {
        for name in mine {
            let path = config.output_dir().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "mine").unwrap();
        }
    };
    let is_there = |config: &RunConfig| {
        for name in mine {
            let path = config.output_dir().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine", "{name}");
        }
    };
    // A folder of somebody's own.
    put(&config);
    let error = run(&config, None, None).0.unwrap_err();
    let refused = matches!(error, TrainError::OutputRefused { .. });
    assert!(refused && error.to_string().contains("run.json"), "{error}");
    is_there(&config);
    fs::remove_dir_all(config.output_dir()).unwrap();
    // A run with somebody's files in it.
    run(&config, None, None).0.unwrap();
    put(&config);
    let in_the_way = store(&config).path(2).join("mine");
    fs::write(&in_the_way, "mine").unwrap();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(error.to_string().contains("step-00000002/mine"), "{error}");
    assert_eq!(store(&config).steps(), [2, 4, 6, 8], "nothing is removed");
    fs::remove_file(in_the_way).unwrap();
    config.training.max_steps = 4;
    let (report, heard) = run(&config, None, None);
    assert_eq!(report.unwrap().step, 4);
    is_there(&config);
    let told = |name: &str| {
        heard
            .messages
            .iter()
            .any(|text| text.contains(name) && text.contains("stays"))
    };
    assert!(mine.iter().all(|name| told(name)), "{:?}", heard.messages);
    assert_eq!(store(&config).steps(), [2, 4], "the old ones are gone");
    assert_eq!(entries(&config.output_dir().join("tensorboard")).len(), 1);
    // The text's own folder, with a run in it or not.
    config.data.train_file = config.output_dir().join("text.txt");
    fs::write(&config.data.train_file, crate::common::text(300)).unwrap();
    let error = run(&config, None, None).0.unwrap_err();
    assert!(error.to_string().contains("text.txt"), "{error}");
    is_there(&config);
    assert_eq!(store(&config).steps(), [2, 4]);
}

/// Epochs are rounded up once for the whole run, to micro-batches: the last step takes what is left.
#[test]
fn epochs_end_with_the_micro_batches_that_are_left() {
    let micro_batches = |accumulated: usize| {
        let (_directory, config) = directory(Packing::Shuffled, |config| {
            config.training.max_steps = 0;
            config.training.num_train_epochs = 0.3;
            config.training.gradient_accumulation_steps = accumulated;
            config.checkpoint.every = 0;
            config.eval.every = 0;
        });
        let (report, heard) = run(&config, None, None);
        let (steps, last) = (report.unwrap().step, heard.steps.last().unwrap());
        assert_eq!(last.total_steps, steps);
        let tokens = (config.rows() * config.data.max_seq_length) as u64;
        assert_eq!(last.tokens % tokens, 0);
        (steps, last.tokens / tokens)
    };
    let (steps, all) = micro_batches(1);
    assert_eq!(steps, all);
    assert!(all > 8 && all % 8 != 0, "{all} micro-batches");
    assert_eq!(micro_batches(8), (all.div_ceil(8), all));
}
