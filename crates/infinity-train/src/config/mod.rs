//! `RunConfig`: everything one training run is told, as strict TOML.
//!
//! A file has the sections `[run] [model] [tokenizer] [data] [training] [optimizer]
//! [lr_scheduler] [eval] [checkpoint] [logging] [distributed]`; every key has a default, and a key
//! that nobody reads is an error with a suggestion. Values are layered, later ones win:
//!
//! ```text
//! defaults < preset < files in order < environment < flags < --set
//! ```
//!
//! [`ConfigLayers`] collects the layers, [`ConfigLayers::resolve`] merges, checks and returns a
//! [`LoadedConfig`]. The library prints nothing: warnings are returned.

mod keys;
mod layers;
mod sections;
mod validate;

use std::path::{Path, PathBuf};

use infinity_model::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::data::{DataConfig, TokenizerConfig};
use crate::step::default_segment;
pub use keys::{Key, key, keys, reference, schema};
pub use layers::{ConfigLayers, LoadedConfig};
pub use sections::{
    CheckpointConfig, DeviceList, DistributedConfig, DistributedStrategy, EvalConfig,
    GradientCheckpointing, LoggingConfig, LossScaling, LossWatchdog, LrSchedulerConfig,
    LrSchedulerType, OptimizerConfig, OptimizerName, Precision, Progress, RunSection,
    TrainingConfig,
};

/// The layout of the configuration that this version reads.
pub const SCHEMA: u32 = 1;

/// One training run: what is learned, from what, how, and what is written where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Layout version of the file; [`SCHEMA`].
    pub schema: u32,
    /// Name, output directory, seed, device and precision.
    pub run: RunSection,
    /// The network.
    pub model: ModelConfig,
    /// Which tokenizer turns text into ids.
    pub tokenizer: TokenizerConfig,
    /// Where text comes from and how it is cut into windows.
    pub data: DataConfig,
    /// Batch sizes, length of the run, gradient handling.
    pub training: TrainingConfig,
    /// The update rule and its rates.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    pub lr_scheduler: LrSchedulerConfig,
    /// Validation and samples.
    pub eval: EvalConfig,
    /// What is saved and kept.
    pub checkpoint: CheckpointConfig,
    /// What is printed and logged.
    pub logging: LoggingConfig,
    /// More than one device.
    pub distributed: DistributedConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            run: RunSection::default(),
            model: ModelConfig::default(),
            tokenizer: TokenizerConfig::default(),
            data: DataConfig::default(),
            training: TrainingConfig::default(),
            optimizer: OptimizerConfig::default(),
            lr_scheduler: LrSchedulerConfig::default(),
            eval: EvalConfig::default(),
            checkpoint: CheckpointConfig::default(),
            logging: LoggingConfig::default(),
            distributed: DistributedConfig::default(),
        }
    }
}

impl RunConfig {
    /// Reads one file over the defaults and checks it. Warnings are dropped; callers who show
    /// them use [`ConfigLayers`].
    ///
    /// # Errors
    /// An unreadable file, TOML that does not parse, an unknown key, a wrong type, or a value
    /// that [`RunConfig::validate`] refuses.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Ok(ConfigLayers::new().file(path)?.resolve()?.config)
    }

    /// Reads TOML text over the defaults and checks it, as [`RunConfig::load`] does.
    ///
    /// # Errors
    /// As [`RunConfig::load`], without the reading.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Ok(ConfigLayers::new().text("text", text)?.resolve()?.config)
    }

    /// A record that [`to_toml`](Self::to_toml) made, in this version or an earlier one: keys of `[model]`
    /// that it lacks mean what they meant before they existed ([`ModelConfig::first`]).
    ///
    /// # Errors
    /// As [`RunConfig::load`], without the reading.
    pub fn from_record(text: &str) -> Result<Self, ConfigError> {
        let first = toml::Table::try_from(ModelConfig::first()).unwrap_or_default();
        let first = toml::Table::from_iter([("model".to_owned(), toml::Value::Table(first))]);
        let layers = ConfigLayers::new().text("the first version", &first.to_string())?;
        Ok(layers.text("text", text)?.resolve()?.config)
    }

    /// The effective configuration as TOML, every key written out; reads back to an equal value.
    ///
    /// # Panics
    /// Never for a configuration that was read from TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every configuration has a TOML form")
    }

    /// The run directory: `run.output_dir`, or `runs/<run.name>` when that is empty.
    pub fn output_dir(&self) -> PathBuf {
        let named = |name: &str| PathBuf::from("runs").join(name);
        match (&*self.run.output_dir, &*self.run.name) {
            ("", "") => named("infinity"),
            ("", name) => named(name),
            (dir, _) => PathBuf::from(dir),
        }
    }

    /// Rows of one micro-batch, on all devices together.
    pub fn rows(&self) -> usize {
        let rows = self.training.per_device_train_batch_size;
        rows.saturating_mul(self.distributed.ranks())
    }

    /// Tokens that one optimizer step learns from.
    pub fn tokens_per_step(&self) -> u64 {
        (self.rows() * self.training.gradient_accumulation_steps * self.data.training_window())
            as u64
    }

    /// Tokens of a segment where the backward pass recomputes along the sequence.
    pub fn checkpoint_segment(&self) -> usize {
        match (self.training.checkpoint_segment, self.data.tbptt_chunks) {
            (0, 0 | 1) => default_segment(self.data.training_window()),
            (0, _) => self.data.max_seq_length,
            (given, _) => given,
        }
    }
}

/// A configuration that cannot be used: a mistake of the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{origin} is not valid TOML\n{message}")]
    Syntax {
        /// File or argument.
        origin: String,
        /// The parser's message, with the line.
        message: String,
    },
    /// A key that nobody reads.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File and line, variable, or argument.
        origin: String,
        /// The dotted key.
        key: String,
        /// What was probably meant, as the end of the sentence.
        hint: String,
    },
    /// A value of the wrong type, or outside the words a key allows.
    #[error("{origin}: `{key}`: {message}")]
    Value {
        /// File and line, variable, or argument.
        origin: String,
        /// The dotted key.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// A `--set` argument that is not `section.key=value`.
    #[error("`--set {argument}`: expected section.key=value, as in `--set training.max_steps=100`")]
    Assignment {
        /// The argument.
        argument: String,
    },
    /// A preset that does not exist.
    #[error("unknown preset `{name}`{hint}")]
    Preset {
        /// The name asked for.
        name: String,
        /// What was probably meant, and what there is.
        hint: String,
    },
    /// A value outside its limits, or at odds with another key.
    #[error("`{key}` is {value}, but {limit}{origin}")]
    Invalid {
        /// The dotted key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is required, as the rest of the sentence.
        limit: String,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
    /// `[model]` does not describe a network.
    #[error("{problem}{origin}")]
    Model {
        /// What is wrong; its message begins with the dotted key.
        problem: infinity_model::ConfigError,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
    /// `[data]` or `[tokenizer]` cannot be used.
    #[error("{problem}{origin}")]
    Data {
        /// What is wrong; its message begins with the dotted key.
        problem: Box<crate::data::DataError>,
        /// Where the value was set, as the end of the sentence; empty when unknown.
        origin: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_round_trip() {
        let config = RunConfig::default();
        config.validate().unwrap();
        let text = config.to_toml();
        assert_eq!(RunConfig::from_toml(&text).unwrap(), config, "{text}");
    }

    #[test]
    fn a_changed_config_round_trips_too() {
        let mut config = RunConfig::default();
        config.run.seed = u64::from(u32::MAX) + 7;
        config.model.head_dim = Some(16);
        config.optimizer.name = OptimizerName::Muon;
        config.eval.sample_prompts = vec!["fn \"main\"\n".to_owned()];
        let back = RunConfig::from_toml(&config.to_toml()).unwrap();
        assert_eq!(back, config);
        // The comparison itself must notice a difference.
        config.optimizer.name = OptimizerName::Adamw;
        assert_ne!(back, config);
    }

    #[test]
    fn an_old_record_means_what_it_meant() {
        let mut config = RunConfig::default();
        config.model.num_memory_scales = 2;
        let mut table: toml::Table = config.to_toml().parse().unwrap();
        let model = table["model"].as_table_mut().unwrap();
        for newer in ["value_residual", "input_residual", "allow_neg_eigval"] {
            model.remove(newer).expect("a key");
        }
        assert_eq!(RunConfig::from_record(&table.to_string()).unwrap(), config);
        // What the record says is above what it lacks.
        let said = RunConfig::from_record("[model]\nvalue_residual = true").unwrap();
        assert!(said.model.value_residual && !said.model.input_residual);
        assert!(RunConfig::from_record("[model]\nvalue_residul = true").is_err());
    }

    #[test]
    fn the_output_directory_has_a_default() {
        let mut config = RunConfig::default();
        assert_eq!(config.output_dir(), Path::new("runs/infinity"));
        config.run.name = "tiny".to_owned();
        assert_eq!(config.output_dir(), Path::new("runs/tiny"));
        config.run.output_dir = "elsewhere".to_owned();
        assert_eq!(config.output_dir(), Path::new("elsewhere"));
    }
}
