//! `/v1/chat/completions`: conversations answered.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use infinity_model::{FinishReason, Message};
use serde_json::{Value, json};

use super::{Asked, answer_id, encode, shown};
use crate::answer::{ApiError, Refusals};
use crate::app::Shared;
use crate::body::{ChangeHeaders, Given};
use crate::choices::{Format, Gathered};
use crate::handle::EngineHandle;
use crate::openai::{ChatMessage, ChatRequest, UsageObject, finish_word};
use crate::request::{Request, Start, Token};
use crate::session::now;

/// Tokens where a request does not say.
const DEFAULT_MAX_TOKENS: usize = 512;

/// Answers a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "text", request_body = ChatRequest,
    params(ChangeHeaders),
    responses(
        (status = 200, description = "The answers, or a stream of them", body = Value),
        Refusals))]
pub(crate) async fn chat(
    State(app): State<Shared>,
    headers: HeaderMap,
    Given(asked): Given<ChatRequest>,
) -> Result<Response, ApiError> {
    let mut wanted = Asked::new(&app, &headers, asked.terms())?;
    wanted.check_choices(&app, 1)?;
    if asked.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty: at least 1"));
    }
    let template = &app.config.template;
    let logprobs = match (asked.logprobs == Some(true), asked.top_logprobs) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None) => None,
        (false, Some(top)) => {
            let message = format!("top_logprobs = {top} needs logprobs = true");
            return Err(ApiError::field("top_logprobs", message));
        }
    };
    wanted.request = Request {
        sampling: asked.sampling(&app.config.generation, template.stops())?,
        max_tokens: asked.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
        logprobs,
        ..wanted.request
    };
    let engine = wanted.engine.clone();
    let follows = match &wanted.terms.start {
        Start::Fresh => false,
        Start::Session(id) | Start::Fork(id) => engine.session(id).await?.position > 0,
    };
    let messages: Vec<Message> = asked.messages.iter().map(ChatMessage::plain).collect();
    let prompt = template.render(&messages, follows)?;
    // A model's own template writes the tokens that begin a text.
    let begins = !follows && (template.is_plain() || prompt.is_empty());
    let prompt = encode(&engine, prompt, begins).await?;
    let format = Chat {
        id: answer_id("chatcmpl"),
        created: now(),
        engine,
        model: app.config.model_name.clone(),
        logprobs: logprobs.is_some(),
        trims: template.is_plain(),
    };
    wanted.answer(vec![prompt], format).await
}

/// Answers as chat.
#[derive(Clone)]
struct Chat {
    id: String,
    created: u64,
    engine: EngineHandle,
    model: String,
    logprobs: bool,
    /// Whether the space after the plain template's colon is still to be left out.
    trims: bool,
}

impl Chat {
    fn object(&self, kind: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, reason: Value) -> Value {
        let choice = json!({
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason,
        });
        self.object("chat.completion.chunk", vec![choice])
    }

    fn logprob(&self, token: &Token) -> Value {
        let entry = |id: u32, logprob: f32| {
            let text = shown(&self.engine, id);
            json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()})
        };
        let mut object = entry(token.id, token.logprob.unwrap_or(f32::MIN));
        let top = token.top.iter().map(|&(id, logprob)| entry(id, logprob));
        object["top_logprobs"] = top.collect();
        object
    }
}

impl Format for Chat {
    fn begin(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(self.chunk(index, delta, Value::Null, Value::Null))
    }

    fn token(&mut self, index: usize, token: &Token) -> Option<Value> {
        let text = match self.trims {
            true => token.text.trim_start(),
            false => &token.text,
        };
        self.trims &= text.is_empty();
        if text.is_empty() && !self.logprobs {
            return None;
        }
        let logprobs = match self.logprobs {
            true => json!({"content": [self.logprob(token)]}),
            false => Value::Null,
        };
        Some(self.chunk(index, json!({"content": text}), logprobs, Value::Null))
    }

    fn echo(&mut self, _: usize, _: &Token) -> Option<Value> {
        None
    }

    fn end(&self, index: usize, reason: FinishReason) -> Value {
        self.chunk(index, json!({}), Value::Null, json!(finish_word(reason)))
    }

    fn usage(&self, usage: &UsageObject) -> Value {
        let mut object = self.object("chat.completion.chunk", Vec::new());
        object["usage"] = json!(usage);
        object
    }

    fn whole(&self, texts: &[Gathered]) -> Value {
        let choices = texts.iter().enumerate().map(|(index, text)| {
            let all = text.text();
            let content = if self.trims { all.trim_start() } else { &all };
            let logprobs = self.logprobs.then(|| {
                let list = text.tokens.iter().map(|token| self.logprob(token));
                json!({"content": list.collect::<Vec<_>>()})
            });
            json!({
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": null},
                "logprobs": logprobs, "finish_reason": finish_word(text.reason),
                "seed": text.usage.seed,
            })
        });
        self.object("chat.completion", choices.collect())
    }
}
