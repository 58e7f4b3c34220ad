//! What is answered, by its subject.

pub(crate) mod about;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod sessions;
pub(crate) mod tokens;

use crate::answer::ApiError;
use crate::app::App;
use crate::handle::EngineHandle;
use crate::request::Start;
use crate::session::SessionId;

/// A name for an answer.
fn answer_id(kind: &str) -> String {
    format!("{kind}-{:032x}", rand::random::<u128>())
}

/// Where a request's text begins.
fn start(session: Option<&String>, fork: bool) -> Start {
    match session.map(|id| SessionId(id.clone())) {
        None => Start::Fresh,
        Some(id) if fork => Start::Fork(id),
        Some(id) => Start::Session(id),
    }
}

/// Checks how many texts are asked for.
fn check_choices(app: &App, prompts: usize, n: usize, start: &Start) -> Result<(), ApiError> {
    let limit = app.config.max_choices;
    if prompts == 0 || n == 0 {
        let param = if n == 0 { "n" } else { "prompt" };
        return Err(ApiError::field(
            param,
            format!("{param} is empty: at least 1"),
        ));
    }
    let all = prompts.saturating_mul(n);
    if all > limit {
        let message = format!("{prompts} prompts with n = {n} are {all} texts: at most {limit}");
        return Err(ApiError::field("n", message));
    }
    if all > 1 && matches!(start, Start::Session(_)) {
        let message = format!("a session is continued by one text, not {all}: set session_fork");
        return Err(ApiError::field("session_id", message));
    }
    Ok(())
}

/// The tokens of a text, off the threads that answer others: a long one takes a while.
async fn encode(engine: &EngineHandle, text: String, begins: bool) -> Result<Vec<u32>, ApiError> {
    let engine = engine.clone();
    let encoding = tokio::task::spawn_blocking(move || engine.encode(&text, begins));
    let encoded = encoding.await;
    Ok(encoded.map_err(|error| crate::EngineError::Failed(error.to_string()))??)
}

/// A token's text as lists of log-probabilities show it; bytes that are no character as their number.
fn shown(engine: &EngineHandle, id: u32) -> String {
    let tokenizer = engine.tokenizer();
    match tokenizer.decode(&[id]) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => text,
        _ => tokenizer
            .token(id)
            .unwrap_or_else(|| format!("<token {id}>")),
    }
}
