//! What requests bring: bodies of JSON, read within limits, and the session that a path names.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use tokio_stream::StreamExt;
use utoipa::IntoParams;

use crate::answer::ApiError;
use crate::app::Shared;
use crate::session::SessionId;

/// Characters of an idempotency key.
const MAX_KEY: usize = 200;

/// A body of JSON, within the limits of size and time.
#[derive(Debug)]
pub(crate) struct Given<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Given<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        let bytes = read_body(request, app, app.config.max_body_bytes).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads JSON; no body at all is an empty object.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner();
        let known = path != "." && !inner.is_syntax() && !inner.is_eof();
        match known {
            true => ApiError::field(&path, format!("{path}: {inner}")),
            false if inner.is_data() => {
                let code = "invalid_value";
                ApiError::new(StatusCode::BAD_REQUEST, code, format!("the body: {inner}"))
            }
            false => no_json(inner),
        }
    })?;
    parser.end().map_err(|error| no_json(&error))?;
    Ok(value)
}

fn no_json(error: &serde_json::Error) -> ApiError {
    let message = format!("the body is not JSON: {error}");
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

/// A body's bytes, at most `limit`, within the time that a body may take.
pub(crate) async fn read_body(
    request: Request,
    app: &Shared,
    limit: usize,
) -> Result<Bytes, ApiError> {
    let too_large = |size: String| {
        let message = format!("the body has {size} bytes: at most {limit}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|&length| length > limit as u64) {
        return Err(too_large(length.to_string()));
    }
    let time = app.config.body_time;
    let reading = collect(request.into_body(), limit);
    match tokio::time::timeout(time, reading).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large(format!("more than {limit}"))),
        Ok(Err(error)) => {
            let (status, code) = (StatusCode::BAD_REQUEST, "broken_body");
            let message = format!("the body broke off: {error}");
            Err(ApiError::new(status, code, message))
        }
        Err(_) => {
            let (status, code, seconds) =
                (StatusCode::REQUEST_TIMEOUT, "slow_body", time.as_secs());
            let message = format!("the body was not there after {seconds} s, which is the limit");
            Err(ApiError::new(status, code, message))
        }
    }
}

/// `None` if it is larger.
async fn collect(body: Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut bytes = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if bytes.len() + piece.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.into()))
}

/// The session that a path names.
#[derive(Debug)]
pub(crate) struct Id(pub(crate) SessionId);

impl FromRequestParts<Shared> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(id)) => Ok(Self(SessionId(id))),
            Err(error) => Err(ApiError::field("id", error.body_text())),
        }
    }
}

/// The headers of requests that change a session.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // Describes what `idempotency_key` reads.
pub(crate) struct ChangeHeaders {
    /// A name for this change of a session: a second time with it changes nothing. A session remembers its last 64
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// The header that names a change, so that a second time changes nothing.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let message =
                format!("the header Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters");
            Err(ApiError::field("Idempotency-Key", message))
        }
    }
}
