//! What can go wrong in a run, with the file or key it is about.

use crate::config::ConfigError;
use crate::data::DataError;
use infinity_model::PretrainedError;
use std::io;
use std::path::{Path, PathBuf};

/// An error of training or evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The configuration cannot be right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model's part of the configuration cannot be right.
    #[error(transparent)]
    Model(#[from] infinity_model::ConfigError),
    /// The device cannot compute in the precision.
    #[error(transparent)]
    Precision(#[from] infinity_model::PrecisionError),
    /// The data cannot be read or does not suit the configuration.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data failed while the run went on; a checkpoint holds what was learned before.
    #[error("{error}; the checkpoint of step {saved} is there to go on from, with --resume")]
    DataLost {
        /// What is wrong with the data.
        #[source]
        error: DataError,
        /// The checkpoint's step.
        saved: u64,
    },
    /// No model is where one was named.
    #[error("{0}")]
    NoModel(String),
    /// A model directory cannot be written or read.
    #[error(transparent)]
    Pretrained(#[from] PretrainedError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of the run directory cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output directory holds something already.
    #[error(
        "the output directory {path} exists and is not empty; resume the run in it, set `run.overwrite = true`, or name another"
    )]
    OutputExists {
        /// The directory.
        path: PathBuf,
    },
    /// No run is written there.
    #[error("no run is written into {path}: {reason}")]
    OutputRefused {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Somebody else writes there.
    #[error("another process is training in {path}; wait for it, or name another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A model makes nothing that is a number.
    #[error("the model's loss is {loss}: its weights are damaged, or it diverged")]
    NotFinite {
        /// NaN or +∞.
        loss: f64,
    },
    /// A key asks for something this version does not do.
    #[error("`{key} = {value}` is not there yet: {instead}")]
    Unsupported {
        /// Dotted key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A run got another number of devices than it is configured for.
    #[error("`distributed.devices` asks for {asked} devices, and the run was given {given}")]
    Devices {
        /// In the configuration.
        asked: usize,
        /// Handed over.
        given: usize,
    },
    /// The devices cannot add up what is spread over them.
    #[error(
        "`distributed.strategy` is \"ddp\", but NCCL does not add up between these devices: {reason}; \"multi\" needs no NCCL"
    )]
    Collective {
        /// What came of a sum of ones.
        reason: String,
    },
    /// Loss or gradient stopped being finite, or stayed too high.
    #[error("the run diverged at step {step}: {reason}")]
    Diverged {
        /// Optimizer step.
        step: u64,
        /// What was seen.
        reason: String,
    },
    /// The vocabulary of the configuration is not the tokenizer's.
    #[error(
        "`model.vocab_size = {vocab_size}` is smaller than the tokenizer's {tokens} entries; leave it out to take the tokenizer's"
    )]
    Vocabulary {
        /// Configured size.
        vocab_size: usize,
        /// The tokenizer's size.
        tokens: usize,
    },
    /// Somebody killed the run on burn-train's dashboard.
    #[error("killed on the dashboard, without a checkpoint of its last step")]
    Killed,
    /// burn-train stopped the run.
    #[error("{0}")]
    Learner(String),
}

/// An error about a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is none to resume from.
    #[error("no complete checkpoint in {path}; {}", instead(.found.as_deref()))]
    None {
        /// Where it was looked for.
        path: PathBuf,
        /// What is in the run's directory that no run leaves which was ended before its first
        /// checkpoint, where one was to start anew over such a run.
        found: Option<PathBuf>,
    },
    /// There are others.
    #[error("there is no checkpoint of step {step} in {directory}; there are those of {}", listed(.steps))]
    NoStep {
        /// The step that was named.
        step: u64,
        /// Where it was looked for.
        directory: PathBuf,
        /// Those that are there.
        steps: Vec<u64>,
    },
    /// It is not one of the run that goes on.
    #[error("{path} is no checkpoint of this run, whose checkpoints are in {directory}")]
    Elsewhere {
        /// What was named.
        path: PathBuf,
        /// Where the run's checkpoints are.
        directory: PathBuf,
    },
    /// It was never finished.
    #[error(
        "the checkpoint {path} is not complete (no COMPLETE file): it was being written when the run ended"
    )]
    Incomplete {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// A file is not the one that was written.
    #[error("the checkpoint file {path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// The run is configured differently now.
    #[error("cannot resume: `{key}` was {was} and is now {now}{}", .why.as_deref().unwrap_or_default())]
    Changed {
        /// Dotted key.
        key: String,
        /// In the checkpoint.
        was: String,
        /// In this run.
        now: String,
        /// What depends on it, with the sign that sets it off, where that is not plain.
        why: Option<String>,
    },
    /// The note of the best checkpoint does not name it.
    #[error("cannot write the note {path}: {reason}; {meant}")]
    Note {
        /// The note.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What it should say.
        meant: String,
    },
    /// It cannot be written.
    #[error("cannot write the checkpoint {path}: {reason}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What to do without a checkpoint.
fn instead(found: Option<&Path>) -> String {
    match found {
        None => "a run that has none starts anew, with `run.overwrite = true` where its directory is in use"
            .to_owned(),
        Some(found) => format!(
            "none starts anew over {}, which is not from a run that was ended before its first \
             one: name another directory, or start without --resume and with `run.overwrite = true`",
            found.display()
        ),
    }
}

/// The last steps of many.
fn listed(steps: &[u64]) -> String {
    const SHOWN: usize = 10;
    let earlier = steps.len().saturating_sub(SHOWN);
    let last: Vec<String> = steps[earlier..].iter().map(u64::to_string).collect();
    let last = last.join(", ");
    match earlier {
        0 => format!("the steps {last}"),
        _ => format!("{earlier} earlier steps and {last}"),
    }
}
