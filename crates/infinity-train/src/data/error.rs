//! What can be wrong with data, so that a person can act on it.

use infinity_model::{ChatTemplateError, TokenizerError};
use std::ops::RangeInclusive;
use std::path::Path;
use std::{fmt, io};

/// Endings that are read, for messages.
pub(super) const EXPECTED: &str = ".txt, .jsonl, .ndjson, .json, .csv, .tsv";

/// A problem with the text, the tokenizer that reads it, or the token files made from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A key that is not set, cannot have its value, or names what is not there; the message says what to write.
    #[error("{0}")]
    Key(String),
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
    /// That a key has to be set; `hint` says to what.
    pub(super) fn not_set(key: &str, hint: &str) -> Self {
        Self::Key(format!("`{key}` is not set: {hint}"))
    }

    /// That a key cannot have its value.
    pub(super) fn key(key: &str, value: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Key(format!("`{key}` = {value}: {reason}"))
    }

    /// That the system did not read `path`.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |why| Self::Unusable(format!("cannot read {}: {why}", path.display()))
    }

    /// That the system did not write `path`.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |why| Self::Unusable(format!("cannot write {}: {why}", path.display()))
    }

    /// What the system says of a path that `key` names: [`DataError::Key`] if it is not there.
    pub(super) fn not_read(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                let (path, other) = (path.display(), other(key));
                Self::Key(format!(
                    "`{key}`: there is no file or directory {path}{other}"
                ))
            }
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

/// Refuses a value outside of a range with both its ends; NaN is in none.
pub(super) fn within<N: PartialOrd + fmt::Display>(
    key: &str,
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
pub(crate) fn bad<T>(
    key: &str,
    value: impl fmt::Display,
    reason: impl fmt::Display,
) -> Result<T, DataError> {
    Err(DataError::key(key, value, reason))
}
