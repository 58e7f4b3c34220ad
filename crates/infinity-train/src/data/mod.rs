//! Text to batches.
//!
//! ```text
//! sources → formats    files in a fixed order, each a stream of documents (cargo: sources of crates)
//! tokenize → store     tokens in files of their own, made once by prepare and kept in a cache
//! plan → batches       pure functions of a number
//! ```
//!
//! [`prepare`] does the first two, [`TrainSource`] and [`EvalSource`] the third.

mod batch;
mod batches;
mod cargo;
mod chat;
mod config;
mod error;
mod formats;
pub(crate) mod needle;
mod plan;
mod prepare;
mod random;
mod sources;
mod store;
mod stories;
mod task;
mod task_splits;
pub(crate) mod templates;
#[cfg(test)]
mod tests;
mod tokenize;

pub use batch::{HostBatch, IGNORE_INDEX};
pub use batches::{EvalSource, TrainSource, Workers};
pub use config::{DataConfig, DataSource, InitialState, Packing, TokenizerConfig, TokenizerKind};
pub use error::DataError;
pub(crate) use error::bad;
pub use formats::{Format, Fragment, SourceFile};
pub use needle::Needles;
pub(crate) use prepare::known_tokenizer;
pub use prepare::{is_prepared, open_prepared, prepare, tokenize_to};
pub use sources::Sources;
pub use store::{
    FileStamp, PreparedData, PreparedMeta, SourceMeta, SplitMeta, TextMeta, TokenStore, Width,
};
pub use stories::{Stories, StoriesConfig, book};
pub(crate) use task::draw;
pub use task::{Answer, Kind, Part, Task, TaskConfig, TaskRow, TaskRows};
pub use tokenize::train_bpe;
