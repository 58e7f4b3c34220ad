//! What can be wrong with what a user gave us: one enum for each subject.
//!
//! Every message names the value, the limit, and the key or the file.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// A setting that cannot be used. A key is its whole path (`model.hidden_size`, `generation.top_p`).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// What is set, what is wrong with it, and what is allowed.
    #[error("{0}")]
    Setting(String),
    /// A text is not the JSON object it should be: what the parser said, with line and column.
    #[error("not a valid configuration: {0}")]
    Json(String),
}

impl ConfigError {
    /// A value, and what is wrong with it.
    pub(crate) fn value(key: impl Display, value: impl Display, wrong: impl Into<String>) -> Self {
        Self::Setting(format!("{key} = {value} {}", wrong.into()))
    }

    /// A word that is not one of the choices, and what is allowed.
    pub(crate) fn unknown(key: impl Display, word: &str, limit: impl Display) -> Self {
        Self::Setting(format!(
            "{key} = \"{word}\" is not known: it must be {limit}"
        ))
    }

    /// A key that nothing reads, with `; did you mean …?` or why it has no meaning here.
    pub(crate) fn unknown_key(key: impl Display, hint: impl Display) -> Self {
        Self::Setting(format!("{key} is not a known key{hint}"))
    }

    /// A value that another program knows and this one has no layer for.
    pub(crate) fn unsupported(key: impl Display, value: impl Display, why: &str) -> Self {
        Self::Setting(format!("{key} = {value} cannot be run here: {why}"))
    }

    /// Two settings as `key = value`, each fine alone, and why they cannot stand together.
    pub(crate) fn conflict(setting: impl Display, other: impl Display, why: impl Display) -> Self {
        Self::Setting(format!(
            "{setting} does not go together with {other}: {why}"
        ))
    }

    /// A setting that has to be there, and what it is needed for.
    pub(crate) fn missing(key: impl Display, why: impl Display) -> Self {
        Self::Setting(format!("{key} is missing: {why}"))
    }
}

impl From<serde_json::Error> for ConfigError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}

/// A text that cannot be turned into tokens, or tokens that cannot be turned into text.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// There is no such file, or it cannot be read.
    #[error("cannot read the tokenizer file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the tokenizer file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not JSON at all.
    #[error("{origin} is not JSON: {reason}")]
    NotJson {
        /// The file, or `tokenizer.json` for a text given directly.
        origin: String,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// It is JSON, and not a tokenizer.
    #[error("{origin} is not a tokenizer this program can load: {reason}")]
    NotATokenizer {
        /// The file, or `tokenizer.json` for a text given directly.
        origin: String,
        /// What the `tokenizers` crate said.
        reason: String,
    },
    /// A character tokenizer met a character that it was not made from.
    #[error(
        "the character {character:?} (U+{:04X}) at position {position} of the text \
         is not in the tokenizer's vocabulary of {vocab_size} tokens", *character as u32
    )]
    UnknownChar {
        /// The character.
        character: char,
        /// Its place in the text, counted in characters from 0.
        position: usize,
        /// How many tokens the tokenizer has.
        vocab_size: usize,
    },
    /// A tokenizer would leave out too much of a text.
    #[error(
        "the tokenizer has no token for {characters} of the {of} characters of the text (the first \
         is {first:?}, U+{:04X}) and would leave them out: take a tokenizer with these characters, \
         with bytes for unknown ones, or with an unknown token", *first as u32
    )]
    Dropped {
        /// How many characters it has no token for.
        characters: u64,
        /// Characters of the text.
        of: u64,
        /// The first of them.
        first: char,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not in the tokenizer's vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// How many tokens the tokenizer has.
        vocab_size: usize,
    },
    /// The `tokenizers` crate refused.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// Text cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The prompt cannot be encoded or the text cannot be decoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is nothing to continue.
    #[error(
        "the prompt has no tokens, and there is no token that begins or ends a text \
         to start from: give a prompt"
    )]
    EmptyPrompt,
    /// A token that the model's embedding has no row for.
    #[error(
        "token {id} at position {position} of the prompt is not one of the model's {vocab_size} \
         tokens: is this the tokenizer the model was trained with?"
    )]
    UnknownToken {
        /// The token.
        id: u32,
        /// Its place in the prompt, from 0.
        position: usize,
        /// How many tokens the model knows.
        vocab_size: usize,
    },
    /// The model's output is not a number.
    #[error("the model's logit for token {id} is {value}: its weights are damaged, or it diverged")]
    BadLogit {
        /// The token.
        id: u32,
        /// NaN or +∞.
        value: f32,
    },
    /// No token has a probability above 0.
    #[error("no token can be drawn: every logit is −∞")]
    NoCandidate,
    /// The device did not deliver a result.
    #[error("the device failed: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
}

impl GenerateError {
    /// Refuses [`UnknownToken`](Self::UnknownToken)s in a prompt for a model of `vocab_size` tokens.
    pub fn check_tokens(prompt: &[u32], vocab_size: usize) -> Result<(), Self> {
        let unknown = |id: &u32| *id as usize >= vocab_size;
        let position = prompt.iter().position(unknown);
        position.map_or(Ok(()), |position| {
            Err(Self::UnknownToken {
                id: prompt[position],
                position,
                vocab_size,
            })
        })
    }
}

/// A state file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct StateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: StateProblem,
}

impl StateError {
    /// What is wrong with the file at `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(StateProblem) -> Self {
        let path = path.into();
        |problem| Self { path, problem }
    }
}

/// What can be wrong with a saved state.
#[derive(Debug, thiserror::Error)]
pub enum StateProblem {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    /// The system does not take it.
    #[error("cannot be written: {0}")]
    Write(std::io::Error),
    /// Its end is not there, or it was never a safetensors file.
    #[error("cut short, or no state file at all")]
    Cut,
    /// Its checksum is not that of its contents.
    #[error("changed since it was written: its checksum does not fit")]
    Changed,
    /// Something else is in it.
    #[error("not a state: {0}")]
    NotAState(String),
    /// It is of another format, model, tokenizer or compression, or holds what is no finite f32: which, and which fits.
    #[error("{0}")]
    Unfit(String),
}

/// A model directory cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PretrainedError {
    /// There is no such directory.
    #[error("{} is not a model directory: there is no such directory", .0.display())]
    NotADirectory(PathBuf),
    /// A file that every model has is not there.
    #[error("{} is missing: {why}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it is for.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` or `generation_config.json` is wrong.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// `tokenizer.json` is wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The device cannot hold the weights so.
    #[error("{0}")]
    Precision(String),
    /// Weights cannot be read or written, or are not those of the rest; or an index contradicts itself or its files.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file, the index or the directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
