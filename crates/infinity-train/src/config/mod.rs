//! `RunConfig`: everything one training run is told, as strict TOML.
//!
//! Every key has a default, and a key that nobody reads is an error with a suggestion. Values are layered, later ones
//! win: defaults < preset < files in order < environment < flags < `--set`.
//! [`ConfigLayers`] collects the layers, [`ConfigLayers::resolve`] merges, checks and returns a
//! [`LoadedConfig`]. The library prints nothing: warnings are returned.

mod keys;
mod layers;
mod run;
mod sections;
mod validate;

pub use crate::data::{DataConfig, TokenizerConfig};
pub use infinity_model::ModelConfig;
pub use keys::{Key, key, keys, reference, schema};
pub use layers::{ConfigLayers, LoadedConfig};
pub use run::{ConfigError, RunConfig, SCHEMA, default_segment};
pub(crate) use sections::FLOOR;
pub use sections::{
    CheckpointConfig, DeviceList, DistributedConfig, DistributedStrategy, EvalConfig,
    GradientCheckpointing, LoggingConfig, LoraConfig, LossScaling, LossWatchdog, LrSchedulerConfig,
    LrSchedulerType, OptimizerConfig, OptimizerName, Precision, Progress, RunSection,
    TrainingConfig,
};
