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
    /// Loss or gradient stopped being finite, or stayed too high.
    #[error("the run diverged at step {step}: {reason}")]
    Diverged {
        /// Optimizer step.
        step: u64,
        /// What was seen.
        reason: String,
    },
    /// The configuration asks for what this version, or this tokenizer, does not have.
    #[error("{0}")]
    Refused(String),
    /// The run cannot begin or go on: another one has its directory, its devices do not work together, or its loss is
    /// no number.
    #[error("{0}")]
    Failed(String),
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
    /// The named one is not among those of the run.
    #[error("{0}")]
    Missing(String),
    /// A file is not the one that was written.
    #[error("the checkpoint {path} is damaged: {reason}")]
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
    /// It, or the note of the best one, cannot be written.
    #[error("{0}")]
    Write(String),
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
