//! What can be wrong with a configuration. Every message names the place, the key and the limit.

use std::path::PathBuf;

/// A configuration that cannot be used: a mistake of the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{origin} is not valid TOML\n{message}")]
    Syntax {
        /// File or argument.
        origin: String,
        /// The parser's message, with the line.
        message: String,
    },
    /// A key that nobody reads.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File and line, variable, or argument.
        origin: String,
        /// The dotted key.
        key: String,
        /// What was probably meant, as the end of the sentence.
        hint: String,
    },
    /// A value of the wrong type, or outside the words a key allows.
    #[error("{origin}: `{key}`: {message}")]
    Value {
        /// File and line, variable, or argument.
        origin: String,
        /// The dotted key.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// A `--set` argument that is not `section.key=value`.
    #[error("`--set {argument}`: expected section.key=value, as in `--set training.max_steps=100`")]
    Assignment {
        /// The argument.
        argument: String,
    },
    /// A preset that does not exist.
    #[error("unknown preset `{name}`{hint}")]
    Preset {
        /// The name asked for.
        name: String,
        /// What was probably meant, and what there is.
        hint: String,
    },
    /// A value outside its limits, or at odds with another key.
    #[error("`{key}` is {value}, but {limit}{origin}")]
    Invalid {
        /// The dotted key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is required, as the rest of the sentence.
        limit: String,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
    /// `[model]` does not describe a network.
    #[error("{problem}{origin}")]
    Model {
        /// What is wrong; its message begins with the dotted key.
        problem: infinity_model::ConfigError,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
    /// `[data]` or `[tokenizer]` cannot be used.
    #[error("{problem}{origin}")]
    Data {
        /// What is wrong; its message begins with the dotted key.
        problem: Box<crate::data::DataError>,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
}
