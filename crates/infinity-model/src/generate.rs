//! Text from a model: read the prompt, then one token after the other.
//!
//! Reading a prompt and writing a token cost the same at position 10 and at position 10 million,
//! so nothing here limits how long either is. The steps of one text are a [`Decoder`]'s; these
//! functions read for it.

#[cfg(test)]
mod tests;

use std::{ops::ControlFlow, path::Path, time::Instant};

use burn::prelude::*;
use infinity_files::Fingerprint;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use crate::decoder::{Decoder, FinishReason, Past};
pub use crate::generation_config::{DEFAULT_MAX_NEW_TOKENS, GenerationConfig};

use crate::compression::{Compression, Width};
use crate::error::{GenerateError, StateError, StateProblem};
use crate::model::InfinityModel;
use crate::replay::Replay;
use crate::sampler::Draws;
use crate::state::ModelState;
use crate::state_file::{self, Extra, SavedSize, fingerprint, note};
use crate::tokenizer::Tokenizer;

/// Names in the header of a context's file.
const RECENT_TOKENS: &str = "recent_tokens";
const DRAWS: &str = "draws";
const TOKENIZER: &str = "tokenizer";
const SINCE: &str = "since";

/// Which model and tokenizer a text belongs to, and how its memory is compressed. Finding it takes a look
/// at every weight, so who saves often keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    model: String,
    tokenizer: Option<String>,
    compression: Option<Compression>,
}

impl Identity {
    /// That of `model` and `tokenizer`.
    pub fn of(model: &InfinityModel, tokenizer: Option<&Tokenizer>) -> Self {
        let json = tokenizer.and_then(|tokenizer| tokenizer.to_json().ok());
        Self {
            model: fingerprint(model),
            tokenizer: json.map(|json| Fingerprint::default().field(json).hex()),
            compression: model.config().compression(),
        }
    }

    /// The [`fingerprint`] of the model.
    pub fn model(&self) -> &str {
        &self.model
    }
}

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
    /// Where a memory that is compressed while it reads was last exactly what its codes say.
    folded: Option<Folded>,
}

/// The last fold of a text, and what has been read since.
#[derive(Clone, Debug)]
struct Folded {
    state: ModelState,
    since: Since,
}

/// The tokens since a fold, as a file in fewer bits has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Since {
    compression: Compression,
    tokens: Vec<u32>,
    /// How many tokens at once: other pieces give other bits.
    pieces: Vec<usize>,
}

impl Context {
    /// A text that has no tokens yet.
    pub fn new(model: &InfinityModel) -> Self {
        let state = model.initial_state(1);
        Self {
            folded: Folded::at(model, &state),
            state,
            logits: Vec::new(),
            past: Past::default(),
        }
    }

    /// A text that was read elsewhere: the state, the logits and the past after its last token.
    pub fn after(state: ModelState, logits: Vec<f32>, past: Past) -> Self {
        Self {
            state,
            logits,
            past,
            folded: None,
        }
    }

    /// Writes it to `path`, for `model` and `tokenizer` to go on from with the same bits. The file is
    /// that of [`ModelState::save`], with the logits, the last tokens and the draws.
    ///
    /// # Errors
    /// As there.
    pub fn save(
        &self,
        path: &Path,
        model: &InfinityModel,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), StateError> {
        let identity = Identity::of(model, tokenizer);
        self.save_in(path, &identity, &[], None).map(drop)
    }

    /// [`save`](Self::save) with `further` entries of the file's header, which [`notes`](crate::state_file::notes)
    /// reads again, and perhaps the memory in `width` bits a number; and its sizes.
    ///
    /// Where the model compresses its memory while it reads, the file holds the codes of the last
    /// compression and the tokens read since, which [`load`](Self::load) reads again: on a CPU, the
    /// text goes on with the same bits. Else, also where an exact state was loaded between two compressions
    /// and none was reached since, the memory is compressed for the file alone, and what is loaded is not exact.
    ///
    /// # Errors
    /// As [`save`](Self::save), and if the model compresses to another width.
    pub fn save_in(
        &self,
        path: &Path,
        identity: &Identity,
        further: &[(&str, String)],
        width: Option<Width>,
    ) -> Result<SavedSize, StateError> {
        state_file::write(path, self.to_bytes_in(identity, further, width))
    }

    /// The bytes of the file that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// If the state has numbers of another format than f32.
    pub fn to_bytes(&self, identity: &Identity) -> Result<Vec<u8>, StateProblem> {
        Ok(self.to_bytes_in(identity, &[], None)?.0)
    }

    /// The bytes, and those of the memory in them: exact, and as they are kept in the width that is
    /// asked for by a model that compresses its memory so.
    fn to_bytes_in(
        &self,
        identity: &Identity,
        further: &[(&str, String)],
        width: Option<Width>,
    ) -> Result<(Vec<u8>, [usize; 2]), StateProblem> {
        let mut state = &self.state;
        let mut notes = vec![(RECENT_TOKENS, json!(self.past.recent).to_string())];
        let draws = self.past.draws;
        notes.extend(draws.map(|draws| (DRAWS, json!(draws).to_string())));
        notes.extend(identity.tokenizer.clone().map(|hash| (TOKENIZER, hash)));
        if let (Some(width), Some(compression)) = (width, identity.compression) {
            if width != compression.width {
                let found = format!("{width} bits");
                return Err(other_compression(&found, Some(compression)));
            }
            if let Some(folded) = &self.folded {
                state = &folded.state;
                notes.push((SINCE, json!(folded.since).to_string()));
            }
        }
        notes.extend_from_slice(further);
        let notes = notes.into_iter();
        let notes = notes.map(|(key, value)| (key.to_owned(), value));
        let extra = Extra {
            logits: self.logits.clone(),
            notes: notes.collect(),
        };
        state.to_bytes_with(Some(&identity.model), &extra, width)
    }

    /// Reads what [`save`](Self::save) wrote, or a state of one row that was saved alone.
    ///
    /// # Errors
    /// As [`ModelState::load`]; also if the text's tokens are another tokenizer's.
    pub fn load(
        path: &Path,
        model: &InfinityModel,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self, StateError> {
        state_file::read(path, |bytes| {
            Self::from_bytes(bytes, model, &Identity::of(model, tokenizer))
        })
    }

    /// Reads the bytes of a file that [`save`](Self::save) wrote. `identity` is that of `model` and
    /// the text's tokenizer.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(
        bytes: &[u8],
        model: &InfinityModel,
        identity: &Identity,
    ) -> Result<Self, StateProblem> {
        let (state, Extra { logits, notes }) =
            ModelState::from_bytes_of(bytes, model, &identity.model)?;
        let damaged = |what: &str| StateProblem::NotAState(what.to_owned());
        if let (Some(found), Some(own)) = (notes.get(TOKENIZER), &identity.tokenizer)
            && found != own
        {
            let unfit = "the state of a text in the tokens of another tokenizer";
            return Err(StateProblem::Unfit(unfit.to_owned()));
        }
        if state.batch() != 1 {
            let rows = format!("it has {} rows, and a text has one", state.batch());
            return Err(damaged(&rows));
        }
        let vocab_size = model.config().vocab_size;
        if ![0, vocab_size].contains(&logits.len()) {
            return Err(damaged("its logits are those of another vocabulary"));
        }
        let recent: Option<Vec<u32>> = note(&notes, RECENT_TOKENS, "its last tokens")?;
        let draws: Option<Draws> = note(&notes, DRAWS, "its draws")?;
        let since = "the tokens since its last compression";
        let since: Option<Since> = note(&notes, SINCE, since)?;
        let own = identity.compression;
        let mut position = state.position[0];
        if let Some(since) = &since {
            if Some(since.compression) != own {
                return Err(other_compression(&shown(Some(since.compression)), own));
            }
            if !since.fits(&state, vocab_size) {
                return Err(damaged("the tokens since its last compression do not fit"));
            }
            position = position.wrapping_add(since.tokens.len() as u64);
        }
        if draws.is_some_and(|draws| draws.count > position) {
            return Err(damaged("it has more draws than tokens"));
        }
        let known = |recent: &Vec<u32>| recent.iter().all(|&id| (id as usize) < vocab_size);
        let past = Past {
            recent: recent.filter(known).unwrap_or_default(),
            draws,
            has_logits: !logits.is_empty(),
        };
        let mut context = Self {
            past: Past::default(),
            folded: Folded::at(model, &state),
            state,
            logits,
        };
        if let Some(Since { tokens, pieces, .. }) = since {
            let mut tokens = tokens.as_slice();
            for piece in pieces {
                let (now, rest) = tokens.split_at(piece);
                let read = context.read(model, now);
                read.map_err(|error| damaged(&error.to_string()))?;
                tokens = rest;
            }
        }
        context.past = past;
        Ok(context)
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
        let (mut rest, compression) = (tokens, model.config().compression());
        while !rest.is_empty() {
            let until = compression.map(|c| c.until_fold(&self.state.position));
            let (piece, later) = rest.split_at(until.map_or(rest.len(), |n| n.min(rest.len())));
            self.read_piece(model, piece)?;
            rest = later;
        }
        Ok(&self.logits)
    }

    /// Reads tokens up to the next compression of the memory.
    fn read_piece(&mut self, model: &InfinityModel, tokens: &[u32]) -> Result<(), GenerateError> {
        let ids = ids(model, tokens);
        let state = self.state.lend(model.config());
        let (logits, state) = match tokens.len() {
            1 => model.decode_step(ids, state),
            _ => model.prefill(ids.unsqueeze(), state),
        };
        match numbers(logits) {
            Ok(logits) => self.logits = logits,
            Err(error) => {
                self.state.take_back(state, tokens.len(), model.config());
                return Err(error);
            }
        }
        self.state = state;
        self.past.recent.extend(tokens);
        self.past.has_logits = true;
        if let Some(folded) = Folded::at(model, &self.state) {
            self.folded = Some(folded);
        } else if let Some(Folded { since, .. }) = &mut self.folded {
            since.tokens.extend(tokens);
            since.pieces.push(tokens.len());
        }
        Ok(())
    }
}

/// Tokens as `model` reads them, `[T]`.
pub fn ids(model: &InfinityModel, tokens: &[u32]) -> Tensor<1, Int> {
    let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    Tensor::from_data(TensorData::new(ids, [tokens.len()]), &model.device())
}

/// The numbers of a tensor, on the host.
///
/// # Errors
/// [`GenerateError::Device`].
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, GenerateError> {
    let data = tensor.try_into_data().map_err(|error| error.to_string());
    let numbers = data.and_then(|data| {
        let numbers = data.try_into_vec_as::<f32>();
        numbers.map_err(|error| error.to_string())
    });
    numbers.map_err(|reason| GenerateError::Device { reason })
}

impl Folded {
    /// A text whose memory is just compressed, or empty; `None` if it stands between two compressions.
    fn at(model: &InfinityModel, state: &ModelState) -> Option<Self> {
        let compression = model.config().compression()?;
        compression.folds(&state.position)[0].then(|| Self {
            state: state.clone(),
            since: Since {
                compression,
                tokens: Vec::new(),
                pieces: Vec::new(),
            },
        })
    }
}

impl Since {
    /// Whether the tokens follow a fold, reach no other, and are known.
    fn fits(&self, state: &ModelState, vocab_size: usize) -> bool {
        let folded = self.compression.folds(&state.position)[0];
        let mut pieces = self.pieces.iter();
        let pieces = pieces.try_fold(0_usize, |sum, piece| sum.checked_add(*piece));
        folded
            && pieces == Some(self.tokens.len())
            && self.tokens.len() < self.compression.every
            && self.tokens.iter().all(|id| (*id as usize) < vocab_size)
    }
}

/// How a memory is compressed, in words.
fn shown(compression: Option<Compression>) -> String {
    match compression {
        Some(Compression { width, every }) => format!("{width} bits every {every} tokens"),
        None => "exact".to_owned(),
    }
}

/// The text has tokens to read again, and `model` compresses its memory in another way.
fn other_compression(found: &str, model: Option<Compression>) -> StateProblem {
    let expected = shown(model);
    StateProblem::Unfit(format!(
        "kept while the memory was compressed to {found}, and this model's is {expected}: give \
         --memory-compression and its frequency as they were"
    ))
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
    context.past.keep_recent(config);
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
    let decoder = Decoder::new(model.config(), None, prompt.to_vec(), &context.past, config)?;
    let mut on_step = |decoder: &Decoder| match decoder.tokens().last() {
        Some(token) if decoder.finish() != Some(FinishReason::Eos) => on_token(*token),
        _ => ControlFlow::Continue(()),
    };
    run(model, decoder, &mut context, &mut on_step)
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
    let mut ids = match context.position() {
        0 => tokenizer.encode_text(prompt)?,
        _ => tokenizer.encode(prompt)?,
    };
    if ids.is_empty() && context.position() == 0 {
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
    // A recorded step, which goes on from the first new token, and what it made of the last.
    let (mut recorded, mut repeated) = (None, Vec::new());
    let finish = loop {
        if decoder.tokens().len() == 1 && decoder.left() >= Replay::WORTH {
            recorded = Replay::new(model, &context.state);
        }
        let logits = match (&mut recorded, decoder.wants()) {
            (Some(recorded), [token]) => {
                repeated = numbers(recorded.step(&[*token]))?;
                &repeated
            }
            (_, tokens) => context.read(model, tokens)?,
        };
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
    if let (Some(recorded), [read @ .., _]) = (recorded, decoder.tokens())
        && !read.is_empty()
    {
        context.state = recorded.state();
        context.logits = repeated;
        context.past.recent.extend(read);
    }
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
