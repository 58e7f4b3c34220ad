//! What preparing data says: what can be wrong, so that a person can act on it, and what it is doing.

use infinity_model::{ChatTemplateError, TokenizerError};
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
    /// A validation split in whose windows nobody answers.
    #[error(
        "the validation split holds no answer of its conversations (`data.messages_column`), so that there is nothing \
         to measure: hold out more (`data.val_fraction`), give longer windows (`data.max_seq_length`) or more of them \
         (`eval.max_batches`), or set `eval.do_eval = false`"
    )]
    NoAnswers,
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
    /// The system could not read it.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system could not write it (permissions, a full disk).
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file, or everything that was named together, holds no text.
    #[error("{path} holds no text")]
    Empty {
        /// The file or directory.
        path: PathBuf,
    },
    /// A zero byte: this is not text.
    #[error("{path} is not a text file: byte {offset} is zero")]
    Binary {
        /// The file.
        path: PathBuf,
        /// Position of the first zero byte.
        offset: u64,
    },
    /// UTF-16.
    #[error(
        "{path} is UTF-16, not UTF-8; convert it first, for example with `iconv -f UTF-16 -t UTF-8`"
    )]
    Utf16 {
        /// The file.
        path: PathBuf,
    },
    /// An archive or a compressed file, by its ending.
    #[error("{path}: .{ending} files are not read; unpack it to {}", EXPECTED)]
    Packed {
        /// The file.
        path: PathBuf,
        /// Its ending, in small letters.
        ending: String,
    },
    /// A pipe, socket or device.
    #[error(
        "`{key}`: {path} is {kind}, which cannot be read twice, and text is read more than once; write it to a file first"
    )]
    NotAFile {
        /// Key of the configuration.
        key: &'static str,
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Not UTF-8.
    #[error(
        "{path} is not UTF-8: byte {offset} ({byte:#04x}) does not belong there; convert it first, for example with `iconv -t UTF-8`"
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Position of the first byte that does not fit.
        offset: u64,
        /// That byte.
        byte: u8,
    },
    /// The text column is not there.
    #[error("{path}, line {line}: no column `{column}` (`{key}`); there are: {columns}")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// The key that names it.
        key: &'static str,
        /// The column that was looked for.
        column: String,
        /// The columns there are.
        columns: String,
    },
    /// A line of JSON or CSV that cannot be read.
    #[error("{path}, line {line}: {reason}")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory without any file that could be read.
    #[error("{path} holds no text files: expected {expected}; {}other files there: {others}", runs(.skipped))]
    NoFiles {
        /// The directory.
        path: PathBuf,
        /// Accepted file names.
        expected: &'static str,
        /// Files that were passed over.
        others: usize,
        /// Directories of runs, models or token files that were passed over.
        skipped: usize,
    },
    /// The dependencies' sources cannot be found through Cargo.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// Reading, training or using the tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// A chat template cannot be read.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// Training a BPE failed inside the tokenizers crate.
    #[error("cannot train a BPE tokenizer: {0}")]
    TrainTokenizer(String),
    /// Several documents and nothing to put between them.
    #[error("{documents} documents, but the tokenizer has no end-of-text token to separate them")]
    NoSeparator {
        /// How many documents there are.
        documents: u64,
    },
    /// The tokenizer of the configuration is not the one a prepared directory was made with.
    #[error(
        "{path} was made with another tokenizer ({found}) than the configuration asks for ({wanted}); tokenize again, or set [tokenizer] accordingly"
    )]
    OtherTokenizer {
        /// The prepared directory.
        path: PathBuf,
        /// Kind of the prepared directory's tokenizer.
        found: String,
        /// What the configuration asks for.
        wanted: String,
    },
    /// A token file or its description is damaged.
    #[error("{path} is damaged: {reason}; delete {directory} to have it made again")]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
        /// The directory that holds it.
        directory: PathBuf,
    },
    /// The output directory is already there.
    #[error("{path} already exists; name another directory, or delete it")]
    OutputExists {
        /// The directory.
        path: PathBuf,
    },
    /// Fewer tokens than one window needs.
    #[error("the {split} split has {tokens} tokens, but a row of {window} (`data.max_seq_length`, times `data.tbptt_chunks` in training) needs {}; give {more}, or shorter windows", window + 1)]
    SplitTooShort {
        /// `training` or `validation`.
        split: &'static str,
        /// What makes it longer.
        more: &'static str,
        /// Tokens there are.
        tokens: u64,
        /// Length of a window.
        window: usize,
    },
    /// A token file holds an id that no token has.
    #[error(
        "the token files hold the id {id}, but the vocabulary has {size} entries: they are damaged, or changed while the run was going on; delete them in `data.cache_dir` to have them made again"
    )]
    UnknownToken {
        /// The id.
        id: i32,
        /// Entries of the vocabulary.
        size: usize,
    },
    /// A thread of `data.num_workers` is gone.
    #[error("a thread that prepares batches (`data.num_workers`) died: {reason}")]
    Worker {
        /// What it said last.
        reason: String,
    },
    /// The system gives no more threads.
    #[error(
        "cannot start thread {number} of the `data.num_workers = {count}` that prepare batches: {source}"
    )]
    NoThread {
        /// Which, from 1.
        number: usize,
        /// How many were asked for.
        count: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// A batch number past the end of an evaluation.
    #[error("batch {step} does not exist: there are {batches}")]
    NoSuchBatch {
        /// The batch asked for, from 0.
        step: u64,
        /// How many there are.
        batches: u64,
    },
}

impl DataError {
    /// Makes a [`DataError::Read`] of what the system says.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |source| Self::Read {
            path: path.to_path_buf(),
            source,
        }
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

    /// Makes a [`DataError::Write`] of what the system says.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + Copy {
        move |source| Self::Write {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(super) fn bad_row(path: &Path, line: u64, reason: String) -> Self {
        Self::BadRow {
            path: path.to_path_buf(),
            line,
            reason,
        }
    }

    /// A damaged file of the prepared directory `directory`.
    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            reason: reason.into(),
            directory: path.parent().unwrap_or(Path::new("")).to_path_buf(),
        }
    }
}

fn runs(skipped: &usize) -> String {
    match skipped {
        0 => String::new(),
        _ => format!("directories of runs, models or token files there: {skipped}, "),
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

/// Why sources of dependencies cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CargoError {
    /// No lock file upward from the current directory.
    #[error(
        "`data.source = \"cargo-registry\"` reads the dependencies of a Cargo workspace, but there is no Cargo.lock in {start} or above it; run this inside the workspace, or name a text of your own with `--train-file`"
    )]
    NoWorkspace {
        /// Where the search began.
        start: PathBuf,
    },
    /// The lock file cannot be read.
    #[error("cannot read {path}: {reason}")]
    BadLock {
        /// The lock file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A crate that is not a locked dependency.
    #[error("`{key}`: {lock} has no crate `{name}`{hint}")]
    NotLocked {
        /// Key of the configuration.
        key: &'static str,
        /// The lock file.
        lock: PathBuf,
        /// The crate asked for.
        name: String,
        /// A similar name, or nothing.
        hint: String,
    },
    /// Several versions of one crate are locked.
    #[error(
        "`{key}`: {lock} has several versions of `{name}` ({versions}); write one of them as `{name}@{example}`"
    )]
    SeveralVersions {
        /// Key of the configuration.
        key: &'static str,
        /// The lock file.
        lock: PathBuf,
        /// The crate asked for.
        name: String,
        /// The locked versions.
        versions: String,
        /// One of them.
        example: String,
    },
    /// Cargo itself cannot be started.
    #[error(
        "cannot run `{program}`: {source}; Cargo is needed to find the sources of dependencies"
    )]
    NoCargo {
        /// The program that was tried.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The sources are not on this machine.
    #[error(
        "the sources of {name} {version} are not on this machine; run `cargo fetch --locked` in {root}{detail}"
    )]
    NotDownloaded {
        /// The crate.
        name: String,
        /// Its locked version.
        version: String,
        /// The workspace.
        root: PathBuf,
        /// What Cargo said, if it said anything.
        detail: String,
    },
    /// A crate without Rust sources.
    #[error("`{key}`: the sources of {name} hold no UTF-8 .rs file")]
    NoSources {
        /// Key of the configuration.
        key: &'static str,
        /// The crate.
        name: String,
    },
}

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
    /// Directories below the text that this program wrote, which are not read.
    Skipped {
        /// The directories.
        directories: Vec<PathBuf>,
    },
    /// Words too long to learn merges across were cut for learning.
    LongWords {
        /// How many.
        count: u64,
        /// Characters of the longest piece that is left whole.
        limit: usize,
    },
    /// Characters that the tokenizer has no tokens for.
    Missing {
        /// How many.
        missing: u64,
        /// Characters of the text.
        chars: u64,
        /// The first of them.
        first: char,
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
            Self::Skipped { directories } => {
                let names: Vec<_> = directories
                    .iter()
                    .map(|d| d.display().to_string())
                    .collect();
                let names = names.join(", ");
                write!(
                    f,
                    "not read, because runs, models and token files are no text: {names}"
                )
            }
            Self::LongWords { count, limit } => write!(
                f,
                "{count} words of more than {limit} characters are cut for learning the tokenizer"
            ),
            Self::Missing {
                missing,
                chars,
                first,
            } => write!(
                f,
                "warning: the tokenizer has no tokens for {missing} of {chars} characters, which are left out; the first is {first:?}"
            ),
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

/// A refusal of one value.
pub(super) fn bad<T>(
    key: &'static str,
    value: impl ToString,
    reason: &str,
) -> Result<T, DataError> {
    Err(DataError::BadValue {
        key,
        value: value.to_string(),
        reason: reason.to_owned(),
    })
}
