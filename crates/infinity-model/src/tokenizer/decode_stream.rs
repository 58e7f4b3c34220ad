//! Text from tokens as they come: only whole characters, and together exactly the decoded text.
//!
//! A token may be part of a character, and some decoders look at a token's neighbours. Where
//! tokens are bytes, the bytes are collected and cut at characters. Elsewhere a window of the last
//! tokens is decoded with and without the newest one, and the difference is the new text.

use super::{Kind, Tokenizer, byte_level};
use crate::error::TokenizerError;

/// How many tokens may together be one character: UTF-8 has at most four bytes.
const MAX_TOKENS_PER_CHAR: usize = 4;

/// Turns tokens into text, one at a time.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    pending: Pending,
}

#[derive(Clone, Debug)]
enum Pending {
    Bytes(Utf8Buffer),
    Window(Window),
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let pending = if tokenizer.tokens_are_bytes() {
            Pending::Bytes(Utf8Buffer::default())
        } else {
            Pending::Window(Window::default())
        };
        Self { tokenizer, pending }
    }

    /// Takes the next token; gives the text that is complete with it, or `None` if there is none.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`], or a decoder that refuses.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.tokenizer.check_id(id)?;
        let text = match &mut self.pending {
            Pending::Bytes(buffer) => buffer.push(&self.tokenizer.bytes_of(id)),
            Pending::Window(window) => window.push(&self.tokenizer, id)?,
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the text: what was held back, with U+FFFD for a character that never became whole.
    ///
    /// # Errors
    /// A decoder that refuses.
    pub fn finish(mut self) -> Result<Option<String>, TokenizerError> {
        let text = match &mut self.pending {
            Pending::Bytes(buffer) => buffer.finish(),
            Pending::Window(window) => window.finish(&self.tokenizer)?,
        };
        Ok((!text.is_empty()).then_some(text))
    }
}

impl Tokenizer {
    /// Whether decoding is: the bytes of all tokens, one after the other.
    fn tokens_are_bytes(&self) -> bool {
        match &self.kind {
            Kind::Bytes | Kind::Chars(_) => true,
            Kind::Other => matches!(
                self.inner.get_decoder(),
                Some(tokenizers::DecoderWrapper::ByteLevel(_))
            ),
        }
    }

    /// The bytes of a known token, where [`tokens_are_bytes`](Self::tokens_are_bytes).
    fn bytes_of(&self, id: u32) -> Vec<u8> {
        match &self.kind {
            Kind::Bytes => u8::try_from(id).map(|byte| vec![byte]).unwrap_or_default(),
            Kind::Chars(chars) => chars
                .get(id)
                .map(|c| c.to_string().into_bytes())
                .unwrap_or_default(),
            Kind::Other => match self.inner.id_to_token(id) {
                Some(token) if !self.is_special(&token) => byte_level::token_bytes(&token),
                _ => Vec::new(),
            },
        }
    }
}

/// Bytes on their way to being characters.
#[derive(Clone, Debug, Default)]
struct Utf8Buffer {
    bytes: Vec<u8>,
}

impl Utf8Buffer {
    /// Gives all whole characters, with U+FFFD for bytes that can be none, and keeps the rest.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.bytes.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        loop {
            match str::from_utf8(&self.bytes[done..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    done = self.bytes.len();
                    break;
                }
                Err(error) => {
                    let valid = &self.bytes[done..done + error.valid_up_to()];
                    text.push_str(&String::from_utf8_lossy(valid));
                    done += error.valid_up_to();
                    let Some(invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += invalid;
                }
            }
        }
        self.bytes.drain(..done);
        text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

/// The last tokens: `settled` of them are text already given, the others are not.
#[derive(Clone, Debug, Default)]
struct Window {
    ids: Vec<u32>,
    settled: usize,
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = self.new_text(tokenizer)?;
        let waiting = self.ids.len() - self.settled;
        // A character cut in two decodes to U+FFFD. One that stays is a character of the text.
        let is_cut = text.ends_with(char::REPLACEMENT_CHARACTER) && waiting < MAX_TOKENS_PER_CHAR;
        if text.is_empty() && waiting < MAX_TOKENS_PER_CHAR || is_cut {
            return Ok(String::new());
        }
        self.ids.drain(..self.settled);
        self.settled = self.ids.len();
        Ok(text)
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        self.new_text(tokenizer)
    }

    /// What the tokens that are not settled add to the text of the settled ones.
    fn new_text(&self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let before = tokenizer.decode(&self.ids[..self.settled])?;
        let mut with = tokenizer.decode(&self.ids)?;
        // A decoder may rewrite what it said (a space before a comma, say). What is given cannot
        // be taken back, so only what differs after the common beginning can be new.
        let common: usize = before
            .chars()
            .zip(with.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        Ok(with.split_off(common))
    }
}
