//! One file a verb: its flags, and what it does.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod devices;
pub(crate) mod eval;
mod eval_stream;
mod eval_task;
mod flags;
pub(crate) mod generate;
mod layering;
pub(crate) mod plot;
mod sampling;
pub(crate) mod tokenize;
pub(crate) mod train;
