//! An engine begins: its threads, and the way to them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use infinity_model::generate::Identity;
use infinity_model::{InfinityModel, Tokenizer};

use crate::config::EngineConfig;
use crate::engine::State;
use crate::error::EngineError;
use crate::handle::EngineHandle;
use crate::keeper::Keeper;
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::store::Store;

/// What reads and continues texts.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Starts a thread that owns `model`, and gives the way to it.
    ///
    /// ```
    /// use infinity_model::{ModelConfig, Tokenizer, burn::tensor::Device};
    /// use infinity_serve::{Engine, EngineConfig, Event, Request};
    ///
    /// let model = ModelConfig::new(257).with_hidden_size(16).init(&Device::flex());
    /// let engine = Engine::start(model, Tokenizer::bytes(), EngineConfig::default())?;
    /// let prompt = engine.encode("Once", true)?;
    /// let mut events = engine.submit(Request { prompt, max_tokens: 3, ..Request::default() })?;
    /// let mut tokens = 0;
    /// while let Some(event) = events.blocking_recv() {
    ///     tokens += usize::from(matches!(event, Event::Token(_)));
    /// }
    /// assert!(tokens > 0);
    /// # Ok::<(), infinity_serve::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Failed`]: the directory of sessions cannot be used, or there is no thread.
    pub fn start(
        model: InfinityModel,
        tokenizer: Tokenizer,
        config: EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        let stored = config.state_dir.as_deref().map(Store::open).transpose()?;
        let (store, records) = stored.unzip();
        let identity = Identity::of(&model, Some(&tokenizer));
        let shared = Arc::new(Shared {
            config,
            model: model.config().clone(),
            fingerprint: identity.model().to_owned(),
            tokenizer,
            metrics: Metrics::default(),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let (commands, asked) = channel();
        let (jobs, work) = channel();
        let keeper = Keeper {
            store,
            model: model.clone(),
            identity,
            shared: Arc::clone(&shared),
            engine: commands.clone(),
        };
        let failed = |error: std::io::Error| EngineError::Failed(error.to_string());
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        let kept = spawn("sessions").spawn(move || keeper.run(&work));
        let kept = kept.map_err(failed)?;
        let handle = EngineHandle::new(commands, Arc::clone(&shared));
        let run = move || {
            // Made on its own thread, which recorded steps cannot leave.
            let state = State::new(
                model,
                Arc::clone(&shared),
                jobs,
                records.unwrap_or_default(),
            );
            // Whatever happened, every reader sees the end of its events.
            let mut stopped = catch_unwind(AssertUnwindSafe(|| state.run(&asked))).ok();
            shared.panicked.store(stopped.is_none(), Ordering::Relaxed);
            let _ = kept.join();
            stopped.iter_mut().flatten().for_each(|stopped| {
                let _ = stopped.take().map(|stopped| stopped.send(()));
            });
        };
        spawn("engine").spawn(run).map_err(failed)?;
        Ok(handle)
    }
}
