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
//!   Inside: `row` is one request on its way, `reading` a piece of its prompt, `batch` the rows of
//!   one step, `prefix` the states of beginnings; `sessions` is the table, `store` the disk, `keeper`
//!   the thread that uses it.
//! - [`metrics`]: what it counts.

#![forbid(unsafe_code)]

mod batch;
mod command;
pub mod config;
pub mod engine;
pub mod error;
pub mod handle;
mod keeper;
mod logprobs;
pub mod metrics;
mod prefix;
mod reading;
pub mod request;
mod row;
pub mod session;
mod sessions;
mod shared;
mod store;

pub use config::EngineConfig;
pub use engine::Engine;
pub use error::EngineError;
pub use handle::EngineHandle;
pub use metrics::Metrics;
pub use request::{Event, Request, Start, Token, Usage};
pub use session::{SessionId, SessionInfo};
