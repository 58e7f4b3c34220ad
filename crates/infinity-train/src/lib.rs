//! Training for InfinityFormer, on burn-train.
//!
//! # Map
//!
//! - [`config`]: [`RunConfig`], one TOML file a run.
//! - [`data`]: text to token files to batches that are pure functions of their number.
//! - [`train`](mod@train): a whole run, top to bottom; [`estimate`](mod@estimate): what it will take.
//! - [`step`]: a batch to gradients; [`optimizer`]: gradients to new parameters.
//! - [`distributed`]: a step shared by devices; `burn_train`: what adapts all this to burn-train.
//! - [`evaluate`](mod@evaluate): the loss over a split, along one text, and what a memory holds.
//! - [`checkpoint`], [`resume`], [`run_dir`], [`metrics`]: what a run leaves behind and says about itself;
//!   [`model_dir`]: the model in it.

#![forbid(unsafe_code)]

mod burn_train;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod distributed;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod metrics;
pub mod model_dir;
pub mod optimizer;
pub mod resume;
pub mod run_dir;
mod section;
pub mod step;
pub mod train;

pub use config::RunConfig;
pub use distributed::Devices;
pub use error::{CheckpointError, TrainError};
pub use estimate::{Estimate, estimate};
pub use evaluate::{
    EvalReport, StreamOptions, StreamReport, evaluate, evaluate_stream, evaluate_stream_from,
};
pub use resume::Resume;
pub use train::{TrainControl, TrainReport, train};
