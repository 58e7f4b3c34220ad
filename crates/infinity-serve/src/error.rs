//! What an engine refuses, and what can fail in it.

use std::sync::Arc;
use std::time::Duration;

use infinity_model::{GenerateError, StateProblem, TokenizerError};

use crate::session::SessionId;

/// A request that was not fulfilled. What it was to change is as it was before.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// As many requests wait as may.
    #[error(
        "{limit} requests are waiting, which is the limit: try again in {} s",
        retry_after.as_secs()
    )]
    Busy {
        /// How many may wait.
        limit: usize,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The prompt or a setting cannot be used.
    #[error("{0}")]
    Invalid(Arc<GenerateError>),
    /// A number is above the engine's limit.
    #[error("{what} = {value} is too large: at most {limit}")]
    TooLarge {
        /// What it counts, as the request names it.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such session.
    #[error("there is no session {0}")]
    UnknownSession(SessionId),
    /// Another request is changing the session.
    #[error("session {0} is being changed by another request: wait for it, or fork the session")]
    SessionInUse(SessionId),
    /// There are as many sessions as there may be.
    #[error("there are {limit} sessions, which is the limit: delete one")]
    TooManySessions {
        /// The limit.
        limit: usize,
    },
    /// The key belongs to another request.
    #[error("idempotency key {key:?} was used for a request with other tokens")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// The bytes are no state of this model.
    #[error("{0}")]
    State(Arc<StateProblem>),
    /// The disk refuses; what was kept before is kept still.
    #[error("session {id} cannot be {what}: {reason}")]
    Disk {
        /// The session.
        id: SessionId,
        /// `written` or `read`.
        what: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The engine takes nothing new.
    #[error("the server is stopping")]
    Stopping,
    /// The engine's thread gave up.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl From<GenerateError> for EngineError {
    fn from(error: GenerateError) -> Self {
        match error {
            // Not the request's fault.
            GenerateError::Device { .. }
            | GenerateError::BadLogit { .. }
            | GenerateError::NoCandidate => Self::Failed(error.to_string()),
            error => Self::Invalid(Arc::new(error)),
        }
    }
}

impl From<TokenizerError> for EngineError {
    fn from(error: TokenizerError) -> Self {
        GenerateError::from(error).into()
    }
}

impl From<StateProblem> for EngineError {
    fn from(problem: StateProblem) -> Self {
        Self::State(Arc::new(problem))
    }
}
