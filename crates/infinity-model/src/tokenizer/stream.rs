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
        let pending = match &self.spellings {
            Some(_) => Pending::Bytes(Vec::new()),
            None => {
                let has = |is| self.inner.get_decoder().is_some_and(|all| has(all, is));
                Pending::Window(Window {
                    byte_fallback: has(|part| matches!(part, DecoderWrapper::ByteFallback(_))),
                    byte_level: has(|part| matches!(part, DecoderWrapper::ByteLevel(_))),
                    ..Window::default()
                })
            }
        };
        before.iter().try_for_each(|&id| self.check_id(id))?;
        let mut stream = DecodeStream {
            tokenizer: self.clone(),
            pending,
        };
        // What has no text is no context.
        let spoken = before.iter().rev().filter(|&&id| !self.is_silent(id));
        let last: Vec<u32> = spoken.take(BEFORE).copied().collect();
        for id in last.into_iter().rev() {
            stream.push(id)?;
        }
        if let Pending::Window(window) = &mut stream.pending {
            window.settle(self)?;
        }
        Ok(stream)
    }
}

/// Whether a decoder is such a part, or has one.
fn has(decoder: &DecoderWrapper, is: fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(parts) => parts.get_decoders().iter().any(|part| has(part, is)),
        part => is(part),
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
#[derive(Clone, Debug, Default)]
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
    /// Whether the decoder has these parts, which make text depend on later tokens.
    byte_fallback: bool,
    byte_level: bool,
}

impl DecodeStream {
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
        Ok(Some(self.held()?).filter(|text| !text.is_empty()))
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
        if self.byte_level && text.ends_with(char::REPLACEMENT_CHARACTER) {
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
        let token = tokenizer.token(id).filter(|_| self.byte_fallback)?;
        let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
        let byte = u8::from_str_radix(digits, 16).ok();
        byte.filter(|_| digits.len() == 2)
    }
}

/// What `text` has after its common beginning with `given`. A decoder may rewrite what it said (a
/// space before a comma, say), but what is given cannot be taken back.
fn after_common<'a>(given: &str, text: &'a str) -> &'a str {
    let pairs = given.chars().zip(text.chars());
    let common = pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
    &text[common.sum()..]
}
