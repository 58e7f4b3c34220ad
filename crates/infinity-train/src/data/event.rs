//! What preparing data is doing, for whoever shows it.

use std::fmt;
use std::path::PathBuf;

/// A step of preparing data. Its `Display` is a line for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataEvent {
    /// The sources of dependencies were found.
    Crates {
        /// Key of the configuration that named them.
        key: &'static str,
        /// Names with versions, in reading order.
        crates: Vec<String>,
        /// Rust files.
        files: usize,
        /// Files left out because they are not UTF-8 text.
        skipped: usize,
        /// Fingerprint of names and contents.
        fingerprint: String,
    },
    /// Prepared data is there but no longer fits.
    Rebuilding {
        /// Where it is.
        directory: PathBuf,
        /// What changed.
        reason: String,
    },
    /// The text was read through once.
    Scanned {
        /// Documents of training and validation together.
        documents: u64,
        /// Their characters.
        chars: u64,
    },
    /// A BPE tokenizer is being learned.
    TrainingTokenizer {
        /// Entries asked for.
        entries: usize,
    },
    /// Part of the text has been tokenized.
    Tokenized {
        /// Characters so far.
        chars: u64,
        /// Characters in all.
        total_chars: u64,
    },
    /// Done.
    Ready {
        /// Tokens to learn from.
        train_tokens: u64,
        /// Tokens held out.
        validation_tokens: u64,
        /// Size of the vocabulary.
        vocab_size: usize,
        /// Where the token files are.
        directory: PathBuf,
    },
}

impl fmt::Display for DataEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crates {
                key,
                crates,
                files,
                skipped,
                fingerprint,
            } => {
                write!(f, "{key}: {} in {files} files", crates.join(", "))?;
                if *skipped > 0 {
                    write!(f, ", {skipped} that are not UTF-8 left out")?;
                }
                write!(f, " (content {fingerprint})")
            }
            Self::Rebuilding { directory, reason } => {
                write!(f, "{reason}: making {} again", directory.display())
            }
            Self::Scanned { documents, chars } => {
                write!(f, "read {documents} documents, {chars} characters")
            }
            Self::TrainingTokenizer { entries } => {
                write!(f, "learning a BPE tokenizer of {entries} entries")
            }
            Self::Tokenized { chars, total_chars } => {
                write!(f, "tokenized {chars} of {total_chars} characters")
            }
            Self::Ready {
                train_tokens,
                validation_tokens,
                vocab_size,
                directory,
            } => write!(
                f,
                "{train_tokens} training and {validation_tokens} validation tokens of {vocab_size} kinds in {}",
                directory.display()
            ),
        }
    }
}
