//! `/v1/sessions`: texts that are kept.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};
use utoipa::ToSchema;

use super::{begins, encode};
use crate::answer::{ApiError, Refusals};
use crate::app::Shared;
use crate::body::{ChangeHeaders, Given, Id, idempotency_key, read_body};
use crate::choices::{Deadline, event_stream};
use crate::handle::EngineHandle;
use crate::request::{Event, Request, Start, Usage};
use crate::session::SessionInfo;

/// Characters of a session's name.
const MAX_NAME: usize = 200;
/// Bytes of a session's note.
const MAX_NOTE: usize = 4 << 20;
/// What a state is called where it is kept.
const FILE: &str = "attachment; filename=\"state.safetensors\"";

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionObject {
    /// `session`.
    pub(crate) object: &'static str,
    /// What is known of it.
    #[serde(flatten)]
    pub(crate) info: SessionInfo,
}

impl From<SessionInfo> for Json<SessionObject> {
    fn from(info: SessionInfo) -> Self {
        let object = "session";
        Json(SessionObject { object, info })
    }
}

/// Sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionList {
    /// `list`.
    pub(crate) object: &'static str,
    /// The last changed first.
    pub(crate) data: Vec<SessionObject>,
}

/// A session's names.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    /// Its name for people.
    pub(crate) name: Option<String>,
    /// Whatever its owner keeps with it.
    pub(crate) note: Option<String>,
}

impl SessionRequest {
    fn check(&self) -> Result<(), ApiError> {
        let name = self.name.as_ref().map_or(0, |name| name.chars().count());
        let note = self.note.as_ref().map_or(0, String::len);
        if name > MAX_NAME {
            let message = format!("name has {name} characters: at most {MAX_NAME}");
            return Err(ApiError::field("name", message));
        }
        if note > MAX_NOTE {
            let message = format!("note has {note} bytes: at most {MAX_NOTE}");
            return Err(ApiError::field("note", message));
        }
        Ok(())
    }
}

/// Text to be read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppendRequest {
    /// The text, or
    pub(crate) text: Option<String>,
    /// its tokens.
    pub(crate) tokens: Option<Vec<u32>>,
    /// Tell how far it is, as server-sent events.
    pub(crate) stream: Option<bool>,
}

/// What was read.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Appended {
    /// `session.append`.
    pub(crate) object: &'static str,
    /// The session.
    pub(crate) session_id: String,
    /// Tokens that were read.
    pub(crate) tokens: usize,
    /// Tokens of the session's text now.
    pub(crate) position: u64,
    /// This key had been used before: nothing was read now.
    pub(crate) repeated: bool,
}

/// A session that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// Its name.
    pub(crate) id: String,
    /// `session.deleted`.
    pub(crate) object: &'static str,
    /// True.
    pub(crate) deleted: bool,
}

/// Makes a session that has read nothing.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = SessionRequest,
    responses((status = 201, description = "The session", body = SessionObject),
        Refusals))]
pub(crate) async fn create(
    State(app): State<Shared>,
    Given(asked): Given<SessionRequest>,
) -> Result<(StatusCode, Json<SessionObject>), ApiError> {
    let engine = app.engine()?;
    asked.check()?;
    let name = asked.name.unwrap_or_else(|| "New session".to_owned());
    let info = engine.create_session(name).await?;
    made(engine, info, asked.note).await
}

/// The answer of a session that was made, with its note if it has one.
async fn made(
    engine: &EngineHandle,
    mut info: SessionInfo,
    note: Option<String>,
) -> Result<(StatusCode, Json<SessionObject>), ApiError> {
    if note.is_some() {
        info = engine.rename_session(&info.id, None, note).await?;
    }
    Ok((StatusCode::CREATED, info.into()))
}

/// Lists the sessions.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions",
    responses((status = 200, description = "The sessions", body = SessionList),
        Refusals))]
pub(crate) async fn list(State(app): State<Shared>) -> Result<Json<SessionList>, ApiError> {
    let sessions = app.engine()?.sessions().await?;
    let told = |mut info: SessionInfo| {
        // Notes may be long; each session tells its own.
        info.note.clear();
        Json::from(info).0
    };
    Ok(Json(SessionList {
        object: "list",
        data: sessions.into_iter().map(told).collect(),
    }))
}

/// What is known of a session.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "The session", body = SessionObject),
        Refusals))]
pub(crate) async fn get(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Json<SessionObject>, ApiError> {
    Ok(app.engine()?.session(&id).await?.into())
}

/// Gives a session another name or note.
#[utoipa::path(patch, path = "/v1/sessions/{id}", tag = "sessions", request_body = SessionRequest,
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "The session", body = SessionObject),
        Refusals))]
pub(crate) async fn change(
    State(app): State<Shared>,
    Id(id): Id,
    Given(asked): Given<SessionRequest>,
) -> Result<Json<SessionObject>, ApiError> {
    let engine = app.engine()?;
    asked.check()?;
    let info = engine.rename_session(&id, asked.name, asked.note);
    Ok(info.await?.into())
}

/// Forgets a session.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "It is gone", body = Deleted),
        Refusals))]
pub(crate) async fn delete(
    State(app): State<Shared>,
    Id(id): Id,
) -> Result<Json<Deleted>, ApiError> {
    app.engine()?.delete_session(&id).await?;
    Ok(Json(Deleted {
        id: id.0,
        object: "session.deleted",
        deleted: true,
    }))
}

/// Makes a session with the text of another one.
#[utoipa::path(post, path = "/v1/sessions/{id}/fork", tag = "sessions",
    request_body = SessionRequest,
    params(("id" = String, Path, description = "The session")),
    responses((status = 201, description = "The new session", body = SessionObject),
        Refusals))]
pub(crate) async fn fork(
    State(app): State<Shared>,
    Id(id): Id,
    Given(asked): Given<SessionRequest>,
) -> Result<(StatusCode, Json<SessionObject>), ApiError> {
    let engine = app.engine()?;
    asked.check()?;
    let info = engine.fork_session(&id, asked.name).await?;
    made(engine, info, asked.note).await
}

/// Gives a session's state file.
#[utoipa::path(get, path = "/v1/sessions/{id}/state", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "The file", body = Vec<u8>,
            content_type = "application/octet-stream"),
        Refusals))]
pub(crate) async fn download(State(app): State<Shared>, Id(id): Id) -> Result<Response, ApiError> {
    let bytes = app.engine()?.export_state(&id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, FILE),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, bytes).into_response())
}

/// Puts a state file's state into a session.
#[utoipa::path(put, path = "/v1/sessions/{id}/state", tag = "sessions",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, description = "The session", body = SessionObject),
        Refusals))]
pub(crate) async fn upload(
    State(app): State<Shared>,
    Id(id): Id,
    request: HttpRequest,
) -> Result<Json<SessionObject>, ApiError> {
    let engine = app.engine()?;
    engine.session(&id).await?;
    let bytes = read_body(request, &app, app.config.max_state_bytes).await?;
    let info = engine.import_state(Some(&id), None, bytes.into());
    Ok(info.await?.into())
}

/// Reads text into a session.
#[utoipa::path(post, path = "/v1/sessions/{id}/append", tag = "sessions",
    request_body = AppendRequest,
    params(("id" = String, Path, description = "The session"), ChangeHeaders),
    responses((status = 200, description = "Read and saved, or a stream of how far it is",
            body = Appended),
        Refusals))]
pub(crate) async fn append(
    State(app): State<Shared>,
    Id(id): Id,
    headers: HeaderMap,
    Given(asked): Given<AppendRequest>,
) -> Result<Response, ApiError> {
    let engine = app.engine()?;
    let deadline = Deadline::after(app.config.request_time, engine);
    let idempotency_key = idempotency_key(&headers)?;
    let prompt = match (asked.text, asked.tokens) {
        (Some(text), None) => {
            let begins = begins(engine, &Start::Session(id.clone()), &text).await?;
            encode(engine, text, begins).await?
        }
        (None, Some(tokens)) => tokens,
        _ => return Err(ApiError::field("text", "give either text or tokens")),
    };
    if prompt.is_empty() {
        let message = "there are no tokens to read: at least 1";
        return Err(ApiError::field("text", message));
    }
    let mut events = engine.submit(Request {
        start: Start::Session(id.clone()),
        prompt,
        idempotency_key,
        ..Request::default()
    })?;
    let answer = move |usage: Usage| Appended {
        object: "session.append",
        session_id: id.0.clone(),
        tokens: usage.prompt_tokens,
        position: usage.position,
        repeated: usage.repeated,
    };
    if asked.stream != Some(true) {
        loop {
            if let Some(usage) = deadline.next(&mut events).await?.read()? {
                return Ok(Json(answer(usage)).into_response());
            }
        }
    }
    let first = deadline.next(&mut events).await?;
    let (out, pieces) = mpsc::channel(16);
    tokio::spawn(tell_append(first, events, deadline, answer, out));
    Ok(event_stream(pieces))
}

async fn tell_append(
    first: Event,
    mut events: Receiver<Event>,
    deadline: Deadline,
    answer: impl Fn(Usage) -> Appended,
    out: Sender<Result<Bytes, Infallible>>,
) {
    let mut event = Ok(first);
    loop {
        let progress = match &event {
            Ok(Event::Read { tokens, of }) => json!({"read": tokens, "of": of}),
            _ => json!({}),
        };
        let (value, last) = match event.and_then(|event| event.read().map_err(ApiError::from)) {
            Err(error) => (json!(error.body()), true),
            Ok(Some(usage)) => (json!(answer(usage)), true),
            Ok(None) => (progress, false),
        };
        let told = out.send(Ok(format!("data: {value}\n\n").into())).await;
        if told.is_err() || last {
            return;
        }
        event = tokio::select! {
            () = out.closed() => return,
            event = deadline.next(&mut events) => event,
        };
    }
}
