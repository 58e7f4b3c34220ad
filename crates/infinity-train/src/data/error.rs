//! What preparing data says: what can be wrong, so that a person can act on it, and what it is doing.

use infinity_model::{ChatTemplateError, TokenizerError};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Endings that are read, for messages.
pub(super) const EXPECTED: &str = ".txt, .jsonl, .ndjson, .json, .csv, .tsv";

/// A problem with the text, the tokenizer that reads it, or the token files made from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A key that names the text is empty.
    #[error("`{key}` is not set: {hint}")]
    NotSet {
        /// Key of the configuration.
        key: &'static str,
        /// What to write there.
        hint: &'static str,
    },
    /// Two keys that exclude each other, or a value out of range.
    #[error("`{key}` = {value}: {reason}")]
    BadValue {
        /// Key of the configuration.
        key: &'static str,
        /// The value as it was given.
        value: String,
        /// The limit, or what to write instead.
        reason: String,
    },
    /// The named file or directory does not exist.
    #[error("`{key}`: there is no file or directory {path}{}", other(.key))]
    NotFound {
        /// Key of the configuration.
        key: &'static str,
        /// The missing path.
        path: PathBuf,
    },
    /// A validation split in whose windows nobody answers.
    #[error(
        "the validation split holds no answer of its conversations (`data.messages_column`), so that there is nothing \
         to measure: hold out more (`data.val_fraction`), give longer windows (`data.max_seq_length`) or more of them \
         (`eval.max_batches`), or set `eval.do_eval = false`"
    )]
    NoAnswers,
    /// A text, a row of it, token files or sources of dependencies that cannot be used, read or written; the message
    /// names the file or key, and what to do.
    #[error("{0}")]
    Unusable(String),
    /// Reading, training or using the tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// A chat template cannot be read.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
}

impl DataError {
    /// That the system did not read `path`.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |why| Self::Unusable(format!("cannot read {}: {why}", path.display()))
    }

    /// That the system did not write `path`.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |why| Self::Unusable(format!("cannot write {}: {why}", path.display()))
    }

    /// What the system says of a path that `key` names: [`DataError::NotFound`] if it is not there.
    pub(super) fn not_read(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound {
                key,
                path: path.to_path_buf(),
            },
            _ => Self::read(path)(source),
        }
    }

    /// What the system says of a file that belongs to a prepared directory.
    pub(super) fn lost(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::damaged(path, "it is missing"),
            _ => Self::read(path)(source),
        }
    }

    /// A file, or everything that was named together, holds no text.
    pub(super) fn empty(path: &Path) -> Self {
        Self::Unusable(format!("{} holds no text", path.display()))
    }

    /// A row of JSON or CSV that cannot be read; lines count from 1.
    pub(super) fn bad_row(path: &Path, line: u64, reason: impl fmt::Display) -> Self {
        Self::Unusable(format!("{}, line {line}: {reason}", path.display()))
    }

    /// A damaged file of a prepared directory.
    pub(super) fn damaged(path: &Path, reason: impl fmt::Display) -> Self {
        let directory = path.parent().unwrap_or(Path::new("")).display();
        let path = path.display();
        Self::Unusable(format!(
            "{path} is damaged: {reason}; delete {directory} to have it made again"
        ))
    }

    /// Fewer tokens than one window needs; `more` makes the split longer.
    pub(super) fn too_short(split: &str, more: &str, tokens: u64, window: usize) -> Self {
        Self::Unusable(format!(
            "the {split} split has {tokens} tokens, but a row of {window} (`data.max_seq_length`, times \
             `data.tbptt_chunks` in training) needs {}; give {more}, or shorter windows",
            window + 1
        ))
    }
}

/// How to name another file than the missing one, where that is a flag's.
fn other(key: &str) -> &'static str {
    match key {
        "data.train_file" => "; put a text there, or name another with --train-file",
        "data.validation_file" => "; --validation-file names another",
        "tokenizer.path" => "; --tokenizer names another",
        _ => "",
    }
}

/// A step of preparing data, as a line for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataEvent {
    /// What was found or is being done.
    Step(String),
    /// The token files are ready.
    Ready(String),
}

impl fmt::Display for DataEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Step(line) | Self::Ready(line)) = self;
        f.write_str(line)
    }
}

/// Refuses a value outside of a range with both its ends; NaN is in none.
pub(super) fn within<N: PartialOrd + fmt::Display>(
    key: &'static str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<(), DataError> {
    match range.contains(&value) {
        true => Ok(()),
        false => {
            let limit = format!("must be from {} to {}", range.start(), range.end());
            bad(key, value, limit)
        }
    }
}

/// A refusal of one value.
pub(super) fn bad<T>(
    key: &'static str,
    value: impl ToString,
    reason: impl Into<String>,
) -> Result<T, DataError> {
    Err(DataError::BadValue {
        key,
        value: value.to_string(),
        reason: reason.into(),
    })
}
