//! What handles ask of the engine's thread.

use std::time::Duration;

use infinity_model::Context;
use tokio::sync::{mpsc, oneshot};

use crate::error::EngineError;
use crate::request::{Event, Request};
use crate::session::{SessionId, SessionInfo};
use crate::shared::Place;
use crate::store::Record;

/// Where an answer goes.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    pub(crate) answer: oneshot::Sender<Result<T, EngineError>>,
    pub(crate) _place: Place,
}

impl<T> Reply<T> {
    /// Answers; who no longer waits is not told.
    pub(crate) fn send(self, answer: Result<T, EngineError>) {
        let _ = self.answer.send(answer);
    }
}

/// What a session is to be called.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) note: Option<String>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Kept {
    Saved(Result<Record, EngineError>),
    Loaded(Result<Context, EngineError>),
    Imported(Result<Context, EngineError>),
    Deleted(Result<(), EngineError>),
}

/// One thing to do.
pub(crate) enum Command {
    Submit(Box<Request>, mpsc::Sender<Event>, Place),
    Create {
        name: String,
        reply: Reply<SessionInfo>,
    },
    List(Reply<Vec<SessionInfo>>),
    Get {
        id: SessionId,
        reply: Reply<SessionInfo>,
    },
    Rename {
        id: SessionId,
        change: Change,
        reply: Reply<SessionInfo>,
    },
    Fork {
        id: SessionId,
        name: Option<String>,
        reply: Reply<SessionInfo>,
    },
    Export {
        id: SessionId,
        reply: Reply<Vec<u8>>,
    },
    Import {
        id: Option<SessionId>,
        name: Option<String>,
        bytes: Vec<u8>,
        reply: Reply<SessionInfo>,
    },
    Delete {
        id: SessionId,
        reply: Reply<()>,
    },
    /// From the thread that saves: what became of the job with this tag.
    Kept(u64, Kept),
    /// The last handle is gone.
    Abandoned,
    #[cfg(test)]
    Panic,
    Stop {
        grace: Duration,
        stopped: oneshot::Sender<()>,
    },
}
