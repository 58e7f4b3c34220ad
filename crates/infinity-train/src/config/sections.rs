//! The sections of [`RunConfig`](super::RunConfig) that training itself owns, with their defaults.
//!
//! Key names are those of Hugging Face's trainer and of the original project's flags. Every
//! struct refuses unknown keys; `super::strict` does so first, with a better message.

pub use infinity_model::Precision;
use serde::{Deserialize, Serialize};

/// `[run]`: what the run is called, where it writes, on what it computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Name of the run; the output directory is `runs/<name>` when none is given.
    pub name: String,
    /// Directory the run writes into. Empty: `runs/<name>`.
    pub output_dir: String,
    /// Seed of initialisation, data order and samples.
    pub seed: u64,
    /// Device to compute on: `auto`, `flex`, `cpu`, `ndarray`, `wgpu`, `cuda:0`, ….
    pub device: String,
    /// Number formats of parameters and arithmetic.
    pub precision: Precision,
    /// Replace an output directory that exists.
    pub overwrite: bool,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            output_dir: String::new(),
            seed: 42,
            device: "auto".to_owned(),
            precision: Precision::F32,
            overwrite: false,
        }
    }
}

/// `[training]`: batch sizes, length of the run, gradient handling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Optimizer steps; 0 leaves the length to `max_tokens` or `num_train_epochs`.
    pub max_steps: u64,
    /// Passes over the training tokens, used when `max_steps` and `max_tokens` are 0.
    pub num_train_epochs: f64,
    /// Training tokens; the run ends before the step that would exceed it. 0: no limit.
    pub max_tokens: u64,
    /// Seconds of training after which the run ends with what it has, whatever the step; 0: no limit.
    pub max_seconds: u64,
    /// Rows of one micro-batch on one device.
    pub per_device_train_batch_size: usize,
    /// Rows of one validation batch.
    pub per_device_eval_batch_size: usize,
    /// Micro-batches averaged into one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Largest global norm of the gradient; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// What is recomputed in the backward pass instead of being kept.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Tokens of a segment under `gradient_checkpointing = "segments"`; 0 takes the square root of
    /// the window, rounded up to a multiple of 64 and at least 256. With `data.tbptt_chunks` above
    /// 1 it takes one of those windows.
    pub checkpoint_segment: usize,
    /// Leave out an optimizer step whose loss or gradient is not finite.
    pub skip_non_finite: bool,
    /// Stop when the loss stays above a threshold.
    pub loss_watchdog: LossWatchdog,
    /// How the loss is scaled in `f16-mixed`.
    pub loss_scale: LossScaling,
    /// Tokens whose logits exist at one time while the loss is computed; 0: all of the batch.
    pub loss_chunk: usize,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            max_steps: 0,
            num_train_epochs: 3.0,
            max_tokens: 0,
            max_seconds: 0,
            per_device_train_batch_size: 8,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 1,
            max_grad_norm: 1.0,
            gradient_checkpointing: GradientCheckpointing::None,
            checkpoint_segment: 0,
            skip_non_finite: true,
            loss_watchdog: LossWatchdog::default(),
            loss_scale: LossScaling::default(),
            loss_chunk: 2048,
        }
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
        let steps = match (by_steps, by_tokens) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => (self.num_train_epochs * steps_per_epoch as f64).ceil() as u64,
        };
        steps.max(1)
    }
}

/// What is recomputed in the backward pass instead of being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Stop a run whose loss stays above `threshold`, or is not finite, for `patience` steps in a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWatchdog {
    /// Loss above which a step counts as lost, as one that is not finite does; 0 switches the
    /// watchdog off, and `non_finite_patience` alone ends a run whose steps are not finite.
    pub threshold: f64,
    /// Lost steps in a row that end the run. A run that ends on so many steps that are not finite
    /// has diverged, with or without a threshold.
    pub patience: u64,
    /// Steps in a row that are not finite and end the run where `threshold` is 0. Steps that overflow
    /// in f16 are not counted: they lower the loss scale, which ends the run at its floor.
    pub non_finite_patience: u64,
}

impl Default for LossWatchdog {
    fn default() -> Self {
        Self {
            threshold: 0.0,
            patience: 3,
            non_finite_patience: 100,
        }
    }
}

/// Dynamic loss scaling, used by `run.precision = "f16-mixed"` alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossScaling {
    /// Factor on the loss at the start of a run; a power of two scales without rounding.
    pub initial: f64,
    /// Steps in a row without overflow after which it doubles.
    pub growth_interval: u64,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self {
            initial: 65536.0,
            growth_interval: 2000,
        }
    }
}

/// `[optimizer]`: the update rule and its rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    pub name: OptimizerName,
    /// Peak learning rate (of AdamW; under Muon, of everything Muon does not update).
    pub learning_rate: f64,
    /// Decay of AdamW's first moment.
    pub beta1: f64,
    /// Decay of AdamW's second moment.
    pub beta2: f64,
    /// AdamW's denominator offset.
    pub eps: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// Parameters without weight decay: words that occur in their path.
    pub decay_exclude: Vec<String>,
    /// Peak learning rate of Muon on the two-dimensional hidden matrices.
    pub muon_learning_rate: f64,
    /// Momentum of Muon.
    pub muon_momentum: f64,
    /// Factor on `learning_rate` for the gates (decay, write, allocation, read).
    pub gate_learning_rate_multiplier: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::Adamw,
            learning_rate: 5e-5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decay_exclude: ["norm", "bias", "embed"].map(str::to_owned).to_vec(),
            muon_learning_rate: 0.02,
            muon_momentum: 0.95,
            gate_learning_rate_multiplier: 10.0,
        }
    }
}

/// The update rules that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay, on everything.
    Adamw,
    /// Orthogonalised momentum on the hidden matrices, AdamW on the rest.
    Muon,
}

/// `[lr_scheduler]`: the learning rate over the run, as a factor on the peak rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedulerConfig {
    /// Shape after the warm-up.
    #[serde(rename = "type")]
    pub kind: LrSchedulerType,
    /// Steps over which the rate rises from 0 to its peak.
    pub warmup_steps: u64,
    /// Rate at the end, as a fraction of the peak.
    pub min_lr_ratio: f64,
    /// `wsd`: the part of the run, at its end, in which the rate falls.
    pub decay_ratio: f64,
}

impl Default for LrSchedulerConfig {
    fn default() -> Self {
        Self {
            kind: LrSchedulerType::Linear,
            warmup_steps: 0,
            min_lr_ratio: 0.0,
            decay_ratio: 0.2,
        }
    }
}

/// Shapes of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// `[eval]`: validation and samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Measure the validation loss while training and at the end.
    pub do_eval: bool,
    /// Steps between two validations; 0: at the end only.
    pub every: u64,
    /// Batches of one validation; 0: the whole split.
    pub max_batches: u64,
    /// Carry the model's state from one validation window to the next.
    pub carry_state: bool,
    /// Steps between two samples; 0: at the end only.
    pub sample_every: u64,
    /// Prompts that samples continue. Empty: no samples.
    pub sample_prompts: Vec<String>,
    /// Tokens of one sample.
    pub sample_tokens: usize,
    /// Validations without improvement that end the run; 0: never.
    pub early_stopping_patience: u64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            do_eval: true,
            every: 500,
            max_batches: 0,
            carry_state: false,
            sample_every: 1000,
            sample_prompts: vec!["Once upon a time".to_owned()],
            sample_tokens: 128,
            early_stopping_patience: 0,
        }
    }
}

/// `[checkpoint]`: what is saved and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; 0: at the end only.
    pub every: u64,
    /// Step checkpoints kept, newest first; 0 keeps all. One more is kept until a finite step, or a
    /// validation, has shown that the newest is good.
    pub keep_last: usize,
    /// Keep the checkpoint with the lowest validation loss as well.
    pub keep_best: bool,
    /// Write a checkpoint before stopping on an interrupt.
    pub save_on_interrupt: bool,
    /// Write `final/` with `model.safetensors`, ready to load.
    pub export_safetensors: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 500,
            keep_last: 2,
            keep_best: true,
            save_on_interrupt: true,
            export_safetensors: true,
        }
    }
}

/// `[logging]`: what is printed and logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// Steps between two progress lines.
    pub every: u64,
    /// Write `metrics.jsonl`.
    pub jsonl: bool,
    /// Write TensorBoard events.
    pub tensorboard: bool,
    /// How progress is shown.
    pub progress: Progress,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self {
            every: 10,
            jsonl: true,
            tensorboard: false,
            progress: Progress::Auto,
        }
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
