//! What a program holds of an engine: it can be cloned and sent, and every call returns at once or
//! can be awaited.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use infinity_model::{GenerateError, ModelConfig, Tokenizer};
use tokio::sync::{mpsc, oneshot};

use crate::command::{Command, Reply};
use crate::config::EngineConfig;
use crate::engine::State;
use crate::error::EngineError;
use crate::metrics::Metrics;
use crate::request::{Event, Request, Start, Usage};
use crate::session::{SessionId, SessionInfo};
use crate::shared::{Place, Shared};

/// A way to an [`Engine`](crate::Engine)'s thread, which ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    line: Arc<Line>,
    shared: Arc<Shared>,
}

/// The way to the thread; it is told when nobody has it any more.
#[derive(Debug)]
struct Line(Sender<Command<State>>);

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.0.send(Command::Abandoned);
    }
}

impl EngineHandle {
    pub(crate) fn new(commands: Sender<Command<State>>, shared: Arc<Shared>) -> Self {
        let line = Arc::new(Line(commands));
        Self { line, shared }
    }

    /// Hands in a text to be continued. Dropping the receiver ends it and frees its place at once.
    ///
    /// # Errors
    /// [`EngineError::Busy`], [`EngineError::TooLarge`], [`EngineError::Stopping`] and
    /// [`EngineError::Failed`]; all else comes as [`Event::Failed`].
    pub fn submit(&self, request: Request) -> Result<mpsc::Receiver<Event>, EngineError> {
        let config = &self.shared.config;
        let logprobs = request.logprobs.unwrap_or(0);
        let prompt = request.prompt.len();
        for (what, value, limit) in [
            ("prompt tokens", prompt, config.max_prompt_tokens),
            ("max_tokens", request.max_tokens, config.max_new_tokens),
            ("logprobs", logprobs, config.max_logprobs),
        ] {
            if value > limit {
                return Err(EngineError::TooLarge { what, value, limit });
            }
        }
        let (events, receiver) = mpsc::channel(config.max_unread.max(1));
        let place = self.place()?;
        self.send(Command::Submit(Box::new(request), events, place))?;
        Ok(receiver)
    }

    /// A new session that has read nothing.
    ///
    /// # Errors
    /// [`EngineError::TooManySessions`], [`EngineError::Disk`], and as [`submit`](Self::submit).
    pub async fn create_session(&self, name: String) -> Result<SessionInfo, EngineError> {
        self.ask(|state, reply| state.create(name, reply)).await
    }

    /// All sessions, the last changed first.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, EngineError> {
        self.ask(|state, reply| reply.send(Ok(state.sessions.infos())))
            .await
    }

    /// What is known of a session.
    ///
    /// # Errors
    /// [`EngineError::UnknownSession`], and as [`submit`](Self::submit).
    pub async fn session(&self, id: &SessionId) -> Result<SessionInfo, EngineError> {
        let id = id.clone();
        let info = move |state: &mut State| Ok(state.sessions.get(&id)?.info());
        self.ask(move |state, reply| reply.send(info(state))).await
    }

    /// Gives a session another name or another note.
    ///
    /// # Errors
    /// [`EngineError::UnknownSession`], [`EngineError::SessionInUse`], [`EngineError::Disk`], and as
    /// [`submit`](Self::submit).
    pub async fn rename_session(
        &self,
        id: &SessionId,
        name: Option<String>,
        note: Option<String>,
    ) -> Result<SessionInfo, EngineError> {
        let id = id.clone();
        self.ask(move |state, reply| state.rename(&id, name, note, reply))
            .await
    }

    /// Reads tokens into a session; when this returns, they are saved. To see how far it is, submit a
    /// [`Request`] with `max_tokens` 0.
    ///
    /// # Errors
    /// Everything that [`submit`](Self::submit) and [`Event::Failed`] say.
    pub async fn append(
        &self,
        id: &SessionId,
        tokens: Vec<u32>,
        idempotency_key: Option<String>,
    ) -> Result<Usage, EngineError> {
        let mut events = self.submit(Request {
            start: Start::Session(id.clone()),
            prompt: tokens,
            idempotency_key,
            ..Request::default()
        })?;
        while let Some(event) = events.recv().await {
            if let Some(usage) = event.read()? {
                return Ok(usage);
            }
        }
        Err(self.ended())
    }

    /// A new session with the text of another one, as it was last saved.
    ///
    /// # Errors
    /// [`EngineError::UnknownSession`], [`EngineError::TooManySessions`], [`EngineError::Disk`], and
    /// as [`submit`](Self::submit).
    pub async fn fork_session(
        &self,
        id: &SessionId,
        name: Option<String>,
    ) -> Result<SessionInfo, EngineError> {
        let id = id.clone();
        self.ask(move |state, reply| state.fork(id, name, reply))
            .await
    }

    /// The bytes of a session's state file, as it was last saved.
    ///
    /// # Errors
    /// [`EngineError::UnknownSession`], [`EngineError::Disk`], and as [`submit`](Self::submit).
    pub async fn export_state(&self, id: &SessionId) -> Result<Vec<u8>, EngineError> {
        let id = id.clone();
        self.ask(move |state, reply| state.export(&id, reply)).await
    }

    /// Puts the state in the bytes of a state file into a session, or with `None` into a new one.
    ///
    /// # Errors
    /// [`EngineError::State`], [`EngineError::UnknownSession`], [`EngineError::SessionInUse`],
    /// [`EngineError::TooManySessions`], [`EngineError::Disk`], and as [`submit`](Self::submit).
    pub async fn import_state(
        &self,
        id: Option<&SessionId>,
        name: Option<String>,
        bytes: Vec<u8>,
    ) -> Result<SessionInfo, EngineError> {
        let id = id.cloned();
        self.ask(move |state, reply| state.import(id, name, bytes, reply))
            .await
    }

    /// Forgets a session, on the disk too.
    ///
    /// # Errors
    /// [`EngineError::UnknownSession`], [`EngineError::SessionInUse`], [`EngineError::Disk`], and as
    /// [`submit`](Self::submit).
    pub async fn delete_session(&self, id: &SessionId) -> Result<(), EngineError> {
        let id = id.clone();
        self.ask(move |state, reply| state.delete(id, reply)).await
    }

    /// Stops: nothing new is taken, and what is being continued has `grace` to finish. What is left
    /// then is interrupted; its sessions keep what was generated. Returns when all is saved.
    pub async fn stop(&self, grace: Duration) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let (stopped, done) = oneshot::channel();
        if self.line.0.send(Command::Stop { grace, stopped }).is_ok() {
            let _ = done.await;
        }
    }

    /// The tokens of a text. One that begins a text has the special tokens of a model that others trained, and
    /// at least one token: the model's first stands for an empty one.
    ///
    /// # Errors
    /// [`EngineError::Invalid`]: the tokenizer refuses the text, or would leave out too much of it.
    pub fn encode(&self, text: &str, begins: bool) -> Result<Vec<u32>, EngineError> {
        let (tokenizer, model) = (&self.shared.tokenizer, &self.shared.model);
        tokenizer.dropped(text)?.check()?;
        let mut ids = match begins {
            true => tokenizer.encode_text(text)?,
            false => tokenizer.encode(text)?,
        };
        if ids.is_empty() && begins {
            let first = model.bos_token_id.or(model.eos_token_id);
            ids.extend(first.or(tokenizer.eos_id()));
            if ids.is_empty() {
                return Err(GenerateError::EmptyPrompt.into());
            }
        }
        Ok(ids)
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`EngineError::Stopping`]: it takes nothing new; [`EngineError::Failed`]: its thread panicked.
    pub fn health(&self) -> Result<(), EngineError> {
        let flags = [&self.shared.stopping, &self.shared.panicked];
        match flags.iter().any(|flag| flag.load(Ordering::Relaxed)) {
            true => Err(self.ended()),
            false => Ok(()),
        }
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// The configuration of the model.
    pub fn model_config(&self) -> &ModelConfig {
        &self.shared.model
    }

    /// What identifies the model in state files.
    pub fn fingerprint(&self) -> &str {
        &self.shared.fingerprint
    }

    /// The engine's limits.
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// What the engine has counted; [`Metrics::text`] is for Prometheus.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    #[cfg(test)]
    pub(crate) fn panic(&self) {
        let _ = self.send(Command::Ask(Box::new(|_| panic!("a test asked for it"))));
    }

    /// Why it does not answer any more.
    pub(crate) fn ended(&self) -> EngineError {
        self.shared.ended()
    }

    fn place(&self) -> Result<Place, EngineError> {
        self.health()?;
        let (shared, limit) = (&self.shared, self.shared.config.max_queue);
        Place::take(shared).ok_or_else(|| {
            shared.metrics.refused.add(1);
            let retry_after = shared.metrics.wait(limit, shared.config.max_rows);
            EngineError::Busy { limit, retry_after }
        })
    }

    fn send(&self, command: Command<State>) -> Result<(), EngineError> {
        self.line.0.send(command).map_err(|_| self.ended())
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State, Reply<T>) + Send + 'static,
    ) -> Result<T, EngineError> {
        let (answer, receiver) = oneshot::channel();
        let _place = self.place()?;
        let reply = Reply { answer, _place };
        self.send(Command::Ask(Box::new(|state| work(state, reply))))?;
        receiver.await.unwrap_or_else(|_| Err(self.ended()))
    }
}
