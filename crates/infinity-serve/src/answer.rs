//! Errors as OpenAI's clients read them, and bodies that are read within limits.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use infinity_model::ChatTemplateError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use crate::app::Shared;
use crate::error::EngineError;
use crate::session::SessionId;

/// What a client is told of a request that failed.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    pub(crate) retry_after: Option<u64>,
}

/// An error's body.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The error.
    pub(crate) error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorObject {
    /// In words: what was wrong, its value and its limit.
    pub(crate) message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The field, if it is one.
    pub(crate) param: Option<String>,
    /// What programs tell it by.
    pub(crate) code: &'static str,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            param: None,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A field that cannot be used.
    pub(crate) fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_value", message)
        }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub(crate) fn timeout(seconds: u64) -> Self {
        let message = format!("the request took longer than {seconds} s, which is the limit");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                kind,
                param: self.param.clone(),
                code: self.code,
            },
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        use StatusCode as S;
        let (status, code) = match &error {
            EngineError::Busy { .. } => (S::TOO_MANY_REQUESTS, "queue_full"),
            EngineError::Invalid(_) => (S::BAD_REQUEST, "invalid_value"),
            EngineError::TooLarge { .. } => (S::BAD_REQUEST, "too_large"),
            EngineError::UnknownSession(_) => (S::NOT_FOUND, "session_not_found"),
            EngineError::SessionInUse(_) => (S::CONFLICT, "session_in_use"),
            EngineError::TooManySessions { .. } => (S::CONFLICT, "too_many_sessions"),
            EngineError::KeyReused { .. } => (S::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            EngineError::State(_) => (S::BAD_REQUEST, "invalid_state"),
            EngineError::Disk { .. } => (S::INSUFFICIENT_STORAGE, "disk"),
            EngineError::Stopping => (S::SERVICE_UNAVAILABLE, "stopping"),
            EngineError::Failed(_) => (S::INTERNAL_SERVER_ERROR, "engine_failed"),
        };
        let mut answer = Self::new(status, code, error.to_string());
        match error {
            EngineError::Busy { retry_after, .. } => {
                answer.retry_after = Some(retry_after.as_secs().max(1));
            }
            EngineError::TooLarge { what, .. } if what != "prompt tokens" => {
                answer.param = Some(what.to_owned());
            }
            EngineError::Stopping => answer.retry_after = Some(10),
            _ => {}
        }
        answer
    }
}

impl From<ChatTemplateError> for ApiError {
    fn from(error: ChatTemplateError) -> Self {
        Self::field("messages", error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            (response.headers_mut()).insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

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
        ApiError {
            param: known.then(|| path.clone()),
            ..match known {
                true => ApiError::field(&path, format!("{path}: {inner}")),
                false if inner.is_data() => ApiError::field("", format!("the body: {inner}")),
                false => ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_json",
                    format!("the body is not JSON: {inner}"),
                ),
            }
        }
    })?;
    parser.end().map_err(|error| {
        let message = format!("the body is not JSON: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    })?;
    Ok(value)
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
            let message = format!("the body broke off: {error}");
            Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "broken_body",
                message,
            ))
        }
        Err(_) => {
            let message = format!(
                "the body was not there after {} s, which is the limit",
                time.as_secs()
            );
            Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                message,
            ))
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
