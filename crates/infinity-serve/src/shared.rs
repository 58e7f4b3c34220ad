//! What the handles and the engine's thread share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use infinity_model::{ModelConfig, Tokenizer};

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::metrics::Metrics;

/// What all of them may look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) model: ModelConfig,
    pub(crate) fingerprint: String,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) metrics: Metrics,
    /// Commands that wait for a place among the rows, or for an answer.
    pub(crate) waiting: AtomicUsize,
    pub(crate) stopping: AtomicBool,
    /// Whether the engine's thread panicked.
    pub(crate) panicked: AtomicBool,
}

impl Shared {
    /// The error of an engine that takes nothing, or that does not answer any more.
    pub(crate) fn ended(&self) -> EngineError {
        let panicked = self.panicked.load(Ordering::Relaxed);
        match self.stopping.load(Ordering::Relaxed) && !panicked {
            true => EngineError::Stopping,
            false => EngineError::Failed("its thread has ended".to_owned()),
        }
    }
}

/// One of the places that commands wait in; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Shared>);

impl Place {
    /// Takes one, if one is free.
    pub(crate) fn take(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(shared));
        (before < shared.config.max_queue).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
