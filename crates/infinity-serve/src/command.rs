//! What handles ask of the engine's thread.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error::EngineError;
use crate::request::{Event, Request};
use crate::shared::Place;

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

/// Something to do with the `State` that the engine's thread has.
pub(crate) type Work<State> = Box<dyn FnOnce(&mut State) + Send>;

/// One thing to do.
pub(crate) enum Command<State> {
    Submit(Box<Request>, mpsc::Sender<Event>, Place),
    /// What a handle asks about sessions.
    Ask(Work<State>),
    /// From the thread that saves: what follows from a job that is done.
    Kept(Work<State>),
    /// The last handle is gone.
    Abandoned,
    Stop {
        grace: Duration,
        stopped: oneshot::Sender<()>,
    },
}
