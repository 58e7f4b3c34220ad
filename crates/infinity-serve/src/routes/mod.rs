//! What is answered, by its subject.

pub(crate) mod about;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod sessions;
pub(crate) mod tokens;

use axum::http::HeaderMap;
use axum::response::Response;

use crate::answer::ApiError;
use crate::app::App;
use crate::body::idempotency_key;
use crate::choices::{Deadline, Format, stream, whole};
use crate::error::EngineError;
use crate::handle::EngineHandle;
use crate::openai::Terms;
use crate::request::{Request, Start};

/// Log-probabilities in one answer that is no stream.
const MAX_LOGPROBS: usize = 1 << 20;

/// A name for an answer.
fn answer_id(kind: &str) -> String {
    format!("{kind}-{:032x}", rand::random::<u128>())
}

/// A request for texts, whatever kind they are.
struct Asked {
    engine: EngineHandle,
    terms: Terms,
    /// What is asked of each text, but for prompts and seeds.
    request: Request,
    deadline: Deadline,
}

impl Asked {
    fn new(app: &App, headers: &HeaderMap, terms: Terms) -> Result<Self, ApiError> {
        let engine = app.engine()?;
        app.check_model(terms.model.as_deref())?;
        Ok(Self {
            engine: engine.clone(),
            request: Request {
                start: terms.start.clone(),
                idempotency_key: idempotency_key(headers)?,
                keep_partial: terms.keep_partial,
                ..Request::default()
            },
            terms,
            deadline: Deadline::after(app.config.request_time, engine),
        })
    }

    /// Checks how many texts are asked for.
    fn check_choices(&self, app: &App, prompts: usize) -> Result<(), ApiError> {
        let (n, limit) = (self.terms.n, app.config.max_choices);
        if prompts == 0 || n == 0 {
            let param = if n == 0 { "n" } else { "prompt" };
            let message = format!("{param} is empty: at least 1");
            return Err(ApiError::field(param, message));
        }
        let all = prompts.saturating_mul(n);
        if all > limit {
            let what = format!("{prompts} prompts with n = {n} are {all} texts");
            return Err(ApiError::field("n", format!("{what}: at most {limit}")));
        }
        if all > 1 && matches!(self.terms.start, Start::Session(_)) {
            let what = format!("a session is continued by one text, not {all}");
            return Err(ApiError::field(
                "session_id",
                format!("{what}: set session_fork"),
            ));
        }
        Ok(())
    }

    /// Checks how much there is to read and to tell, all texts together.
    fn check_size(&self, prompts: &[Vec<u32>]) -> Result<(), ApiError> {
        let (n, request) = (self.terms.n, &self.request);
        let read = n * prompts.iter().map(Vec::len).sum::<usize>();
        let limit = self.engine.config().max_prompt_tokens;
        if read > limit {
            let (what, value) = ("prompt tokens", read);
            return Err(EngineError::TooLarge { what, value, limit }.into());
        }
        let Some(top) = request.logprobs.filter(|_| self.terms.stream.is_none()) else {
            return Ok(());
        };
        let new = request.max_tokens.saturating_mul(n * prompts.len());
        let told = new.saturating_add(if request.echo { read } else { 0 });
        let told = told.saturating_mul(top.saturating_add(1));
        if told > MAX_LOGPROBS {
            let message = format!(
                "up to {told} log-probabilities in one answer: at most {MAX_LOGPROBS}; ask for fewer \
                 tokens, or for a stream, which may be of any length"
            );
            return Err(ApiError::field("logprobs", message));
        }
        Ok(())
    }

    /// Has all texts continued; if one is refused, none is.
    async fn answer<F: Format>(
        self,
        prompts: Vec<Vec<u32>>,
        format: F,
    ) -> Result<Response, ApiError> {
        self.check_size(&prompts)?;
        let mut texts = Vec::new();
        for prompt in prompts {
            for k in 0..self.terms.n as u64 {
                let mut request = self.request.clone();
                request.prompt.clone_from(&prompt);
                let seed = request.sampling.seed;
                request.sampling.seed = seed.map(|seed| seed.wrapping_add(k));
                texts.push(self.engine.submit(request)?);
            }
        }
        match self.terms.stream {
            Some(with_usage) => stream(texts, format, with_usage, self.deadline).await,
            None => whole(texts, format, self.deadline).await,
        }
    }
}

/// Whether `text` begins the text that `start` leads to. What is empty begins nothing in a session.
async fn begins(engine: &EngineHandle, start: &Start, text: &str) -> Result<bool, ApiError> {
    match start {
        Start::Fresh => Ok(true),
        Start::Session(_) | Start::Fork(_) if text.is_empty() => Ok(false),
        Start::Session(id) | Start::Fork(id) => Ok(engine.session(id).await?.position == 0),
    }
}

/// The tokens of a text, off the threads that answer others: a long one takes a while.
async fn encode(engine: &EngineHandle, text: String, begins: bool) -> Result<Vec<u32>, ApiError> {
    let engine = engine.clone();
    let encoding = tokio::task::spawn_blocking(move || engine.encode(&text, begins));
    let encoded = encoding.await;
    Ok(encoded.map_err(|error| EngineError::Failed(error.to_string()))??)
}

/// A token's text as lists of log-probabilities show it; bytes that are no character as their number.
fn shown(engine: &EngineHandle, id: u32) -> String {
    let tokenizer = engine.tokenizer();
    match tokenizer.decode(&[id]) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => text,
        _ => (tokenizer.token(id)).unwrap_or_else(|| format!("<token {id}>")),
    }
}
