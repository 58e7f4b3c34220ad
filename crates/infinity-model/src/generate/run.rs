//! The loop: read the prompt, then draw a token, read it, draw the next.
//!
//! The model is a function from tokens to the logits after them, so that the loop can be tested
//! with a model that says what the test wants.

use std::{ops::ControlFlow, time::Instant};

use super::{FinishReason, GenerationConfig, TokenGeneration};
use crate::config::ModelConfig;
use crate::error::GenerateError;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// Reads tokens after those it has read before; gives the logits after the last.
pub(super) type Read<'a> = dyn FnMut(&[u32]) -> Result<Vec<f32>, GenerateError> + 'a;

/// Which tokens there are, for one call.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    /// Tokens the model can read.
    pub(super) known: usize,
    /// Tokens that may be drawn: a model's vocabulary may be padded beyond the tokenizer's.
    pub(super) drawable: usize,
    /// Tokens that end a text.
    pub(super) eos: Vec<u32>,
}

impl Vocabulary {
    pub(super) fn new(
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
        config: &GenerationConfig,
    ) -> Self {
        let known = model.vocab_size;
        let drawable = tokenizer.map_or(known, |tokenizer| tokenizer.vocab_size().min(known));
        let eos = if config.ignore_eos {
            Vec::new()
        } else if config.eos_token_id.is_empty() {
            model
                .eos_token_id
                .into_iter()
                .chain(tokenizer.and_then(Tokenizer::eos_id))
                .collect()
        } else {
            config.eos_token_id.clone()
        };
        Self {
            known,
            drawable,
            eos,
        }
    }
}

/// Generates tokens. `on_token` sees each new token but one that ends the text, and may end it.
pub(super) fn run(
    read: &mut Read<'_>,
    prompt: &[u32],
    config: &GenerationConfig,
    vocabulary: &Vocabulary,
    on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<FinishReason>, GenerateError>,
) -> Result<TokenGeneration, GenerateError> {
    config.validate()?;
    check_prompt(prompt, vocabulary.known)?;
    let limit = config.new_token_limit(prompt.len())?;
    // Of a size that a person can type again.
    let seed = config
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut sampler = Sampler::new(config, seed);
    prompt.iter().for_each(|&token| sampler.accept(token));

    let start = Instant::now();
    let mut logits = read(prompt)?;
    let prefill_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut tokens = Vec::new();
    let finish = loop {
        let drawable = vocabulary.drawable.min(logits.len());
        let token = sampler.sample(&logits[..drawable])?;
        sampler.accept(token);
        tokens.push(token);
        if vocabulary.eos.contains(&token) {
            break FinishReason::Eos;
        }
        if let ControlFlow::Break(reason) = on_token(token)? {
            break reason;
        }
        if tokens.len() == limit {
            break FinishReason::Length;
        }
        logits = read(&[token])?;
    };
    let decode_s = start.elapsed().as_secs_f64();
    Ok(TokenGeneration {
        tokens,
        finish,
        prefill_s,
        decode_s,
        seed,
    })
}

fn check_prompt(prompt: &[u32], vocab_size: usize) -> Result<(), GenerateError> {
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    match prompt.iter().position(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(position) => Err(GenerateError::UnknownToken {
            id: prompt[position],
            position,
            vocab_size,
        }),
    }
}
