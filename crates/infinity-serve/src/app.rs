//! What the routes share: the engine, which may still be loading, and the server's limits.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;
use infinity_model::{ChatTemplate, GenerationConfig};

use crate::answer::ApiError;
use crate::handle::EngineHandle;
use crate::session::now;

/// What a server tells of its model, whom it answers, and its limits.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The model's name in requests and answers.
    pub model_name: String,
    /// How conversations are written.
    pub template: ChatTemplate,
    /// How to draw tokens where a request does not say.
    pub generation: GenerationConfig,
    /// The key that requests need; none are asked for one without.
    pub api_key: Option<String>,
    /// Names in the `Host` header that are answered, without port; `None` answers all. A browser that
    /// was led here by a stranger's name says that name.
    pub hosts: Option<Vec<String>>,
    /// Bytes of a request's JSON.
    pub max_body_bytes: usize,
    /// Bytes of a state that is sent.
    pub max_state_bytes: usize,
    /// Texts that one request may ask for: prompts times `n`.
    pub max_choices: usize,
    /// Time until a body must be there.
    pub body_time: Duration,
    /// Time that an answer may take.
    pub request_time: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let local = ["localhost", "127.0.0.1", "[::1]"];
        Self {
            model_name: "infinity".to_owned(),
            template: ChatTemplate::plain(),
            generation: GenerationConfig::default(),
            api_key: None,
            hosts: Some(local.map(str::to_owned).into()),
            max_body_bytes: 32 << 20,
            max_state_bytes: 1 << 30,
            max_choices: 128,
            body_time: Duration::from_secs(60),
            request_time: Duration::from_secs(3600),
        }
    }
}

impl ServerConfig {
    /// Whether a server may listen there: without a key only where this machine alone reaches it.
    ///
    /// # Errors
    /// A sentence that names the address and what to do.
    pub fn check_address(&self, address: IpAddr) -> Result<(), String> {
        match address.is_loopback() || self.api_key.is_some() {
            true => Ok(()),
            false => Err(format!(
                "{address} can be reached from other machines: give an API key, or listen on 127.0.0.1"
            )),
        }
    }
}

/// A model that is being served, or will be: routes say 503 until it is there.
#[derive(Clone, Debug, Default)]
pub struct Served(Arc<OnceLock<EngineHandle>>);

impl Served {
    /// One that is still loading.
    pub fn loading() -> Self {
        Self::default()
    }

    /// The engine is there. A second one changes nothing.
    pub fn ready(&self, engine: EngineHandle) {
        let _ = self.0.set(engine);
    }

    /// The engine, if it is there.
    pub fn engine(&self) -> Option<&EngineHandle> {
        self.0.get()
    }
}

impl From<EngineHandle> for Served {
    fn from(engine: EngineHandle) -> Self {
        let served = Self::loading();
        served.ready(engine);
        served
    }
}

/// What every route has.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Served,
    pub(crate) config: ServerConfig,
    pub(crate) started: u64,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(served: Served, config: ServerConfig) -> Shared {
        Arc::new(Self {
            served,
            config,
            started: now(),
        })
    }

    pub(crate) fn engine(&self) -> Result<&EngineHandle, ApiError> {
        self.served.engine().ok_or_else(|| {
            let message = format!("the model {} is still loading", self.config.model_name);
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "loading", message).retry_after(2)
        })
    }

    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        let name = &self.config.model_name;
        let Some(asked) = asked.filter(|asked| asked != name) else {
            return Ok(());
        };
        let shown: String = asked.chars().take(100).collect();
        let message = format!("the model {shown:?} is not here; this server has {name:?}");
        let mut error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        error.param = Some("model".to_owned());
        Err(error)
    }
}
