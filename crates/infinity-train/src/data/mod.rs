//! Text to batches.
//!
//! ```text
//! files, or sources of dependencies   source, cargo_sources: documents in a fixed order
//!   → tokens in files of their own    tokenize, token_file, prepare: once, kept in a cache
//!   → batches                         loader, eval_source: pure functions of a number
//! ```
//!
//! [`prepare`] does the first two, [`TrainSource`] and [`EvalSource`] the third.

mod batch;
mod cargo_error;
mod cargo_sources;
mod checked_reader;
mod config;
mod csv_quotes;
mod document_plan;
mod error;
mod eval_source;
mod event;
mod fingerprint;
mod initial_state;
mod inputs;
mod json_rows;
mod loader;
mod meta;
mod permutation;
mod prepare;
mod records;
mod source;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod token_file;
mod tokenize;
mod vocabulary;
mod workers;
mod write;

pub use batch::{BatchSource, HostBatch, IGNORE_INDEX};
pub use cargo_error::CargoError;
pub use cargo_sources::{CargoWorkspace, CrateSources};
pub use config::{DataConfig, DataSource, Packing, TokenizerConfig, TokenizerKind};
pub use error::DataError;
pub use eval_source::EvalSource;
pub use event::DataEvent;
pub use fingerprint::{Fingerprint, fingerprint};
pub use initial_state::InitialState;
pub use loader::TrainSource;
pub use meta::{PreparedMeta, SourceMeta};
pub use prepare::{PreparedData, is_prepared, open_prepared, prepare, tokenize_to};
pub use source::{Format, Fragment, Fragments, SourceFile, Sources};
pub use store::{SplitMeta, TokenStore};
pub(crate) use task::draw;
pub use task::{Answer, Kind, Part, Task, TaskConfig, TaskRow, TaskRows};
pub use token_file::{FileStamp, NumberFile, NumberWriter, Width};
pub use vocabulary::train_bpe;
pub use workers::Workers;
