//! `/v1/completions`: texts continued.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use infinity_model::FinishReason;
use serde_json::{Map, Value, json};

use super::{answer_id, check_choices, encode, shown, start};
use crate::answer::{ApiError, Refusals};
use crate::app::{Shared, now};
use crate::body::Given;
use crate::choices::{Deadline, Format, Gathered, gather, stream, submit};
use crate::handle::EngineHandle;
use crate::openai::{CompletionRequest, Prompt, UsageObject, finish_word};
use crate::request::{Request, Start, Token};
use crate::routes::sessions::idempotency_key;

/// Tokens where a request does not say, as OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", tag = "text", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The texts, or a stream of them", body = Value),
        Refusals))]
pub(crate) async fn completions(
    State(app): State<Shared>,
    headers: HeaderMap,
    Given(asked): Given<CompletionRequest>,
) -> Result<Response, ApiError> {
    let engine = app.engine()?;
    app.check_model(asked.model.as_deref())?;
    let deadline = Deadline::after(app.config.request_time);
    let start = start(asked.session_id.as_ref(), asked.session_fork == Some(true));
    let n = asked.n.unwrap_or(1);
    if let Some(best_of) = asked.best_of.filter(|&best_of| best_of != n) {
        let message = format!("best_of = {best_of} must be n = {n}: no others are drawn");
        return Err(ApiError::field("best_of", message));
    }
    let sampling = asked.sampling(&app.config.generation, &[])?;
    let fresh = start == Start::Fresh;
    let prompts = prompts(engine, asked.prompt, &app, n, &start, fresh).await?;

    let echo = asked.echo == Some(true);
    let mut requests = Vec::new();
    let mut texts = Vec::new();
    for (text, tokens) in prompts {
        for k in 0..n {
            let mut sampling = sampling.clone();
            sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(k as u64));
            texts.push(if echo { text.clone() } else { String::new() });
            requests.push(Request {
                start: start.clone(),
                prompt: tokens.clone(),
                sampling,
                max_tokens: asked.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
                logprobs: asked.logprobs,
                echo: echo && asked.logprobs.is_some(),
                idempotency_key: idempotency_key(&headers)?,
                keep_partial: asked.keep_partial == Some(true),
            });
        }
    }
    let format = Completions {
        id: answer_id("cmpl"),
        created: now(),
        engine: engine.clone(),
        model: app.config.model_name.clone(),
        prompts: texts,
        logprobs: asked.logprobs.is_some(),
        offsets: Vec::new(),
    };
    let texts = submit(engine, requests)?;
    if asked.stream == Some(true) {
        let with_usage = asked
            .stream_options
            .is_some_and(|o| o.include_usage == Some(true));
        return stream(texts, format, with_usage, deadline).await;
    }
    let gathered = gather(texts, deadline).await?;
    Ok(Json(format.whole(&gathered)).into_response())
}

/// Texts and tokens of the prompts.
async fn prompts(
    engine: &EngineHandle,
    prompt: Prompt,
    app: &Shared,
    n: usize,
    start: &Start,
    begins: bool,
) -> Result<Vec<(String, Vec<u32>)>, ApiError> {
    let count = match &prompt {
        Prompt::Text(_) | Prompt::Tokens(_) => 1,
        Prompt::Texts(texts) => texts.len(),
        Prompt::TokenLists(lists) => lists.len(),
    };
    check_choices(app, count, n, start)?;
    let (texts, lists) = match prompt {
        Prompt::Text(text) => (vec![text], Vec::new()),
        Prompt::Texts(texts) => (texts, Vec::new()),
        Prompt::Tokens(tokens) => (Vec::new(), vec![tokens]),
        Prompt::TokenLists(lists) => (Vec::new(), lists),
    };
    let mut all = Vec::new();
    for text in texts {
        let tokens = encode(engine, text.clone(), begins).await?;
        all.push((text, tokens));
    }
    for tokens in lists {
        let text = engine.tokenizer().decode(&tokens);
        let text = text.map_err(|error| ApiError::field("prompt", error.to_string()))?;
        all.push((text, tokens));
    }
    Ok(all)
}

/// Answers as completions.
#[derive(Clone)]
struct Completions {
    id: String,
    created: u64,
    engine: EngineHandle,
    model: String,
    /// The prompts' texts, empty if they are not told.
    prompts: Vec<String>,
    logprobs: bool,
    /// Characters of each text that are told so far.
    offsets: Vec<usize>,
}

impl Completions {
    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn whole(&self, texts: &[Gathered]) -> Value {
        let mut usage = UsageObject::default();
        let choices = texts.iter().enumerate().map(|(index, text)| {
            usage.add(&text.usage);
            let new: String = text
                .tokens
                .iter()
                .map(|token| token.text.as_str())
                .collect();
            let logprobs = self.logprobs.then(|| {
                let mut list = Logprobs::default();
                for token in text.prompt.iter().chain(&text.tokens) {
                    list.push(&self.engine, token);
                }
                list.object()
            });
            json!({
                "index": index, "text": format!("{}{new}", self.prompts[index]),
                "logprobs": logprobs, "finish_reason": finish_word(text.reason),
                "seed": text.usage.seed,
            })
        });
        let mut object = self.object(choices.collect());
        object["usage"] = json!(usage);
        object
    }

    fn piece(&mut self, index: usize, text: &str, token: &Token) -> Option<Value> {
        if text.is_empty() && !self.logprobs {
            return None;
        }
        let logprobs = self.logprobs.then(|| {
            if self.offsets.len() <= index {
                self.offsets.resize(index + 1, 0);
            }
            let mut list = Logprobs::at(self.offsets[index]);
            list.push(&self.engine, token);
            self.offsets[index] = list.offset;
            list.object()
        });
        Some(self.object(vec![json!({
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": null,
        })]))
    }
}

impl Format for Completions {
    fn begin(&self, index: usize) -> Option<Value> {
        let text = &self.prompts[index];
        (!text.is_empty()).then(|| {
            self.object(vec![json!({
                "index": index, "text": text, "logprobs": null, "finish_reason": null,
            })])
        })
    }

    fn token(&mut self, index: usize, token: &Token) -> Option<Value> {
        self.piece(index, &token.text, token)
    }

    fn echo(&mut self, index: usize, token: &Token) -> Option<Value> {
        self.piece(index, "", token)
    }

    fn end(&self, index: usize, reason: FinishReason) -> Value {
        self.object(vec![json!({
            "index": index, "text": "", "logprobs": null, "finish_reason": finish_word(reason),
        })])
    }

    fn usage(&self, usage: &UsageObject) -> Value {
        let mut object = self.object(Vec::new());
        object["usage"] = json!(usage);
        object
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
    fn at(offset: usize) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    fn push(&mut self, engine: &EngineHandle, token: &Token) {
        let text = shown(engine, token.id);
        let mut top = Map::new();
        for &(id, logprob) in &token.top {
            // Two tokens may look the same: the likelier one comes first and stays.
            top.entry(shown(engine, id))
                .or_insert_with(|| json!(logprob));
        }
        if let Some(logprob) = token.logprob {
            top.entry(text.clone()).or_insert_with(|| json!(logprob));
        }
        self.offsets.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.values.push(token.logprob);
        self.top
            .push(token.logprob.map_or(Value::Null, |_| Value::Object(top)));
    }

    fn object(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.values,
            "top_logprobs": self.top, "text_offset": self.offsets,
        })
    }
}
