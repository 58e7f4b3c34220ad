//! Training for InfinityFormer, on burn-train.
//!
//! # Map
//!
//! - [`config`]: [`RunConfig`](config::RunConfig), one TOML file a run.
//! - [`data`]: text to token files to batches that are pure functions of their number.
//! - [`step`], [`loss`], [`loss_scale`], [`optimizer`], [`schedule`]: one step of learning.
//! - [`train`](mod@train): a whole run; [`devices`]: on one device or several; [`estimate`](mod@estimate): what it will take; [`eval`]:
//!   the loss over a split; [`stream_eval`]: along one text.
//! - [`checkpoint`], [`run_dir`], [`metrics`]: what a run leaves behind and says about itself; [`trained`]: the model of a
//!   checkpoint, to use.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod devices;
pub mod error;
pub mod estimate;
pub mod eval;
mod in_single;
pub mod loss;
pub mod loss_scale;
pub mod metrics;
pub mod muon;
pub mod optimizer;
mod renderer;
pub mod resume;
pub mod run_dir;
pub mod schedule;
mod section;
pub mod step;
mod strategy;
pub mod stream_eval;
mod stream_state;
mod tensorboard;
pub mod train;
pub mod trained;
mod unused;

pub use config::RunConfig;
pub use devices::Devices;
pub use error::{CheckpointError, TrainError};
pub use estimate::{Estimate, estimate};
pub use eval::{EvalReport, evaluate};
pub use resume::Resume;
pub use stream_eval::{StreamOptions, StreamReport, evaluate_stream};
pub use train::{TrainControl, TrainReport, train};
