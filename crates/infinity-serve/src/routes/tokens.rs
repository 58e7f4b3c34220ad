//! `/tokenize`, `/detokenize`, `/tokenizer_info`: the tokenizer, as lm-eval and others ask for it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::encode;
use crate::answer::{ApiError, Refusals};
use crate::app::Shared;
use crate::body::Given;

/// A text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The text.
    pub(crate) prompt: String,
    /// Not looked at: none are added.
    pub(crate) add_special_tokens: Option<bool>,
    /// The model's name; it may be left out.
    pub(crate) model: Option<String>,
}

/// Its tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// The ids.
    pub(crate) tokens: Vec<u32>,
    /// How many.
    pub(crate) count: usize,
    /// Most tokens that a prompt may have.
    pub(crate) max_model_len: usize,
}

/// Turns a text into tokens.
#[utoipa::path(post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens", body = Tokens),
        Refusals))]
pub(crate) async fn tokenize(
    State(app): State<Shared>,
    Given(asked): Given<TokenizeRequest>,
) -> Result<Json<Tokens>, ApiError> {
    let engine = app.engine()?;
    app.check_model(asked.model.as_deref())?;
    let _ = asked.add_special_tokens;
    let tokens = encode(engine, asked.prompt, false).await?;
    Ok(Json(Tokens {
        count: tokens.len(),
        tokens,
        max_model_len: engine.config().max_prompt_tokens,
    }))
}

/// Tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The ids.
    pub(crate) tokens: Vec<u32>,
    /// The model's name; it may be left out.
    pub(crate) model: Option<String>,
}

/// Their text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Text {
    /// The text.
    pub(crate) prompt: String,
}

/// Turns tokens into a text, without special tokens.
#[utoipa::path(post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = Text),
        Refusals))]
pub(crate) async fn detokenize(
    State(app): State<Shared>,
    Given(asked): Given<DetokenizeRequest>,
) -> Result<Json<Text>, ApiError> {
    let engine = app.engine()?;
    app.check_model(asked.model.as_deref())?;
    let prompt = engine.tokenizer().decode(&asked.tokens);
    let prompt = prompt.map_err(|error| ApiError::field("tokens", error.to_string()))?;
    Ok(Json(Text { prompt }))
}

/// What the tokenizer is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizerInfo {
    /// `byte`, `char` or `file`.
    pub(crate) kind: String,
    /// One more than the largest id.
    pub(crate) vocab_size: usize,
    /// The token that begins a text.
    pub(crate) bos_token: Option<String>,
    /// The token that ends a text.
    pub(crate) eos_token: Option<String>,
    /// Its id.
    pub(crate) eos_token_id: Option<u32>,
    /// None: rows are never padded.
    pub(crate) pad_token: Option<String>,
}

/// What the tokenizer is.
#[utoipa::path(get, path = "/tokenizer_info", tag = "tokens",
    responses((status = 200, description = "The tokenizer", body = TokenizerInfo),
        Refusals))]
pub(crate) async fn tokenizer_info(
    State(app): State<Shared>,
) -> Result<Json<TokenizerInfo>, ApiError> {
    let engine = app.engine()?;
    let (tokenizer, model) = (engine.tokenizer(), engine.model_config());
    let eos = model.eos_token_id.or(tokenizer.eos_id());
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    Ok(Json(TokenizerInfo {
        kind: tokenizer.kind().to_string(),
        vocab_size: tokenizer.vocab_size(),
        bos_token: name(model.bos_token_id),
        eos_token: name(eos),
        eos_token_id: eos,
        pad_token: None,
    }))
}
