//! `meta.json`: what a prepared directory was made from, and what its files must be.

use super::config::TokenizerKind;
use super::error::DataError;
use super::source::SourceFile;
use super::store::SplitMeta;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// Name of the description inside a prepared directory.
pub(super) const META_FILE: &str = "meta.json";
/// Name of the tokenizer inside a prepared directory.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Changes when the files' meaning changes; other versions are made again.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The text that a split was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceMeta {
    /// Fingerprint of the contents, in reading order.
    pub hash: String,
    /// Documents that were read.
    pub documents: u64,
    /// Files, when they were read.
    pub files: Vec<SourceFile>,
}

/// Description of a prepared directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedMeta {
    /// Version of this format.
    pub format_version: u32,
    /// Kind of the tokenizer.
    pub tokenizer_kind: TokenizerKind,
    /// Fingerprint of its `tokenizer.json`.
    pub tokenizer_hash: String,
    /// Its number of tokens.
    pub vocab_size: usize,
    /// The token between documents.
    pub eos_id: Option<u32>,
    /// What the training split was made from.
    pub source: SourceMeta,
    /// What the validation split was made from, unless it is the end of the same text.
    pub validation_source: Option<SourceMeta>,
    /// Files of the training split.
    pub train: SplitMeta,
    /// Files of the validation split.
    pub validation: SplitMeta,
}

impl PreparedMeta {
    /// Reads the description in `directory`.
    pub(super) fn read(directory: &Path) -> Result<Self, DataError> {
        let path = directory.join(META_FILE);
        let damaged = |reason: String| DataError::Damaged {
            path: path.clone(),
            reason,
            directory: directory.to_path_buf(),
        };
        let text = fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => damaged("it is missing".to_owned()),
            _ => DataError::Read {
                path: path.clone(),
                source,
            },
        })?;
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let version = value
            .get("format_version")
            .and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(FORMAT_VERSION)) {
            let found = version.map_or("none".to_owned(), |version| version.to_string());
            return Err(damaged(format!(
                "format version {found}, this program reads {FORMAT_VERSION}"
            )));
        }
        serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
    }

    /// Writes the description into `directory`; last of all files, because it vouches for them.
    pub(super) fn write(&self, directory: &Path) -> Result<(), DataError> {
        let path = directory.join(META_FILE);
        let text =
            serde_json::to_string_pretty(self).expect("numbers and strings can be written as JSON");
        fs::write(&path, text).map_err(|source| DataError::Write { path, source })
    }
}
