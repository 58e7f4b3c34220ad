//! Text to token ids and back.
//!
//! Any Hugging Face `tokenizer.json` works. Two tokenizers need no file and no network: bytes,
//! and the characters of a text. They are definitions like any other, so what [`Tokenizer::save`]
//! writes loads in other programs; here they take a direct path, when loaded from a file too.
//!
//! [`Tokenizer::encode`] never adds special tokens; [`Tokenizer::encode_text`] adds those that others put
//! around a text, for a tokenizer of their models. In a byte or character tokenizer the text `<|endoftext|>`
//! is only these characters, so every text comes back as it was; tokenizers from a file recognise
//! their special tokens in the text, because prompts are written that way.

mod definition;
mod file;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::Range,
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
};

use serde_json::Value;
use tokenizers::DecoderWrapper;

pub use stream::DecodeStream;

use crate::config::choice;
use crate::error::TokenizerError;
use definition::END_OF_TEXT;

/// The largest part of a text's characters that a tokenizer may leave out.
pub const MAX_DROPPED: f64 = 0.01;

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

choice! {
    /// What a tokenizer's tokens are.
    TokenizerKind, key = "tokenizer.kind",
    {
        /// The bytes of the text.
        Byte = "byte",
        /// Its characters.
        Char = "char",
        /// Whatever a `tokenizer.json` says.
        File = "file",
    }
}

/// A tokenizer. Cloning it copies pointers.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    kind: Kind,
    /// The bytes of each token, where the text of tokens is their bytes, one after the other.
    spellings: Option<Arc<[Box<[u8]>]>>,
    vocab_size: usize,
    eos_id: Option<u32>,
    drops: bool,
    /// What a text that begins has before it.
    before: Arc<[u32]>,
}

#[derive(Clone)]
enum Kind {
    Bytes,
    Chars(Arc<HashMap<char, u32>>),
    File,
}

/// Characters that a tokenizer has no token for and leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many are left out.
    pub characters: u64,
    /// Characters of the whole text; 0 for a tokenizer that leaves none out.
    pub of: u64,
    /// The first of them.
    pub first: Option<char>,
}

impl Dropped {
    /// The counts of this text and another.
    pub fn and(self, other: Self) -> Self {
        Self {
            characters: self.characters + other.characters,
            of: self.of + other.of,
            first: self.first.or(other.first),
        }
    }

    /// Refuses a text of which more than [`MAX_DROPPED`] is left out.
    ///
    /// # Errors
    /// [`TokenizerError::Dropped`], with the counts and the first of the characters.
    pub fn check(&self) -> Result<(), TokenizerError> {
        let Self {
            characters,
            of,
            first,
        } = *self;
        match first.filter(|_| characters as f64 > MAX_DROPPED * of as f64) {
            Some(first) => Err(TokenizerError::Dropped {
                characters,
                of,
                first,
            }),
            None => Ok(()),
        }
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
        Self::built_in(&definition::bytes_definition(), Kind::Bytes)
    }

    /// A character tokenizer: the distinct characters of `text`, sorted, have the ids from 0, and
    /// `<|endoftext|>` has the last.
    pub fn chars(text: impl Iterator<Item = char>) -> Self {
        // A set first: the text may be a whole book, its alphabet is small.
        let distinct: BTreeSet<char> = text.collect();
        let characters: Vec<char> = distinct.into_iter().collect();
        let ids = characters.iter().copied().zip(0..).collect();
        let definition = definition::chars_definition(&characters);
        Self::built_in(&definition, Kind::Chars(Arc::new(ids)))
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
            spellings: spellings(&inner, &kind, vocab_size),
            drops: matches!(kind, Kind::File) && definition::drops(&inner),
            inner: Arc::new(inner),
            kind,
            vocab_size,
            eos_id,
            before: Arc::default(),
        }
    }

    /// The same tokenizer, whose texts begin with the special tokens that its definition adds, or not; at
    /// first they do not.
    pub fn with_special_tokens(mut self, wanted: bool) -> Self {
        self.before = Arc::default();
        if wanted
            && matches!(self.kind, Kind::File)
            && let Ok(framed) = guarded(|| self.inner.encode_fast("a", true))
        {
            let added = framed.get_special_tokens_mask().iter();
            let added = added.take_while(|added| **added == 1).count();
            self.before = framed.get_ids()[..added].into();
        }
        self
    }

    /// Whether [`encode_text`](Self::encode_text) adds special tokens.
    pub fn adds_special_tokens(&self) -> bool {
        !self.before.is_empty()
    }

    /// The same tokenizer with another token that ends a text, if it has it.
    pub fn with_eos(mut self, name: &str) -> Self {
        self.eos_id = self.inner.token_to_id(name).or(self.eos_id);
        self
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
            Kind::Chars(ids) => {
                let vocab_size = self.vocab_size;
                let id = |(position, character)| {
                    let known = ids.get(&character).copied();
                    known.ok_or(TokenizerError::UnknownChar {
                        character,
                        position,
                        vocab_size,
                    })
                };
                text.chars().enumerate().map(id).collect()
            }
            Kind::File => {
                let encoding = guarded(|| self.inner.encode_fast(text, false))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The token ids of a text from its beginning: those of [`encode`](Self::encode), behind the
    /// [special tokens](Self::with_special_tokens) that the definition puts before a text. What it puts
    /// behind one is left out, for the text goes on; a text that spells the first of them itself gets none
    /// a second time.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let plain = self.encode(text)?;
        match self.before.is_empty() || plain.first() == self.before.first() {
            true => Ok(plain),
            false => Ok([&*self.before, &plain].concat()),
        }
    }

    /// The token ids of a text, each with the bytes of the text that it stands for: those of [`encode`](Self::encode) or,
    /// where it `begins` one, of [`encode_text`](Self::encode_text), whose special tokens stand for none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_placed(
        &self,
        text: &str,
        begins: bool,
    ) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let places: Vec<Range<usize>> = match &self.kind {
            Kind::Bytes => (0..text.len()).map(|at| at..at + 1).collect(),
            Kind::Chars(_) => (text.char_indices())
                .map(|(at, character)| at..at + character.len_utf8())
                .collect(),
            Kind::File => {
                let encoding = guarded(|| self.inner.encode(text, false))?;
                let places = encoding.get_offsets().iter();
                places.map(|(from, to)| *from..*to).collect()
            }
        };
        let ids = match begins {
            true => self.encode_text(text)?,
            false => self.encode(text)?,
        };
        let before = ids.len().saturating_sub(places.len());
        let places = std::iter::repeat_n(0..0, before).chain(places);
        Ok(ids.into_iter().zip(places).collect())
    }

    /// The token ids of many texts, each encoded alone; tokenizers from a file use all cores.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), for the first text that fails.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, TokenizerError> {
        if !matches!(self.kind, Kind::File) {
            return texts.iter().map(|text| self.encode(text)).collect();
        }
        let encodings = guarded(|| self.inner.encode_batch_fast(texts.to_vec(), false))?;
        let ids = encodings.iter().map(|encoding| encoding.get_ids().to_vec());
        Ok(ids.collect())
    }

    /// The text of tokens; special tokens are left out, and bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        ids.iter().try_for_each(|&id| self.check_id(id))?;
        match &self.spellings {
            Some(spellings) => {
                let bytes = ids.iter().flat_map(|&id| &*spellings[id as usize]);
                let bytes: Vec<u8> = bytes.copied().collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            // Some decoders panic without a token.
            None if ids.iter().all(|&id| self.is_silent(id)) => Ok(String::new()),
            None => guarded(|| self.inner.decode(ids, true)),
        }
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
            Kind::File => TokenizerKind::File,
        }
    }

    /// The token's name in the vocabulary (`Ġthe`), if there is such a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether decoding leaves the token out and a prompt can spell it.
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.token(id);
        token.is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Whether decoding leaves the token out.
    fn is_silent(&self, id: u32) -> bool {
        self.token(id).is_none() || self.is_special(id)
    }

    fn check_id(&self, id: u32) -> Result<(), TokenizerError> {
        let vocab_size = self.vocab_size;
        match (id as usize) < vocab_size {
            true => Ok(()),
            false => Err(TokenizerError::UnknownId { id, vocab_size }),
        }
    }
}

/// The bytes of each token, if decoding only joins them.
fn spellings(
    inner: &tokenizers::Tokenizer,
    kind: &Kind,
    vocab_size: usize,
) -> Option<Arc<[Box<[u8]>]>> {
    let by_alphabet = match kind {
        Kind::Chars(_) => false,
        Kind::Bytes => true,
        Kind::File if matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) => true,
        Kind::File => return None,
    };
    let bytes: HashMap<char, u8> = definition::alphabet().into_iter().zip(0..=255).collect();
    let added = inner.get_added_vocabulary();
    let spelling = |id: u32| -> Vec<u8> {
        let Some(token) = inner.id_to_token(id) else {
            return Vec::new();
        };
        if added.is_special_token(&token) {
            return Vec::new();
        }
        // An added token is its own text, though its characters may also stand for bytes; one that
        // is the name of a byte is that byte.
        let is_added = added.get_added_tokens_decoder().contains_key(&id);
        let of_alphabet = by_alphabet && (!is_added || token.chars().count() == 1);
        let spelled = of_alphabet.then(|| token.chars().map(|c| bytes.get(&c).copied()).collect());
        spelled.flatten().unwrap_or_else(|| token.into_bytes())
    };
    let all = (0..vocab_size as u32).map(|id| spelling(id).into_boxed_slice());
    Some(all.collect())
}

/// Calls the `tokenizers` crate, parts of which panic on definitions that they accepted before.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed("one of its parts gave up")),
    }
}

fn failed(error: impl fmt::Display) -> TokenizerError {
    TokenizerError::Failed(error.to_string())
}
