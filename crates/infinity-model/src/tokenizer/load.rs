//! Reading a `tokenizer.json`, with reasons for what cannot be one.

use std::{fs, path::Path};

use serde_json::Value;

use super::{Kind, Tokenizer, definitions};
use crate::error::TokenizerError;

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
        let definition: Value =
            serde_json::from_slice(bytes).map_err(|error| TokenizerError::NotJson {
                origin: origin.into(),
                reason: error.to_string(),
            })?;
        let refuse = |reason: String| TokenizerError::NotATokenizer {
            origin: origin.into(),
            reason,
        };
        if !definition.get("model").is_some_and(Value::is_object) {
            return Err(refuse(
                "it has no \"model\" (a tokenizer_config.json is not enough: \
                 give the tokenizer.json that stands beside it)"
                    .into(),
            ));
        }
        if definition == definitions::bytes() {
            return Ok(Self::bytes());
        }
        if let Some(characters) = definitions::chars_of(&definition) {
            return Ok(Self::chars(characters.into_iter()));
        }
        let mut inner = parse(bytes).map_err(refuse)?;
        check_added_tokens(&inner, &definition).map_err(refuse)?;
        // Files made for a classifier cut or pad every text to one length. A text is a text here.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self::new(inner, Kind::Other))
    }
}

/// Lets the `tokenizers` crate read a definition.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    // The crate panics on some malformed parts (a decoder of no known type); a user's file must
    // not take the program down.
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|error| error.to_string()),
        Err(_) => Err("one of its parts is malformed".into()),
    }
}

/// Refuses a definition whose added tokens would get other ids than it says: the crate only logs
/// that, and a model would then read other tokens than it was trained on.
fn check_added_tokens(inner: &tokenizers::Tokenizer, definition: &Value) -> Result<(), String> {
    let added = definition.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str);
        let (Some(content), Some(id)) = (content, token.get("id").and_then(Value::as_u64)) else {
            continue;
        };
        let given = inner.token_to_id(content);
        if given.map(u64::from) != Some(id) {
            return Err(format!(
                "its added token {content:?} has the id {id}, but the ids before it leave {}",
                given.map_or("none".into(), |given| given.to_string())
            ));
        }
    }
    Ok(())
}
