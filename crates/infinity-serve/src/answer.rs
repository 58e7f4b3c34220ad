//! Errors as OpenAI's clients read them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use infinity_model::ChatTemplateError;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::error::EngineError;

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

/// What any route may answer instead, for the description of the interface.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "described, not made")]
pub(crate) enum Refusals {
    /// Refused
    #[response(status = "4XX")]
    Refused(ErrorBody),
    /// Not possible now
    #[response(status = "5XX")]
    Impossible(ErrorBody),
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

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
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
            EngineError::Disk { what: "read", .. } => (S::INTERNAL_SERVER_ERROR, "disk"),
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

#[cfg(test)]
mod tests {
    use infinity_model::GenerateError;

    use super::*;

    #[test]
    fn whose_fault_it_is() {
        let status = |error: GenerateError| ApiError::from(EngineError::from(error)).status;
        let reason = "out of memory".to_owned();
        assert_eq!(
            status(GenerateError::Device { reason }),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        let nan = GenerateError::BadLogit {
            id: 1,
            value: f32::NAN,
        };
        assert_eq!(status(nan), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(status(GenerateError::EmptyPrompt), StatusCode::BAD_REQUEST);
    }
}
