//! Text from tokens as they come: only what later tokens cannot change, and together exactly what
//! the tokens add to the text before them.
//!
//! A token may be part of a character, and decoders look at a token's neighbours and at whether it
//! is the first. Where tokens are bytes, the bytes are collected and cut at characters. Elsewhere
//! the last tokens are decoded again with each new one, and the difference is the new text.

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use crate::error::TokenizerError;

/// Tokens decoded again with each new one, so that none of the new is the first of a text.
const CONTEXT: usize = 4;
/// Tokens of the text before that are looked at.
const BEFORE: usize = 64;

impl Tokenizer {
    /// Starts decoding tokens one at a time, as the continuation of `before`: what it gives is what
    /// its tokens add to the text of these.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_stream(&self, before: &[u32]) -> Result<DecodeStream, TokenizerError> {
        DecodeStream::after(self.clone(), before)
    }
}

/// Turns tokens into text, one at a time.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    pending: Pending,
}

#[derive(Clone, Debug)]
enum Pending {
    /// Bytes on their way to being characters.
    Bytes(Vec<u8>),
    Window(Window),
}

/// The last tokens and what is known of their text.
#[derive(Clone, Debug)]
struct Window {
    ids: Vec<u32>,
    /// The part of their text that has been given.
    given: String,
    /// The tokens after them that stand for single bytes: together they are characters only if all
    /// of them are.
    run: Vec<u32>,
    run_bytes: Vec<u8>,
    /// How many of the run are given, as U+FFFD.
    run_given: usize,
    parts: Parts,
}

/// Parts of a decoder that make text depend on later tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    byte_fallback: bool,
    byte_level: bool,
}

impl Parts {
    fn of(decoder: &DecoderWrapper) -> Self {
        match decoder {
            DecoderWrapper::ByteFallback(_) => Self {
                byte_fallback: true,
                ..Self::default()
            },
            DecoderWrapper::ByteLevel(_) => Self {
                byte_level: true,
                ..Self::default()
            },
            DecoderWrapper::Sequence(parts) => {
                let parts = parts.get_decoders().iter().map(Self::of);
                parts.fold(Self::default(), |a, b| Self {
                    byte_fallback: a.byte_fallback || b.byte_fallback,
                    byte_level: a.byte_level || b.byte_level,
                })
            }
            _ => Self::default(),
        }
    }
}

impl DecodeStream {
    pub(super) fn after(tokenizer: Tokenizer, before: &[u32]) -> Result<Self, TokenizerError> {
        let pending = match &tokenizer.spellings {
            Some(_) => Pending::Bytes(Vec::new()),
            None => Pending::Window(Window {
                ids: Vec::new(),
                given: String::new(),
                run: Vec::new(),
                run_bytes: Vec::new(),
                run_given: 0,
                parts: tokenizer
                    .inner
                    .get_decoder()
                    .map_or_else(Parts::default, Parts::of),
            }),
        };
        let mut stream = Self { tokenizer, pending };
        before
            .iter()
            .try_for_each(|&id| stream.tokenizer.check_id(id))?;
        // What has no text is no context.
        let spoken = before
            .iter()
            .rev()
            .copied()
            .filter(|&id| !stream.tokenizer.is_silent(id));
        let mut last: Vec<u32> = spoken.take(BEFORE).collect();
        last.reverse();
        for id in last {
            stream.push(id)?;
        }
        if let Pending::Window(window) = &mut stream.pending {
            window.settle(&stream.tokenizer)?;
        }
        Ok(stream)
    }

    /// Takes the next token; gives the text that is sure with it, or `None` if there is none.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`], or a decoder that refuses.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.tokenizer.check_id(id)?;
        let silent = self.tokenizer.is_silent(id);
        let text = match (&mut self.pending, &self.tokenizer.spellings) {
            (Pending::Bytes(bytes), Some(spellings)) => {
                bytes.extend_from_slice(&spellings[id as usize]);
                whole_characters(bytes)
            }
            (Pending::Window(window), _) if !silent => window.push(&self.tokenizer, id)?,
            _ => String::new(),
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// The text that is held back, as it is if no token follows: with U+FFFD for a character that
    /// did not become whole.
    ///
    /// # Errors
    /// A decoder that refuses.
    pub fn held(&self) -> Result<String, TokenizerError> {
        match &self.pending {
            Pending::Bytes(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Pending::Window(window) => window.held(&self.tokenizer),
        }
    }

    /// Ends the text with what is [`held`](Self::held) back.
    ///
    /// # Errors
    /// As [`held`](Self::held).
    pub fn finish(self) -> Result<Option<String>, TokenizerError> {
        Some(self.held())
            .transpose()
            .map(|text| text.filter(|text| !text.is_empty()))
    }
}

/// Takes all whole characters, with U+FFFD for bytes that can be none, and leaves the rest.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let (mut text, mut rest) = (String::new(), Vec::new());
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        if chunks.peek().is_none() && is_beginning(chunk.invalid()) {
            rest = chunk.invalid().to_vec();
        } else if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    *bytes = rest;
    text
}

/// Whether further bytes can make characters of these.
fn is_beginning(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        if let Some(byte) = self.byte_of(tokenizer, id) {
            self.run.push(id);
            self.run_bytes.push(byte);
            // Of a run that is no text, each byte is a U+FFFD, whatever follows.
            let lost = match is_beginning(&self.run_bytes) {
                true => 0,
                false => self.run.len() - self.run_given,
            };
            self.run_given += lost;
            return Ok(char::REPLACEMENT_CHARACTER.to_string().repeat(lost));
        }
        self.close_run(tokenizer)?;
        self.ids.push(id);
        let mut text = tokenizer.decode(&self.ids)?;
        if self.parts.byte_level && text.ends_with(char::REPLACEMENT_CHARACTER) {
            // It may be the beginning of a character.
            text.pop();
        }
        let new = after_common(&self.given, &text).to_owned();
        self.given = text;
        self.forget(tokenizer)?;
        Ok(new)
    }

    /// Ends a run of bytes: it becomes part of the context.
    fn close_run(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        self.ids.append(&mut self.run);
        self.run_bytes.clear();
        if std::mem::take(&mut self.run_given) > 0 {
            self.given = tokenizer.decode(&self.ids)?;
        }
        Ok(())
    }

    /// Takes all that can be a whole text as given: what comes continues it.
    fn settle(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        let whole = match str::from_utf8(&self.run_bytes) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.run.len(),
        };
        // Bytes that have no text yet, as a space that the decoder strips, were not given: those that come decide.
        let settled = tokenizer.decode(&[&*self.ids, &self.run[..whole]].concat())?;
        let whole = match after_common(&self.given, &settled) {
            "" => 0,
            _ => whole,
        };
        let (run, bytes) = (self.run.split_off(whole), self.run_bytes.split_off(whole));
        self.run_given = self.run.len();
        self.close_run(tokenizer)?;
        (self.run, self.run_bytes) = (run, bytes);
        Ok(())
    }

    /// Leaves only the last tokens, so that each further one costs the same.
    fn forget(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        if self.ids.len() > 4 * CONTEXT {
            let holds = tokenizer.decode(&self.ids)? != self.given;
            self.ids.drain(..self.ids.len() - CONTEXT);
            self.given = tokenizer.decode(&self.ids)?;
            if holds && self.given.ends_with(char::REPLACEMENT_CHARACTER) {
                self.given.pop();
            }
        }
        Ok(())
    }

    fn held(&self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        if self.run_given > 0 {
            return Ok(String::new());
        }
        let text = tokenizer.decode(&[&*self.ids, &*self.run].concat())?;
        Ok(after_common(&self.given, &text).to_owned())
    }

    /// The byte that a token stands for, where the decoder puts bytes together.
    fn byte_of(&self, tokenizer: &Tokenizer, id: u32) -> Option<u8> {
        let token = tokenizer.token(id).filter(|_| self.parts.byte_fallback)?;
        let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
        u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| digits.len() == 2)
    }
}

/// What `text` has after its common beginning with `given`. A decoder may rewrite what it said (a
/// space before a comma, say), but what is given cannot be taken back.
fn after_common<'a>(given: &str, text: &'a str) -> &'a str {
    let pairs = given.chars().zip(text.chars());
    let common = pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
    &text[common.sum()..]
}
