//! The thread that owns the model.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, atomic::AtomicBool, atomic::AtomicUsize};
use std::thread;

use infinity_model::state_file::fingerprint;
use infinity_model::{InfinityModel, Tokenizer};

use crate::command::Command;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::handle::EngineHandle;
use crate::metrics::Metrics;
use crate::request::Event;
use crate::shared::Shared;

/// What reads and continues texts.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Starts a thread that owns `model`, and gives the way to it.
    ///
    /// # Errors
    /// [`EngineError::Failed`]: the directory of sessions cannot be used, or there is no thread.
    pub fn start(
        model: InfinityModel,
        tokenizer: Tokenizer,
        config: EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        let shared = Arc::new(Shared {
            config,
            model: model.config().clone(),
            fingerprint: fingerprint(&model),
            tokenizer,
            metrics: Metrics::default(),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let (commands, receiver) = channel();
        thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || refuse(&receiver))
            .map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(EngineHandle { commands, shared })
    }
}

fn refuse(commands: &Receiver<Command>) {
    let error = || EngineError::Failed("it is not finished".to_owned());
    for command in commands {
        match command {
            Command::Submit(_, events, _) => drop(events.try_send(Event::Failed(error()))),
            Command::Create { reply, .. }
            | Command::Get { reply, .. }
            | Command::Rename { reply, .. }
            | Command::Fork { reply, .. }
            | Command::Import { reply, .. } => reply.send(Err(error())),
            Command::List(reply) => reply.send(Err(error())),
            Command::Export { reply, .. } => reply.send(Err(error())),
            Command::Delete { reply, .. } => reply.send(Err(error())),
            Command::Stop { stopped, .. } => drop(stopped.send(())),
        }
    }
}
