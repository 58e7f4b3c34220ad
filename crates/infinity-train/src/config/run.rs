//! [`RunConfig`] itself, and what can be wrong with one.

use super::sections::{
    CheckpointConfig, DistributedConfig, EvalConfig, LoggingConfig, LoraConfig, LrSchedulerConfig,
    OptimizerConfig, RunSection, TrainingConfig,
};
use crate::data::{DataConfig, TokenizerConfig};
use crate::section::section;
use infinity_model::ModelConfig;
use std::path::PathBuf;

/// The layout of the configuration that this version reads.
pub const SCHEMA: u32 = 1;

section! {
    /// One training run: what is learned, from what, how, and what is written where.
    RunConfig {
        /// Layout version of the file; [`SCHEMA`].
        schema: u32 = SCHEMA;
        /// Name, output directory, seed, device and precision.
        run: RunSection = RunSection::default();
        /// The network.
        model: ModelConfig = ModelConfig::default();
        /// Which tokenizer turns text into ids.
        tokenizer: TokenizerConfig = TokenizerConfig::default();
        /// Where text comes from and how it is cut into windows.
        data: DataConfig = DataConfig::default();
        /// Batch sizes, length of the run, gradient handling.
        training: TrainingConfig = TrainingConfig::default();
        /// Low-rank adapters on the projections of the model that `training.init_from` names, which alone learn
        /// (arXiv:2106.09685). Names and defaults are those of the Python package PEFT.
        lora: LoraConfig = LoraConfig::default();
        /// The update rule and its rates.
        optimizer: OptimizerConfig = OptimizerConfig::default();
        /// The learning rate over the run.
        lr_scheduler: LrSchedulerConfig = LrSchedulerConfig::default();
        /// Validation and samples.
        eval: EvalConfig = EvalConfig::default();
        /// What is saved and kept.
        checkpoint: CheckpointConfig = CheckpointConfig::default();
        /// What is printed and logged.
        logging: LoggingConfig = LoggingConfig::default();
        /// More than one device.
        distributed: DistributedConfig = DistributedConfig::default();
    }
}

impl RunConfig {
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

/// Segments are multiples of this: the chunk of the CPU's scan.
const MULTIPLE: usize = 64;
/// No default below this: matrix products over fewer rows are slow, and it is little memory.
const LEAST: usize = 256;

/// The segment for windows of `len` tokens where none is given: √len rounded up to a multiple of
/// 64, and at least 256.
pub fn default_segment(len: usize) -> usize {
    let root = len.saturating_sub(1).isqrt() + 1;
    root.next_multiple_of(MULTIPLE).max(LEAST)
}

/// A configuration that cannot be used: a mistake of the person who wrote it. The message has the place where that is
/// known (file and line, variable or argument), the dotted key, its value, and what is expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerName;
    use std::path::Path;

    #[test]
    fn the_default_is_the_root_of_the_window_in_multiples() {
        for (len, segment) in [
            (1, 256),
            (65_536, 256),
            (65_537, 320),
            (100_000, 320),
            (1_048_576, 1024),
            (1_048_577, 1088),
        ] {
            assert_eq!(default_segment(len), segment, "{len}");
        }
    }

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
    fn the_output_directory_has_a_default() {
        let mut config = RunConfig::default();
        assert_eq!(config.output_dir(), Path::new("runs/infinity"));
        config.run.name = "tiny".to_owned();
        assert_eq!(config.output_dir(), Path::new("runs/tiny"));
        config.run.output_dir = "elsewhere".to_owned();
        assert_eq!(config.output_dir(), Path::new("elsewhere"));
    }
}
