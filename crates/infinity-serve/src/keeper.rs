//! The thread that saves and loads sessions, so that tokens do not wait for the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use infinity_model::generate::Identity;
use infinity_model::{Context, InfinityModel};

use crate::command::{Command, Work};
use crate::error::EngineError;
use crate::shared::Shared;
use crate::store::{Record, Store};

/// One thing to do, and what follows from it for the engine's thread.
pub(crate) type Job<State> = Box<dyn FnOnce(&mut Keeper<State>) -> Work<State> + Send>;

/// What the thread has.
pub(crate) struct Keeper<State> {
    pub(crate) store: Option<Store>,
    pub(crate) model: InfinityModel,
    pub(crate) identity: Identity,
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Sender<Command<State>>,
}

impl<State> Keeper<State> {
    /// Works until nobody can ask any more.
    pub(crate) fn run(mut self, jobs: &Receiver<Job<State>>) {
        for job in jobs {
            let follows = job(&mut self);
            if self.engine.send(Command::Kept(follows)).is_err() {
                return;
            }
        }
    }

    pub(crate) fn save(
        &mut self,
        record: Record,
        context: Option<&Context>,
    ) -> Result<Record, EngineError> {
        let Some(store) = &mut self.store else {
            return Ok(record);
        };
        let metrics = &self.shared.metrics;
        let start = Instant::now();
        let bytes = context.map(|context| context.to_bytes(&self.identity));
        let saved = store.save(record, bytes.transpose()?.as_deref());
        match &saved {
            Ok(_) => metrics.saved.add(1),
            Err(_) => metrics.not_saved.add(1),
        }
        metrics.save.add(start.elapsed());
        saved
    }

    pub(crate) fn load(&self, record: &Record) -> Result<Context, EngineError> {
        let start = Instant::now();
        let context = match (&self.store, &record.file) {
            (Some(store), Some(file)) => self.context(&store.read(&record.info.id, file)?)?,
            _ => Context::new(&self.model),
        };
        self.shared.metrics.loaded.add(1);
        self.shared.metrics.load.add(start.elapsed());
        Ok(context)
    }

    pub(crate) fn context(&self, bytes: &[u8]) -> Result<Context, EngineError> {
        Ok(Context::from_bytes(bytes, &self.model, &self.identity)?)
    }

    pub(crate) fn delete(&mut self, record: &Record) -> Result<(), EngineError> {
        (self.store.as_mut()).map_or(Ok(()), |store| store.delete(record))
    }

    pub(crate) fn export(
        &self,
        record: &Record,
        context: Option<Context>,
    ) -> Result<Vec<u8>, EngineError> {
        if let (None, Some(store), Some(file)) = (&context, &self.store, &record.file) {
            return store.read(&record.info.id, file);
        }
        let context = context.unwrap_or_else(|| Context::new(&self.model));
        Ok(context.to_bytes(&self.identity)?)
    }
}

/// What a job led to. One that panics is an answer too: the engine waits for it, and so does a stop.
pub(crate) fn answered<T>(job: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let panicked = || EngineError::Failed("keeping a session panicked".to_owned());
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(panicked()))
}
