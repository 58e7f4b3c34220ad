//! One model, many texts at once, and texts that are kept.
//!
//! An [`Engine`] has a thread that owns the model. Programs talk to it by an [`EngineHandle`]: a
//! [`Request`] is a text to be continued, alone or in a session, and comes back as [`Event`]s.
//! A text's answer is the same whatever runs beside it, bit for bit on the CPU.
//!
//! # Map
//!
//! - [`config`]: its limits; [`error`]: what it refuses and what can fail.
//! - [`request`]: a text to be continued, and what is told of it; [`session`]: a text that is kept.
//! - [`handle`]: what a program holds; [`engine`](mod@engine): the thread.
//! - [`metrics`]: what it counts.

#![forbid(unsafe_code)]
#![allow(dead_code)] // The engine's thread is being written.

mod command;
pub mod config;
pub mod engine;
pub mod error;
pub mod handle;
pub mod metrics;
pub mod request;
pub mod session;
mod shared;

pub use config::EngineConfig;
pub use engine::Engine;
pub use error::EngineError;
pub use handle::EngineHandle;
pub use metrics::Metrics;
pub use request::{Event, Request, Start, Token, Usage};
pub use session::{SessionId, SessionInfo};
