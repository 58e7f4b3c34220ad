//! The sections of [`RunConfig`](super::RunConfig) that training itself owns, with their defaults.
//!
//! Key names are those of Hugging Face's trainer and of the original project's flags. Every
//! struct refuses unknown keys; `super::layers` does so first, with a better message.

use crate::section::section;
pub use infinity_model::Precision;
use infinity_model::adapter::Lora;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;

section! {
    /// `[run]`: what the run is called, where it writes, on what it computes.
    RunSection {
        /// Name of the run; the output directory is `runs/<name>` when none is given.
        name: String = String::new();
        /// Directory the run writes into. Empty: `runs/<name>`.
        output_dir: String = String::new();
        /// Seed of initialisation, data order and samples.
        seed: u64 = 42;
        /// Device to compute on: `auto`, `flex`, `cpu`, `ndarray`, `wgpu`, `cuda:0`, ….
        device: String = "auto".to_owned();
        /// Number formats of parameters and arithmetic. `f32` multiplies in TF32 where a GPU has that: `infinity devices` says so.
        precision: Precision = Precision::F32;
        /// Replace an output directory that exists.
        overwrite: bool = false;
    }
}

section! {
    /// `[training]`: batch sizes, length of the run, gradient handling.
    TrainingConfig {
        /// Optimizer steps; 0 leaves the length to `max_tokens` or `num_train_epochs`.
        max_steps: u64 = 0;
        /// Passes over the training tokens, used when `max_steps` and `max_tokens` are 0.
        num_train_epochs: f64 = 3.0;
        /// Training tokens; the run ends before the step that would exceed it. 0: no limit.
        max_tokens: u64 = 0;
        /// Seconds of training after which the run ends with what it has, whatever the step; 0: no limit.
        max_seconds: u64 = 0;
        /// Rows of one micro-batch on one device.
        per_device_train_batch_size: usize = 8;
        /// Rows of one validation batch.
        per_device_eval_batch_size: usize = 8;
        /// Micro-batches averaged into one optimizer step.
        gradient_accumulation_steps: usize = 1;
        /// Largest global norm of the gradient; 0 switches clipping off.
        max_grad_norm: f64 = 1.0;
        /// What is recomputed in the backward pass instead of being kept.
        gradient_checkpointing: GradientCheckpointing = GradientCheckpointing::None;
        /// Tokens of a segment under `gradient_checkpointing = "segments"`; 0 takes the square root of
        /// the window, rounded up to a multiple of 64 and at least 256. With `data.tbptt_chunks` above
        /// 1 it takes one of those windows.
        checkpoint_segment: usize = 0;
        /// Leave out an optimizer step whose loss or gradient is not finite.
        skip_non_finite: bool = true;
        /// Stop when the loss stays above a threshold.
        loss_watchdog: LossWatchdog = LossWatchdog::default();
        /// How the loss is scaled in `f16-mixed`.
        loss_scale: LossScaling = LossScaling::default();
        /// Model directory, run or checkpoint whose weights the run starts with, as far as their names and
        /// shapes are those of this model; the optimizer starts anew. Of another family's model, `[model]` and
        /// `[tokenizer]` are taken too where nothing is said about them. Empty: fresh weights.
        init_from: PathBuf = PathBuf::new();
        /// Tokens whose logits exist at one time while the loss is computed; 0: all of the batch.
        loss_chunk: usize = 2048;
    }
}

impl TrainingConfig {
    /// Optimizer steps of the whole run, at least 1.
    ///
    /// `max_steps` and `max_tokens` each cap the run and override the epochs, as in the trainers
    /// these keys come from. `steps_per_epoch` counts optimizer steps, not micro-batches.
    pub fn total_steps(&self, tokens_per_step: u64, steps_per_epoch: u64) -> u64 {
        let by_tokens = (self.max_tokens > 0).then(|| self.max_tokens / tokens_per_step.max(1));
        let by_steps = (self.max_steps > 0).then_some(self.max_steps);
        let by_epochs = || (self.num_train_epochs * steps_per_epoch as f64).ceil() as u64;
        let capped = by_steps.into_iter().chain(by_tokens).min();
        capped.unwrap_or_else(by_epochs).max(1)
    }
}

/// What is recomputed in the backward pass instead of being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GradientCheckpointing {
    /// Nothing: fastest, most memory.
    None,
    /// Cheap element-wise operations.
    Ops,
    /// Whole blocks: one block's activations exist at a time.
    Blocks,
    /// Along the sequence: one segment's activations exist at a time, and the state at every
    /// border. For windows far too long to be kept.
    Segments,
}

section! {
    /// Stop a run whose loss stays above `threshold`, or is not finite, for `patience` steps in a row.
    #[derive(Copy)]
    LossWatchdog {
        /// Loss above which a step counts as lost, as one that is not finite does; 0 switches the
        /// watchdog off, and `non_finite_patience` alone ends a run whose steps are not finite.
        threshold: f64 = 0.0;
        /// Lost steps in a row that end the run. A run that ends on so many steps that are not finite
        /// has diverged, with or without a threshold.
        patience: u64 = 3;
        /// Steps in a row that are not finite and end the run where `threshold` is 0. Steps that overflow
        /// in f16 are not counted: they lower the loss scale, which ends the run at its floor.
        non_finite_patience: u64 = 100;
    }
}

/// The lowest loss scale: below this it would shrink gradients.
pub(crate) const FLOOR: f64 = 1.0;

section! {
    /// Dynamic loss scaling, used by `run.precision = "f16-mixed"` alone.
    #[derive(Copy)]
    LossScaling {
        /// Factor on the loss at the start of a run; a power of two scales without rounding.
        initial: f64 = 65536.0;
        /// Steps in a row without overflow after which it doubles.
        growth_interval: u64 = 2000;
    }
}

section! {
    /// `[lora]`: low-rank adapters on the projections of the model that `training.init_from` names, which alone learn
    /// (arXiv:2106.09685). Names and defaults are those of the Python package PEFT.
    LoraConfig {
        /// Rank of the adapters; 0: none, and all weights learn.
        r: usize = 0;
        /// An adapter counts `alpha / r`.
        alpha: f64 = 8.0;
        /// Part of an adapter's inputs that drops out in training.
        dropout: f64 = 0.0;
        /// Projections that get one: names as in "q_proj", longer ends of their paths as in "mlp.up_proj", or
        /// "all-linear".
        #[serde(deserialize_with = "one_or_more")]
        #[schemars(with = "Words")]
        target_modules: Vec<String> = ["q_proj", "v_proj"].map(str::to_owned).to_vec();
    }
}

impl LoraConfig {
    /// The adapters that are asked for, if any are.
    pub fn wanted(&self) -> Option<Lora> {
        (self.r > 0).then(|| Lora {
            r: self.r,
            alpha: self.alpha,
            dropout: self.dropout,
            target_modules: self.target_modules.clone(),
        })
    }
}

/// What a list of words may be written as.
#[derive(Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a word, or a list of words as in [\"q_proj\", \"v_proj\"]"
)]
#[schemars(inline)]
enum Words {
    One(String),
    More(Vec<String>),
}

/// A list of words, or words with commas between them.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Words::deserialize(deserializer)? {
        // With commas between them they are a list on a command line.
        Words::One(words) => words
            .split(',')
            .map(|word| word.trim().to_owned())
            .collect(),
        Words::More(words) => words,
    })
}

section! {
    /// `[optimizer]`: the update rule and its rates.
    OptimizerConfig {
        /// The update rule.
        name: OptimizerName = OptimizerName::Adamw;
        /// Peak learning rate (of AdamW; under Muon, of everything Muon does not update).
        learning_rate: f64 = 5e-5;
        /// Decay of AdamW's first moment.
        beta1: f64 = 0.9;
        /// Decay of AdamW's second moment.
        beta2: f64 = 0.999;
        /// AdamW's denominator offset.
        eps: f64 = 1e-8;
        /// Decoupled weight decay, on matrices only.
        weight_decay: f64 = 0.0;
        /// Decay only numbers that the update makes smaller anyway (arXiv:2510.12402).
        cautious_weight_decay: bool = false;
        /// Parameters without weight decay: words that occur in their path.
        decay_exclude: Vec<String> = ["norm", "bias", "embed"].map(str::to_owned).to_vec();
        /// Peak learning rate of Muon on the two-dimensional hidden matrices.
        muon_learning_rate: f64 = 0.02;
        /// Momentum of Muon.
        muon_momentum: f64 = 0.95;
        /// Factor on `learning_rate` for the gates (decay, write, allocation, read).
        gate_learning_rate_multiplier: f64 = 10.0;
    }
}

/// The update rules that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay, on everything.
    Adamw,
    /// Orthogonalised momentum on the hidden matrices, AdamW on the rest.
    Muon,
}

section! {
    /// `[lr_scheduler]`: the learning rate over the run, as a factor on the peak rate.
    LrSchedulerConfig {
        /// Shape after the warm-up.
        #[serde(rename = "type")]
        kind: LrSchedulerType = LrSchedulerType::Linear;
        /// Steps over which the rate rises from 0 to its peak.
        warmup_steps: u64 = 0;
        /// Rate at the end, as a fraction of the peak.
        min_lr_ratio: f64 = 0.0;
        /// `wsd`: the part of the run, at its end, in which the rate falls.
        decay_ratio: f64 = 0.2;
    }
}

/// Shapes of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// Falls in a straight line.
    Linear,
    /// Falls along half a cosine.
    Cosine,
    /// Warm-up, stable, decay: constant, then a straight fall over `decay_ratio` of the run.
    Wsd,
    /// Does not change.
    Constant,
    /// Does not change after the warm-up.
    ConstantWithWarmup,
}

section! {
    /// `[eval]`: validation and samples.
    EvalConfig {
        /// Measure the validation loss while training and at the end.
        do_eval: bool = true;
        /// Steps between two validations; 0: at the end only.
        every: u64 = 500;
        /// Batches of one validation; 0: the whole split.
        max_batches: u64 = 0;
        /// Carry the model's state from one validation window to the next.
        carry_state: bool = false;
        /// Steps between two samples; 0: at the end only.
        sample_every: u64 = 1000;
        /// Prompts that samples continue. Empty: no samples.
        sample_prompts: Vec<String> = vec!["Once upon a time".to_owned()];
        /// Tokens of one sample.
        sample_tokens: usize = 128;
        /// Validations without improvement that end the run; 0: never.
        early_stopping_patience: u64 = 0;
    }
}

section! {
    /// `[checkpoint]`: what is saved and kept.
    CheckpointConfig {
        /// Steps between two checkpoints; 0: at the end only.
        every: u64 = 500;
        /// Step checkpoints kept, newest first; 0 keeps all. One more is kept until a finite step, or a
        /// validation, has shown that the newest is good.
        keep_last: usize = 2;
        /// Keep the checkpoint with the lowest validation loss as well.
        keep_best: bool = true;
        /// Write a checkpoint before stopping on an interrupt.
        save_on_interrupt: bool = true;
        /// Write `final/` with `model.safetensors`, ready to load.
        export_safetensors: bool = true;
    }
}

section! {
    /// `[logging]`: what is printed and logged.
    LoggingConfig {
        /// Steps between two progress lines.
        every: u64 = 10;
        /// Write `metrics.jsonl`.
        jsonl: bool = true;
        /// Write TensorBoard events.
        tensorboard: bool = false;
        /// How progress is shown.
        progress: Progress = Progress::Auto;
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// Lines: they stay in a terminal when the run is over, and suit a log file.
    Auto,
    /// burn-train's full-screen dashboard, on a terminal.
    Tui,
    /// One line of text per logged step.
    Plain,
    /// One JSON object per logged step.
    Json,
    /// Nothing.
    None,
}

section! {
    /// `[distributed]`: more than one device.
    DistributedConfig {
        /// How work is shared.
        strategy: DistributedStrategy = DistributedStrategy::default();
        /// Devices that take part, in the order of their ranks; the first is the main device: "auto" (all
        /// of the kind of `run.device`), a number of them, or a list as in ["cuda:0", "cuda:2"]. Each takes
        /// `training.per_device_train_batch_size` rows of every micro-batch.
        #[schemars(schema_with = "device_list")]
        devices: DeviceList = DeviceList::Auto;
    }
}

/// How devices share the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DistributedStrategy {
    /// One device.
    #[default]
    Single,
    /// Data parallel on any devices: gradients are averaged on the main device, which alone has an
    /// optimizer and hands out the weights.
    Multi,
    /// Data parallel with an optimizer on every device: gradients are averaged once a step, between
    /// the devices where each is a CUDA device of its own, else on the main device, and weights are
    /// never sent again.
    Ddp,
}

fn device_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "integer", "minimum": 1 },
        { "type": "array", "items": { "type": "string" } },
    ] })
}

/// Which devices take part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"auto\", a number of devices, or a list of devices as in [\"cuda:0\", \"cuda:1\"]"
)]
pub enum DeviceList {
    /// `run.device` alone, or with another strategy than `single` every device of its kind.
    #[default]
    #[serde(serialize_with = "write_auto", deserialize_with = "read_auto")]
    Auto,
    /// So many of the kind of `run.device`, from number 0 on.
    Count(usize),
    /// These, in words as `run.device` has them. A device may be named several times.
    #[serde(deserialize_with = "one_or_more")]
    Words(Vec<String>),
}

impl DistributedConfig {
    /// How many devices take part; 1 under `auto`, until they have been found.
    pub fn ranks(&self) -> usize {
        match (self.strategy, &self.devices) {
            (DistributedStrategy::Single, _) | (_, DeviceList::Auto) => 1,
            (_, DeviceList::Count(count)) => *count,
            (_, DeviceList::Words(words)) => words.len(),
        }
    }
}

const AUTO: &str = "auto";

fn write_auto<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(AUTO)
}

fn read_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        AUTO => Ok(()),
        other => Err(D::Error::custom(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigLayers, RunConfig};

    #[test]
    fn steps_and_tokens_cap_the_run_and_override_epochs() {
        let steps = |max_steps, max_tokens, num_train_epochs| {
            let training = TrainingConfig {
                max_steps,
                max_tokens,
                num_train_epochs,
                ..TrainingConfig::default()
            };
            training.total_steps(100, 40)
        };
        assert_eq!(steps(0, 0, 2.5), 100);
        assert_eq!(steps(7, 0, 2.5), 7);
        assert_eq!(steps(0, 1_050, 2.5), 10, "never more tokens than asked for");
        assert_eq!(steps(20, 1_050, 2.5), 10);
        assert_eq!(steps(5, 1_050, 2.5), 5);
        assert_eq!(steps(0, 0, 0.001), 1);
    }

    fn read(assignments: &[&str]) -> Result<RunConfig, String> {
        let mut layers = ConfigLayers::new();
        for assignment in assignments {
            layers = layers.set(assignment).map_err(|error| error.to_string())?;
        }
        let loaded = layers.resolve().map_err(|error| error.to_string())?;
        Ok(loaded.config)
    }

    #[test]
    fn a_list_is_read_from_everything_that_can_mean_one() {
        let multi = "distributed.strategy=multi";
        for (given, list, ranks) in [
            ("auto", DeviceList::Auto, 1),
            ("3", DeviceList::Count(3), 3),
            ("cuda:1", DeviceList::Words(vec!["cuda:1".to_owned()]), 1),
            (
                "flex, flex",
                DeviceList::Words(vec!["flex".to_owned(); 2]),
                2,
            ),
            (
                "[\"flex\",\"flex\"]",
                DeviceList::Words(vec!["flex".to_owned(); 2]),
                2,
            ),
        ] {
            let config = read(&[multi, &format!("distributed.devices={given}")]).unwrap();
            assert_eq!(config.distributed.devices, list, "{given}");
            assert_eq!(config.distributed.ranks(), ranks, "{given}");
            assert_eq!(RunConfig::from_toml(&config.to_toml()).unwrap(), config);
        }
        let config = read(&[multi, "distributed.devices=3"]).unwrap();
        assert_eq!(
            (config.rows(), config.tokens_per_step()),
            (24, 3 * 8 * 1024)
        );
    }

    #[test]
    fn what_cannot_be_names_key_value_and_limit() {
        let multi = "distributed.strategy=multi";
        for (assignments, words) in [
            (
                &["distributed.devices=2"][..],
                "`distributed.devices` is 2, but",
            ),
            (&["distributed.devices=[\"flex\"]"], "is [\"flex\"], but"),
            (
                &[multi, "distributed.devices=0"],
                "is 0, but must be at least one",
            ),
            (
                &[multi, "distributed.devices=[]"],
                "is [], but must be at least one",
            ),
            (
                &["distributed.strategy=ddp", "distributed.devices=0"],
                "is 0, but must be at least one",
            ),
            (&["distributed.strategy=both"], "distributed.strategy"),
        ] {
            let message = read(assignments).unwrap_err();
            assert!(message.contains(words), "{assignments:?}: {message}");
        }
        for wrong in ["-1", "true", "[2]"] {
            let text = format!("[distributed]\nstrategy = \"multi\"\ndevices = {wrong}\n");
            let message = RunConfig::from_toml(&text).unwrap_err().to_string();
            assert!(
                message.contains(&format!(
                    "text:3: `distributed.devices`: invalid value: {wrong}"
                )),
                "{message}"
            );
        }
    }
}
