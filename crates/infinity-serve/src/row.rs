//! One request on its way: what it reads, what it was told, and what is left to tell.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use infinity_model::generate::Past;
use infinity_model::sampler::Draws;
use infinity_model::{Context, Decoder, FinishReason, GenerationConfig, ModelState};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::error::EngineError;
use crate::logprobs::logprobs;
use crate::request::{Event, Request, Start, Token, Usage};
use crate::session::SessionId;
use crate::shared::{Place, Shared};

/// What a row needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A piece of its prompt.
    Reading,
    /// A step for its newest token.
    Decoding,
    /// A step for its last token, which was drawn and not read, since its session goes on.
    LastToken,
    /// Nothing: it is at its end.
    Nothing,
}

/// A request among the rows.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) request: Request,
    decoder: Decoder,
    /// Its state, while it is in no batch and in no piece.
    pub(crate) state: Option<ModelState>,
    /// The logits after the last token that was read, where they are needed.
    logits: Vec<f32>,
    recent: Vec<u32>,
    /// The draws before it.
    draws: Option<Draws>,
    events: mpsc::Sender<Event>,
    unsent: VecDeque<Event>,
    closing: bool,
    /// Whether its end was told, or waits to be.
    ended: bool,
    cached: usize,
    /// Tokens before the prompt.
    before: u64,
    shared: Arc<Shared>,
    started: Instant,
    last_token: Option<Instant>,
}

impl Row {
    /// Begins to continue the text of `context`, of whose prompt the first `cached` tokens are read
    /// already.
    pub(crate) fn new(
        request: Request,
        events: mpsc::Sender<Event>,
        context: Context,
        cached: usize,
        shared: &Arc<Shared>,
    ) -> Result<Self, EngineError> {
        let config = GenerationConfig {
            max_new_tokens: Some(request.max_tokens.max(1)),
            max_length: None,
            ..request.sampling.clone()
        };
        let Context {
            state,
            logits,
            past,
            ..
        } = context;
        let before = state.position[0] - cached as u64;
        let tokenizer = Some(&shared.tokenizer);
        let prompt = request.prompt.clone();
        let decoder = Decoder::new(&shared.model, tokenizer, prompt, &past, &config)?;
        let mut row = Self {
            decoder: decoder.aligned_to(before).after(cached),
            request,
            state: Some(state),
            recent: past.recent,
            draws: past.draws,
            logits,
            events,
            unsent: VecDeque::new(),
            closing: false,
            ended: false,
            cached,
            before,
            shared: Arc::clone(shared),
            started: Instant::now(),
            last_token: None,
        };
        row.recent.extend(&row.request.prompt[..cached]);
        if row.request.prompt.is_empty() && !row.only_reads() {
            let logits = std::mem::take(&mut row.logits);
            row.draw(&logits)?;
            row.logits = logits;
        }
        Ok(row)
    }

    fn only_reads(&self) -> bool {
        self.request.max_tokens == 0
    }

    /// What it needs next.
    pub(crate) fn need(&self) -> Need {
        match (self.decoder.finish(), self.closing) {
            (_, true) => Need::LastToken,
            (Some(_), false) => Need::Nothing,
            (None, _) if self.decoder.prompt_left() > 0 => Need::Reading,
            (None, _) if self.only_reads() => Need::Nothing,
            (None, _) => Need::Decoding,
        }
    }

    /// The tokens to read next.
    pub(crate) fn wants(&self) -> &[u32] {
        self.decoder.wants()
    }

    /// New tokens that may still come.
    pub(crate) fn left(&self) -> usize {
        self.decoder.left()
    }

    /// Whether the logits after every token of the prompt are needed.
    pub(crate) fn scores(&self) -> bool {
        self.request.echo && self.request.logprobs.is_some()
    }

    /// Tokens of the prompt that are read.
    pub(crate) fn read(&self) -> usize {
        self.decoder.prompt_tokens() - self.decoder.prompt_left()
    }

    /// Takes what came of a piece of its prompt: the state after it, and the logits after its last
    /// token, or after each if it [scores](Self::scores).
    pub(crate) fn take_piece(
        &mut self,
        state: ModelState,
        logits: &[f32],
    ) -> Result<(), EngineError> {
        let vocab = self.shared.model.vocab_size;
        self.state = Some(state);
        self.recent.extend(self.decoder.wants());
        if self.request.echo {
            self.echo(logits);
        }
        let last = logits[logits.len() - vocab..].to_vec();
        let tokens = self.decoder.wants().len();
        self.shared.metrics.read_tokens.add(tokens as u64);
        if self.only_reads() || self.decoder.prompt_left() > tokens {
            self.decoder.read_on();
        } else {
            self.draw(&last)?;
        }
        self.logits = last;
        let (tokens, of) = (self.read(), self.decoder.prompt_tokens());
        // A new token is told after it.
        let drawn = match self.unsent.back() {
            Some(Event::Token(_)) => self.unsent.pop_back(),
            _ => None,
        };
        // More follow: a slow reader may miss some.
        if matches!(self.unsent.back(), Some(Event::Read { .. })) {
            self.unsent.pop_back();
        }
        self.unsent.push_back(Event::Read { tokens, of });
        self.unsent.extend(drawn);
        self.flush();
        Ok(())
    }

    /// Tells of the prompt's tokens in the piece that was read.
    fn echo(&mut self, logits: &[f32]) {
        let vocab = self.shared.model.vocab_size;
        let piece = self.decoder.wants().to_vec();
        for (i, id) in piece.into_iter().enumerate() {
            let given = match i {
                0 => &self.logits[..],
                _ if self.scores() => &logits[(i - 1) * vocab..i * vocab],
                _ => &[],
            };
            let token = self.token(id, String::new(), given);
            self.unsent.push_back(Event::Echo(token));
        }
    }

    fn token(&self, id: u32, text: String, logits: &[f32]) -> Token {
        let (logprob, top) = match self.request.logprobs {
            Some(top) if !logits.is_empty() => {
                let (logprob, top) = logprobs(logits, id, top);
                (Some(logprob), top)
            }
            _ => (None, Vec::new()),
        };
        Token {
            id,
            text,
            logprob,
            top,
        }
    }

    /// Takes the logits after its newest token: of the last one to keep them, else to draw the next.
    pub(crate) fn take_step(&mut self, logits: &[f32]) -> Result<(), EngineError> {
        self.recent.extend(self.decoder.wants());
        if self.closing {
            self.closing = false;
            self.logits = logits.to_vec();
            return Ok(());
        }
        self.draw(logits)?;
        self.flush();
        Ok(())
    }

    fn draw(&mut self, logits: &[f32]) -> Result<(), EngineError> {
        let text = self.decoder.take(logits)?.to_owned();
        let id = *self.decoder.tokens().last().expect("one was drawn");
        let token = self.token(id, text, logits);
        self.unsent.push_back(Event::Token(token));
        let (metrics, now) = (&self.shared.metrics, Instant::now());
        metrics.new_tokens.add(1);
        match self.last_token.replace(now) {
            Some(last) => metrics.token_gap.add(now - last),
            None => metrics.first_token.add(now - self.started),
        }
        self.close();
        Ok(())
    }

    /// At its end, a session's row reads its last token.
    fn close(&mut self) {
        let ends = self.decoder.finish().is_some() && !self.decoder.tokens().is_empty();
        self.closing = ends && self.session().is_some();
    }

    /// Ends it now. False if nothing of it is worth keeping.
    pub(crate) fn interrupt(&mut self) -> bool {
        if self.decoder.tokens().is_empty() {
            return false;
        }
        if self.decoder.finish().is_none() {
            self.decoder.interrupt();
            self.close();
        }
        true
    }

    /// The session that it changes.
    pub(crate) fn session(&self) -> Option<&SessionId> {
        match &self.request.start {
            Start::Session(id) => Some(id),
            _ => None,
        }
    }

    /// The text as it is now, in memory of its own.
    pub(crate) fn context(&mut self) -> Option<Context> {
        let mut past = Past {
            recent: std::mem::take(&mut self.recent),
            draws: match self.only_reads() {
                true => self.draws,
                false => Some(self.decoder.draws()),
            },
            has_logits: !self.logits.is_empty(),
        };
        past.keep_recent(&self.request.sampling);
        let state = self.state.take()?.compact();
        let logits = std::mem::take(&mut self.logits);
        Some(Context::after(state, logits, past))
    }

    /// What it took.
    pub(crate) fn usage(&self) -> Usage {
        let new_tokens = self.decoder.tokens().len();
        Usage {
            prompt_tokens: self.decoder.prompt_tokens(),
            cached_tokens: self.cached,
            new_tokens,
            position: self.before + (self.read() + new_tokens) as u64,
            seed: self.decoder.draws().seed,
            repeated: false,
        }
    }

    /// Tells of its end.
    pub(crate) fn end(&mut self, end: Result<(), EngineError>) {
        self.ended = true;
        let metrics = &self.shared.metrics;
        metrics.request.add(self.started.elapsed());
        let event = match end {
            Ok(()) => {
                metrics.finished.add(1);
                Event::Finished {
                    reason: self.decoder.finish().unwrap_or(FinishReason::Length),
                    usage: self.usage(),
                }
            }
            Err(error) => {
                metrics.failed.add(1);
                Event::Failed(error)
            }
        };
        self.unsent.push_back(event);
        self.flush();
    }

    /// Hands on what was not told yet, as much as the reader has room for.
    pub(crate) fn flush(&mut self) {
        while let Some(event) = self.unsent.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.unsent.push_front(event);
                    return;
                }
                Err(TrySendError::Closed(_)) => self.unsent.clear(),
            }
        }
    }

    /// Whether nothing follows what it has to tell.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether its reader is behind.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether its reader is behind by more than how far its prompt is read.
    pub(crate) fn is_far_behind(&self) -> bool {
        self.unsent.len() > 1
    }

    /// Whether nobody reads what it is told.
    pub(crate) fn is_left(&self) -> bool {
        self.events.is_closed()
    }
}

/// A request that waits for a place among the rows.
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) _place: Place,
}
