//! Text from a model: read the prompt, then one token after the other.
//!
//! Reading a prompt and writing a token cost the same at position 10 and at position 10 million,
//! so nothing here limits how long either is.

mod config;
mod run;
mod stop;
#[cfg(test)]
mod tests;
mod text;

use std::{fmt, ops::ControlFlow};

use burn::prelude::*;

pub use config::{DEFAULT_MAX_NEW_TOKENS, GenerationConfig};

use crate::config::ModelConfig;
use crate::error::GenerateError;
use crate::model::InfinityModel;
use crate::state::ModelState;
use crate::tokenizer::Tokenizer;
use run::Vocabulary;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends a text.
    Eos,
    /// A stop string.
    Stop,
    /// As many tokens as allowed.
    Length,
    /// The caller said so.
    Interrupted,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        })
    }
}

/// What was generated, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new text: without the prompt, stop strings and special tokens.
    pub text: String,
    /// Tokens read before the first new one.
    pub prompt_tokens: usize,
    /// The new tokens, the one that ended the text included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Seconds to read the prompt.
    pub prefill_s: f64,
    /// Seconds for the new tokens.
    pub decode_s: f64,
    /// The seed of the draws.
    pub seed: u64,
    /// Size of the model's state: what the text so far is remembered in.
    pub state_bytes: usize,
    /// Tokens of the whole text so far, earlier calls that left the state included.
    pub position: u64,
}

/// The new tokens of [`generate_tokens`], and what they took.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGeneration {
    /// The new tokens, the one that ended the text included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Seconds to read the prompt.
    pub prefill_s: f64,
    /// Seconds for the new tokens.
    pub decode_s: f64,
    /// The seed of the draws.
    pub seed: u64,
}

/// Continues `prompt`.
///
/// `on_text` is called with each piece of new text as soon as it is sure to be part of the result:
/// whole characters, and never the beginning of a stop string. It ends generation by returning
/// `Break`.
///
/// An empty prompt begins a new text: the model reads its `bos_token_id`, or the token that
/// separates texts.
///
/// # Errors
/// [`GenerateError`]: a setting out of range, a prompt that cannot be encoded, that leaves no room
/// under `max_length` or that holds tokens the model does not know, or a model that gives no
/// numbers.
pub fn generate(
    model: &InfinityModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let mut reader = Reader::new(model, model.initial_state(1));
    reader.generate(tokenizer, prompt, config, on_text)
}

/// Continues a text whose beginning is in `state` (one row) with `prompt`, as [`generate`] does,
/// and gives the state after all of it: prompt and new tokens.
///
/// # Errors
/// As [`generate`]. An empty prompt is an error unless `state` is at position 0.
pub fn generate_from(
    model: &InfinityModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    state: ModelState,
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(Generation, ModelState), GenerateError> {
    let mut reader = Reader::new(model, state);
    let generation = reader.generate(tokenizer, prompt, config, on_text)?;
    // The last token was drawn and not read; what comes next must follow it.
    if let Some(&last) = generation.tokens.last() {
        reader.read(&[last])?;
    }
    Ok((generation, reader.state))
}

/// Continues `prompt`, for callers without a tokenizer: stop strings are not looked for.
///
/// # Errors
/// As [`generate`].
pub fn generate_tokens(
    model: &InfinityModel,
    prompt: &[u32],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<TokenGeneration, GenerateError> {
    let mut reader = Reader::new(model, model.initial_state(1));
    let vocabulary = Vocabulary::new(model.config(), None, config);
    run::run(
        &mut |tokens| reader.read(tokens),
        prompt,
        config,
        &vocabulary,
        &mut |token| Ok(on_token(token).map_break(|()| FinishReason::Interrupted)),
    )
}

/// A model and the state it reads into.
struct Reader<'a> {
    model: &'a InfinityModel,
    device: Device,
    state: ModelState,
}

impl<'a> Reader<'a> {
    fn new(model: &'a InfinityModel, state: ModelState) -> Self {
        let device = model.device();
        Self {
            model,
            device,
            state,
        }
    }

    /// Reads tokens; gives the logits after the last.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, GenerateError> {
        let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
        let data = TensorData::new(ids, [tokens.len()]);
        let ids = Tensor::<1, Int>::from_data(data, &self.device);
        let state = self.state.clone();
        let (logits, state) = match tokens.len() {
            1 => self.model.decode_step(ids, state),
            _ => self.model.prefill(ids.unsqueeze(), state),
        };
        self.state = state;
        let device_error = |reason: String| GenerateError::Device { reason };
        let data = logits
            .try_into_data()
            .map_err(|error| device_error(error.to_string()))?;
        data.try_into_vec_as::<f32>()
            .map_err(|error| device_error(error.to_string()))
    }

    fn position(&self) -> u64 {
        self.state.position.first().copied().unwrap_or(0)
    }

    fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &str,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let before = self.position();
        let mut prompt = tokenizer.encode(prompt)?;
        if prompt.is_empty() && before == 0 {
            prompt.extend(first_token(self.model.config(), tokenizer));
        }
        let vocabulary = Vocabulary::new(self.model.config(), Some(tokenizer), config);
        let read = &mut |tokens: &[u32]| self.read(tokens);
        let (text, run) = text::run(read, tokenizer, &prompt, config, &vocabulary, on_text)?;
        let TokenGeneration {
            tokens,
            finish,
            prefill_s,
            decode_s,
            seed,
        } = run;
        Ok(Generation {
            text,
            prompt_tokens: prompt.len(),
            position: before + (prompt.len() + tokens.len()) as u64,
            tokens,
            finish,
            prefill_s,
            decode_s,
            seed,
            state_bytes: self.state.bytes(),
        })
    }
}

/// What a text without a beginning begins with: texts are separated by one token in training, so
/// what follows it is the beginning of a text.
fn first_token(config: &ModelConfig, tokenizer: &Tokenizer) -> Option<u32> {
    config
        .bos_token_id
        .or(config.eos_token_id)
        .or(tokenizer.eos_id())
}
