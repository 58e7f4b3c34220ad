//! Text from a model: read the prompt, then one token after the other.
//!
//! Reading a prompt and writing a token cost the same at position 10 and at position 10 million,
//! so nothing here limits how long either is. The steps of one text are a [`Decoder`]'s; these
//! functions read for it.

#[cfg(test)]
mod tests;

use std::{ops::ControlFlow, time::Instant};

use burn::prelude::*;

pub use crate::decoder::{Decoder, FinishReason, Past};
pub use crate::generation_config::{DEFAULT_MAX_NEW_TOKENS, GenerationConfig};

use crate::error::GenerateError;
use crate::model::InfinityModel;
use crate::state::ModelState;
use crate::tokenizer::Tokenizer;

/// Tokens that a context remembers by name, if penalties do not look back on more.
const RECENT: usize = 64;

/// What was generated, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new text: without the prompt, stop strings and special tokens; empty without a
    /// tokenizer.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not read, because the caller ended it before.
    pub prompt_left: usize,
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

/// A text up to some place: what the model remembers of it, and how it goes on.
#[derive(Clone, Debug)]
pub struct Context {
    /// The state after its last token; one row.
    pub state: ModelState,
    /// The logits after its last token; empty before the first.
    pub logits: Vec<f32>,
    /// Its last tokens and its draws.
    pub past: Past,
}

impl Context {
    /// A text that has no tokens yet.
    pub fn new(model: &InfinityModel) -> Self {
        Self {
            state: model.initial_state(1),
            logits: Vec::new(),
            past: Past::default(),
        }
    }

    /// Tokens of the text.
    pub fn position(&self) -> u64 {
        self.state.position.first().copied().unwrap_or(0)
    }

    /// Reads tokens, if there are any; gives the logits after the last.
    ///
    /// # Errors
    /// [`GenerateError::Device`].
    pub fn read(&mut self, model: &InfinityModel, tokens: &[u32]) -> Result<&[f32], GenerateError> {
        if tokens.is_empty() {
            return Ok(&self.logits);
        }
        let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
        let data = TensorData::new(ids, [tokens.len()]);
        let ids = Tensor::<1, Int>::from_data(data, &model.device());
        let state = self.state.clone();
        let (logits, state) = match tokens.len() {
            1 => model.decode_step(ids, state),
            _ => model.prefill(ids.unsqueeze(), state),
        };
        let device_error = |reason: String| GenerateError::Device { reason };
        let data = logits
            .try_into_data()
            .map_err(|error| device_error(error.to_string()))?;
        self.logits = data
            .try_into_vec_as::<f32>()
            .map_err(|error| device_error(error.to_string()))?;
        self.state = state;
        self.past.recent.extend(tokens);
        self.past.has_logits = true;
        Ok(&self.logits)
    }
}

/// Continues `prompt`.
///
/// `on_text` is called after each step with the new text that is sure to be part of the result,
/// which may be empty: whole characters, and never the beginning of a stop string. A step reads one
/// piece of the prompt or draws one token. It ends generation by returning `Break`.
///
/// An empty prompt begins a new text: the model reads its `bos_token_id`, or the token that
/// separates texts.
///
/// # Errors
/// [`GenerateError`]: a setting out of range, a prompt that cannot be encoded or of which too much
/// would be left out, that leaves no room under `max_length` or that holds tokens the model does
/// not know, or a model that gives no numbers.
pub fn generate(
    model: &InfinityModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let mut context = Context::new(model);
    continue_text(model, tokenizer, prompt, &mut context, config, on_text)
}

/// Continues the text in `context` with `prompt`, as [`generate`] does, and gives the context after
/// all of it, prompt and new tokens. An empty prompt goes on where the text stands, as if it had
/// not been interrupted there.
///
/// # Errors
/// As [`generate`].
pub fn generate_from(
    model: &InfinityModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    mut context: Context,
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<(Generation, Context), GenerateError> {
    let made = continue_text(model, tokenizer, prompt, &mut context, config, on_text)?;
    // The last token was drawn and not read; what comes next must follow it.
    if let Some(last) = made.tokens.last() {
        context.read(model, &[*last])?;
    }
    let recent = &mut context.past.recent;
    recent.drain(
        ..recent
            .len()
            .saturating_sub(RECENT.max(config.repeat_last_n)),
    );
    Ok((made, context))
}

/// Continues `prompt`, for callers without a tokenizer: stop strings are not looked for.
/// `on_token` is called with each new token but one that ends the text.
///
/// # Errors
/// As [`generate`].
pub fn generate_tokens(
    model: &InfinityModel,
    prompt: &[u32],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let mut context = Context::new(model);
    let past = Past::default();
    let decoder = Decoder::new(model.config(), None, prompt.to_vec(), &past, config)?;
    run(
        model,
        decoder,
        &mut context,
        &mut |decoder| match decoder.tokens().last() {
            Some(token) if decoder.finish() != Some(FinishReason::Eos) => on_token(*token),
            _ => ControlFlow::Continue(()),
        },
    )
}

fn continue_text(
    model: &InfinityModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    context: &mut Context,
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    tokenizer.dropped(prompt)?.check()?;
    let mut ids = tokenizer.encode(prompt)?;
    if ids.is_empty() && !context.past.has_logits {
        // Texts are separated by one token in training, so what follows it is a beginning.
        let known = model.config();
        let first = known.bos_token_id.or(known.eos_token_id);
        ids.extend(first.or(tokenizer.eos_id()));
    }
    let decoder = Decoder::new(model.config(), Some(tokenizer), ids, &context.past, config)?;
    let mut shown = 0;
    run(model, decoder, context, &mut |decoder| {
        let text = &decoder.text()[shown..];
        shown = decoder.text().len();
        on_text(text)
    })
}

/// Reads what `decoder` wants until it has finished.
fn run(
    model: &InfinityModel,
    mut decoder: Decoder,
    context: &mut Context,
    on_step: &mut dyn FnMut(&Decoder) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let (start, mut prefill_s) = (Instant::now(), 0.0);
    let finish = loop {
        let logits = context.read(model, decoder.wants())?;
        if decoder.tokens().is_empty() {
            prefill_s = start.elapsed().as_secs_f64();
        }
        decoder.take(logits)?;
        if on_step(&decoder).is_break() {
            decoder.interrupt();
        }
        if let Some(finish) = decoder.finish() {
            break finish;
        }
    };
    context.past.draws = Some(decoder.draws());
    Ok(Generation {
        text: decoder.text().to_owned(),
        prompt_tokens: decoder.prompt_tokens(),
        prompt_left: decoder.prompt_left(),
        tokens: decoder.tokens().to_vec(),
        finish,
        prefill_s,
        decode_s: start.elapsed().as_secs_f64() - prefill_s,
        seed: decoder.draws().seed,
        state_bytes: context.state.bytes(),
        // The newest token is part of the text, and not read yet.
        position: context.position() + u64::from(!decoder.tokens().is_empty()),
    })
}
