//! Text to token ids and back.
//!
//! Any Hugging Face `tokenizer.json` works. Two tokenizers need no file and no network: bytes,
//! and the characters of a text. They are definitions like any other, so what [`Tokenizer::save`]
//! writes loads in other programs; here they take a direct path, when loaded from a file too.
//!
//! Encoding never adds special tokens. In a byte or character tokenizer the text `<|endoftext|>`
//! is only these characters, so every text comes back as it was; tokenizers from a file recognise
//! their special tokens in the text, because prompts are written that way.

mod byte_level;
mod decode_stream;
mod definitions;
mod load;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::Arc,
};

use serde_json::Value;

pub use decode_stream::DecodeStream;

use crate::error::TokenizerError;
use definitions::END_OF_TEXT;

/// What other models call the token that ends a text, the most usual first.
const END_OF_TEXT_NAMES: &[&str] = &[
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "<|eot_id|>",
];

/// What a tokenizer's tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// The bytes of the text.
    Byte,
    /// Its characters.
    Char,
    /// Whatever a `tokenizer.json` says.
    File,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Byte => "byte",
            Self::Char => "char",
            Self::File => "file",
        })
    }
}

/// A tokenizer. Cloning it copies a pointer.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    kind: Kind,
    vocab_size: usize,
    eos_id: Option<u32>,
}

#[derive(Clone)]
enum Kind {
    Bytes,
    Chars(Arc<Chars>),
    Other,
}

/// Characters by id, and ids by character.
struct Chars {
    by_id: Vec<char>,
    ids: HashMap<char, u32>,
}

impl Chars {
    fn new(by_id: Vec<char>) -> Self {
        let ids = by_id
            .iter()
            .enumerate()
            .map(|(id, &character)| (character, id as u32))
            .collect();
        Self { by_id, ids }
    }

    fn get(&self, id: u32) -> Option<char> {
        self.by_id.get(id as usize).copied()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("kind", &self.kind())
            .field("vocab_size", &self.vocab_size)
            .field("eos_id", &self.eos_id)
            .finish()
    }
}

impl Tokenizer {
    /// The byte tokenizer: ids 0 to 255 are the bytes of the text, 256 is `<|endoftext|>`.
    pub fn bytes() -> Self {
        Self::built_in(&definitions::bytes(), Kind::Bytes)
    }

    /// A character tokenizer: the distinct characters of `text`, sorted, have the ids from 0, and
    /// `<|endoftext|>` has the last.
    pub fn chars(text: impl Iterator<Item = char>) -> Self {
        // A set first: the text may be a whole book, its alphabet is small.
        let distinct: BTreeSet<char> = text.collect();
        let characters: Vec<char> = distinct.into_iter().collect();
        Self::built_in(
            &definitions::chars(&characters),
            Kind::Chars(Arc::new(Chars::new(characters))),
        )
    }

    fn built_in(definition: &Value, kind: Kind) -> Self {
        let inner = tokenizers::Tokenizer::from_bytes(definition.to_string())
            .expect("the definitions of this crate are valid, which its tests check");
        Self::new(inner, kind)
    }

    fn new(inner: tokenizers::Tokenizer, kind: Kind) -> Self {
        let ids = inner.get_vocab(true).into_values();
        let vocab_size = ids.max().map_or(0, |id| id as usize + 1);
        let special = |name: &&&str| inner.get_added_vocabulary().is_special_token(name);
        let eos = END_OF_TEXT_NAMES.iter().find(special);
        let eos_id = eos.and_then(|name| inner.token_to_id(name));
        Self {
            inner: Arc::new(inner),
            kind,
            vocab_size,
            eos_id,
        }
    }

    /// The text of a `tokenizer.json` that gives this tokenizer again.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the `tokenizers` crate cannot write what it has read.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(true).map_err(failed)
    }

    /// Writes a `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let path = path.as_ref();
        let json = self.to_json()?;
        infinity_files::write(path, json.as_bytes()).map_err(|source| TokenizerError::Write {
            path: path.into(),
            source,
        })
    }

    /// The token ids of a text, without special tokens around it.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownChar`] for a character tokenizer, [`TokenizerError::Failed`] for
    /// a tokenizer from a file.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::Chars(chars) => {
                let id = |(position, character)| {
                    chars
                        .ids
                        .get(&character)
                        .copied()
                        .ok_or(TokenizerError::UnknownChar {
                            character,
                            position,
                            vocab_size: self.vocab_size,
                        })
                };
                text.chars().enumerate().map(id).collect()
            }
            Kind::Other => {
                let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The token ids of many texts, each encoded alone; tokenizers from a file use all cores.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), for the first text that fails.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, TokenizerError> {
        if !matches!(self.kind, Kind::Other) {
            return texts.iter().map(|text| self.encode(text)).collect();
        }
        let encodings = self
            .inner
            .encode_batch_fast(texts.to_vec(), false)
            .map_err(failed)?;
        Ok(encodings
            .iter()
            .map(|encoding| encoding.get_ids().to_vec())
            .collect())
    }

    /// The text of tokens; special tokens are left out, and bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        ids.iter().try_for_each(|&id| self.check_id(id))?;
        match &self.kind {
            Kind::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::Chars(chars) => Ok(ids.iter().filter_map(|&id| chars.get(id)).collect()),
            Kind::Other => self.inner.decode(ids, true).map_err(failed),
        }
    }

    /// Starts decoding tokens one at a time.
    pub fn decode_stream(&self) -> DecodeStream {
        DecodeStream::new(self.clone())
    }

    /// One more than the largest id: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that ends a text, if the tokenizer has one under a usual name.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// What the tokens are.
    pub fn kind(&self) -> TokenizerKind {
        match self.kind {
            Kind::Bytes => TokenizerKind::Byte,
            Kind::Chars(_) => TokenizerKind::Char,
            Kind::Other => TokenizerKind::File,
        }
    }

    /// The token's name in the vocabulary (`Ġthe`), if there is such a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    fn check_id(&self, id: u32) -> Result<(), TokenizerError> {
        if (id as usize) < self.vocab_size {
            return Ok(());
        }
        Err(TokenizerError::UnknownId {
            id,
            vocab_size: self.vocab_size,
        })
    }
}

fn failed(error: impl fmt::Display) -> TokenizerError {
    TokenizerError::Failed {
        reason: error.to_string(),
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "Bytes",
            Self::Chars(_) => "Chars",
            Self::Other => "Other",
        })
    }
}
