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
//! - [`router`], [`serve`]: all of it over HTTP, as OpenAI's clients ask for it, with a page for people;
//!   [`ServerConfig`], [`Served`]: its limits, and a model that may be still loading.

#![forbid(unsafe_code)]

mod answer;
mod app;
mod batch;
mod body;
mod choices;
mod command;
pub mod config;
pub mod engine;
pub mod error;
mod guard;
pub mod handle;
mod keeper;
mod logprobs;
pub mod metrics;
mod openai;
mod prefix;
mod reading;
pub mod request;
mod routes;
mod row;
mod server;
pub mod session;
mod sessions;
mod shared;
mod start;
mod store;

pub use app::{Served, ServerConfig};
pub use config::EngineConfig;
pub use error::EngineError;
pub use handle::EngineHandle;
pub use metrics::Metrics;
pub use request::{Event, Request, Start, Token, Usage};
pub use server::{router, serve};
pub use session::{SessionId, SessionInfo};
pub use start::Engine;
