//! Tokenizers from `tokenizer.json`, also of other programs, and what they leave out of a text.

use std::{fs, panic::catch_unwind, path::Path};

use serde_json::Value;
use tokenizers::{
    ModelWrapper,
    tokenizer::{OffsetReferential, OffsetType, PreTokenizer},
};

use super::definition::{byte_token, bytes_definition, chars_of, check_added_tokens};
use super::{Dropped, Kind, Tokenizer};
use crate::error::TokenizerError;

/// What some programs write at the beginning of a file, and is no part of its text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or is JSON and not a tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| TokenizerError::Read {
            path: path.into(),
            source,
        })?;
        Self::from_json_bytes(&bytes, &path.display().to_string())
    }

    /// Loads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// The text is not JSON, or is JSON and not a tokenizer.
    pub fn from_json(text: &str) -> Result<Self, TokenizerError> {
        Self::from_json_bytes(text.as_bytes(), "tokenizer.json")
    }

    fn from_json_bytes(bytes: &[u8], origin: &str) -> Result<Self, TokenizerError> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let mut definition: Value =
            serde_json::from_slice(bytes).map_err(|error| TokenizerError::NotJson {
                origin: origin.into(),
                reason: error.to_string(),
            })?;
        let refuse = |reason: String| TokenizerError::NotATokenizer {
            origin: origin.into(),
            reason,
        };
        let Some(model) = definition.get_mut("model").and_then(Value::as_object_mut) else {
            let reason = "it has no \"model\" (a tokenizer_config.json is not enough: \
                          give the tokenizer.json that stands beside it)";
            return Err(refuse(reason.into()));
        };
        // Merges left out at random belong to the training of a tokenizer's user. The tokens of a
        // text are kept and read again here, so they have to be the same each time.
        if let Some(dropout) = model.get_mut("dropout") {
            *dropout = Value::Null;
        }
        if definition == bytes_definition() {
            return Ok(Self::bytes());
        }
        if let Some(characters) = chars_of(&definition) {
            return Ok(Self::chars(characters.into_iter()));
        }
        // The crate panics on some malformed parts; a user's file must not take the program down.
        let parsed = catch_unwind(|| tokenizers::Tokenizer::from_bytes(definition.to_string()));
        let parsed = parsed.map_err(|_| refuse("one of its parts is malformed".into()))?;
        let mut inner = parsed.map_err(|error| refuse(error.to_string()))?;
        check_added_tokens(&inner, &definition).map_err(refuse)?;
        // Files made for a classifier cut or pad every text to one length. A text is a text here.
        inner.with_padding(None);
        let cut = inner.with_truncation(None);
        cut.map_err(|error| refuse(error.to_string()))?;
        Ok(Self::new(inner, Kind::File))
    }

    /// The characters of `text` that the tokenizer has no token for and leaves out without a word.
    /// Only a BPE without a token for the unknown does so; all others cost nothing here.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the text cannot be split into words.
    pub fn dropped(&self, text: &str) -> Result<Dropped, TokenizerError> {
        let mut dropped = Dropped::default();
        let (ModelWrapper::BPE(bpe), true) = (self.inner.get_model(), self.drops) else {
            return Ok(dropped);
        };
        dropped.of = text.chars().count() as u64;
        let added = self.inner.get_added_vocabulary();
        let mut words = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            let split = pre_tokenizer.pre_tokenize(&mut words);
            split.map_err(super::failed)?;
        }
        for (word, _, tokens) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
            if tokens.is_some() || bpe.ignore_merges && self.knows(word) {
                continue;
            }
            for (at, character) in word.char_indices() {
                let mut symbol = character.to_string();
                if let Some(prefix) = bpe.continuing_subword_prefix.as_ref().filter(|_| at > 0) {
                    symbol.insert_str(0, prefix);
                }
                let is_last = at + character.len_utf8() == word.len();
                if let Some(suffix) = bpe.end_of_word_suffix.as_ref().filter(|_| is_last) {
                    symbol.push_str(suffix);
                }
                let in_bytes = || symbol.bytes().all(|byte| self.knows(&byte_token(byte)));
                let known = self.knows(&symbol) || (bpe.byte_fallback && in_bytes());
                if !known {
                    dropped.characters += 1;
                    dropped.first = dropped.first.or(Some(character));
                }
            }
        }
        Ok(dropped)
    }

    fn knows(&self, token: &str) -> bool {
        self.inner.token_to_id(token).is_some()
    }
}
