//! What can be wrong with data, said so that a person can act on it.

use infinity_model::TokenizerError;
use std::path::PathBuf;

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
    /// The system could not read it.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system could not write it (permissions, a full disk).
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
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
    #[error("{path}, line {line}: no column `{column}` (`data.text_column`); there are: {columns}")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
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
    #[error("{path} holds no text files: expected {expected}; other files there: {skipped}")]
    NoFiles {
        /// The directory.
        path: PathBuf,
        /// Accepted file names.
        expected: &'static str,
        /// Files that were passed over.
        skipped: usize,
    },
    /// The dependencies' sources cannot be found through Cargo.
    #[error(transparent)]
    Cargo(#[from] super::cargo_error::CargoError),
    /// Reading, training or using the tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
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
        source: std::io::Error,
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

/// How to name another file than the missing one, where that is a flag's.
fn other(key: &str) -> &'static str {
    match key {
        "data.train_file" => "; put a text there, or name another with --train-file",
        "data.validation_file" => "; --validation-file names another",
        "tokenizer.path" => "; --tokenizer names another",
        _ => "",
    }
}
