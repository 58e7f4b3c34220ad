//! How much an engine does at once and keeps.

use std::path::PathBuf;
use std::time::Duration;

/// Limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Texts that are read and continued at once; the others wait.
    pub max_rows: usize,
    /// Requests that wait for a place or for an answer; one more is refused as
    /// [`Busy`](crate::EngineError::Busy).
    pub max_queue: usize,
    /// Sessions there may be.
    pub max_sessions: usize,
    /// Tokens that a prompt or an append may have.
    pub max_prompt_tokens: usize,
    /// Tokens that one request may generate.
    pub max_new_tokens: usize,
    /// The likeliest tokens that may be told with each token.
    pub max_logprobs: usize,
    /// Events that wait for a reader before its text is parked.
    pub max_unread: usize,
    /// Bytes of states of idle sessions that stay in memory, if they can go to disk.
    pub session_bytes: usize,
    /// Bytes of states of beginnings of prompts; 0 keeps none.
    pub prefix_bytes: usize,
    /// Time between two tokens of others that is given to reading prompts.
    pub read_slice: Duration,
    /// Where sessions are kept; without it they end with the engine.
    pub state_dir: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_rows: 32,
            max_queue: 256,
            max_sessions: 1024,
            max_prompt_tokens: 16 << 20,
            max_new_tokens: 1 << 20,
            max_logprobs: 20,
            max_unread: 256,
            session_bytes: 1 << 30,
            prefix_bytes: 256 << 20,
            read_slice: Duration::from_millis(30),
            state_dir: None,
        }
    }
}
