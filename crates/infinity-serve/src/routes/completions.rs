//! `/v1/completions`: texts continued.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use infinity_model::FinishReason;
use serde_json::{Map, Value, json};

use super::{Asked, answer_id, begins, encode, shown};
use crate::answer::{ApiError, Refusals};
use crate::app::Shared;
use crate::body::{ChangeHeaders, Given};
use crate::choices::{Format, Gathered};
use crate::handle::EngineHandle;
use crate::openai::{CompletionRequest, Prompt, UsageObject, finish_word};
use crate::request::{Request, Token};
use crate::session::now;

/// Tokens where a request does not say, as OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", tag = "text", request_body = CompletionRequest,
    params(ChangeHeaders),
    responses(
        (status = 200, description = "The texts, or a stream of them", body = Value),
        Refusals))]
pub(crate) async fn completions(
    State(app): State<Shared>,
    headers: HeaderMap,
    Given(asked): Given<CompletionRequest>,
) -> Result<Response, ApiError> {
    let mut wanted = Asked::new(&app, &headers, asked.terms())?;
    let n = wanted.terms.n;
    if let Some(best_of) = asked.best_of.filter(|&best_of| best_of != n) {
        let message = format!("best_of = {best_of} must be n = {n}: no others are drawn");
        return Err(ApiError::field("best_of", message));
    }
    let echo = asked.echo == Some(true);
    wanted.request = Request {
        sampling: asked.sampling(&app.config.generation, &[])?,
        max_tokens: asked.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
        logprobs: asked.logprobs,
        echo: echo && asked.logprobs.is_some(),
        ..wanted.request
    };
    let (texts, lists) = match asked.prompt {
        Prompt::Text(text) => (vec![text], Vec::new()),
        Prompt::Texts(texts) => (texts, Vec::new()),
        Prompt::Tokens(tokens) => (Vec::new(), vec![tokens]),
        Prompt::TokenLists(lists) => (Vec::new(), lists),
    };
    wanted.check_choices(&app, texts.len() + lists.len())?;
    let engine = wanted.engine.clone();
    let (mut told, mut prompts) = (Vec::new(), Vec::new());
    for text in texts {
        told.extend(echo.then(|| text.clone()));
        let begins = begins(&engine, &wanted.terms.start, &text).await?;
        prompts.push(encode(&engine, text, begins).await?);
    }
    for tokens in &lists {
        let text = engine.tokenizer().decode(tokens);
        let text = text.map_err(|error| ApiError::field("prompt", error.to_string()))?;
        told.extend(echo.then_some(text));
    }
    prompts.extend(lists);
    let format = Completions {
        id: answer_id("cmpl"),
        created: now(),
        engine,
        model: app.config.model_name.clone(),
        prompts: told.into(),
        n,
        logprobs: asked.logprobs.is_some(),
        offset: 0,
    };
    wanted.answer(prompts, format).await
}

/// Answers as completions.
#[derive(Clone)]
struct Completions {
    id: String,
    created: u64,
    engine: EngineHandle,
    model: String,
    /// The prompts' texts; none if they are not told.
    prompts: Arc<[String]>,
    /// Texts that each of them begins.
    n: usize,
    logprobs: bool,
    /// Characters of a stream's text that are told so far.
    offset: usize,
}

impl Completions {
    /// What text number `index` begins with.
    fn prompt(&self, index: usize) -> &str {
        self.prompts.get(index / self.n).map_or("", String::as_str)
    }

    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn choice(&self, index: usize, text: &str, logprobs: Value, reason: Value) -> Value {
        self.object(vec![json!({
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason,
        })])
    }

    fn piece(&mut self, index: usize, text: &str, token: &Token) -> Option<Value> {
        if text.is_empty() && !self.logprobs {
            return None;
        }
        let logprobs = self.logprobs.then(|| {
            let mut list = Logprobs {
                offset: self.offset,
                ..Logprobs::default()
            };
            list.push(&self.engine, token);
            self.offset = list.offset;
            list.object()
        });
        Some(self.choice(index, text, logprobs.unwrap_or_default(), Value::Null))
    }
}

impl Format for Completions {
    fn begin(&self, index: usize) -> Option<Value> {
        let text = self.prompt(index);
        (!text.is_empty()).then(|| self.choice(index, text, Value::Null, Value::Null))
    }

    fn token(&mut self, index: usize, token: &Token) -> Option<Value> {
        self.piece(index, &token.text, token)
    }

    fn echo(&mut self, index: usize, token: &Token) -> Option<Value> {
        self.piece(index, "", token)
    }

    fn end(&self, index: usize, reason: FinishReason) -> Value {
        self.choice(index, "", Value::Null, json!(finish_word(reason)))
    }

    fn usage(&self, usage: &UsageObject) -> Value {
        let mut object = self.object(Vec::new());
        object["usage"] = json!(usage);
        object
    }

    fn whole(&self, texts: &[Gathered]) -> Value {
        let choices = texts.iter().enumerate().map(|(index, text)| {
            let logprobs = self.logprobs.then(|| {
                let mut list = Logprobs::default();
                for token in text.prompt.iter().chain(&text.tokens) {
                    list.push(&self.engine, token);
                }
                list.object()
            });
            json!({
                "index": index, "text": format!("{}{}", self.prompt(index), text.text()),
                "logprobs": logprobs, "finish_reason": finish_word(text.reason),
                "seed": text.usage.seed,
            })
        });
        self.object(choices.collect())
    }
}

/// OpenAI's four lists.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<String>,
    values: Vec<Option<f32>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters so far.
    offset: usize,
}

impl Logprobs {
    fn push(&mut self, engine: &EngineHandle, token: &Token) {
        let text = shown(engine, token.id);
        let mut top = Map::new();
        for &(id, logprob) in &token.top {
            // Two tokens may look the same: the likelier one comes first and stays.
            let shown = shown(engine, id);
            top.entry(shown).or_insert_with(|| json!(logprob));
        }
        if let Some(logprob) = token.logprob {
            top.entry(text.clone()).or_insert_with(|| json!(logprob));
        }
        self.offsets.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.values.push(token.logprob);
        let top = token.logprob.map(|_| Value::Object(top));
        self.top.push(top.unwrap_or_default());
    }

    fn object(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.values,
            "top_logprobs": self.top, "text_offset": self.offsets,
        })
    }
}
