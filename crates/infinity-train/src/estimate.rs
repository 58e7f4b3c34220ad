//! What a run will take, before it runs: some of its steps are taken for their cost alone.

use crate::config::RunConfig;
use crate::data::EvalSource;
use crate::devices::Devices;
use crate::error::TrainError;
use crate::strategy::Outcome;
use crate::train::{TrainControl, launch, set_up};
use infinity_model::ModelConfig;
use infinity_model::count::ParameterCount;

/// What a run is and what it takes.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The model with what the tokenizer decides.
    pub model: ModelConfig,
    /// Numbers that are learned.
    pub parameters: u64,
    /// Optimizer steps of the run.
    pub total_steps: u64,
    /// Tokens one step learns from.
    pub tokens_per_step: u64,
    /// Tokens of the training text.
    pub training_tokens: u64,
    /// Seconds of one step.
    pub step_s: f64,
    /// Seconds of one validation; 0 where there is none.
    pub eval_s: f64,
    /// Seconds of the whole run: steps, validations and samples.
    pub run_s: f64,
    /// Largest resident memory of the process in bytes; 0 where the system does not tell. On a
    /// device with memory of its own, that memory is not in it.
    pub memory_bytes: u64,
}

/// Builds the model of `config` on `devices` and takes some steps of the run for their cost: about
/// ten seconds, and at least five steps. Nothing is written but the token files of the text.
///
/// # Errors
/// Those of [`train`](crate::train()) that come before or during a step.
pub fn estimate(
    config: RunConfig,
    devices: impl Into<Devices>,
    control: TrainControl,
) -> Result<Estimate, TrainError> {
    let limit = config.training.max_seconds as f64;
    let (fixed, _) = set_up(config, &devices.into(), control, true)?;
    drop(launch(&fixed, None));
    let outcome = {
        let mut run = fixed.run.lock().expect("the loop has ended");
        std::mem::replace(&mut run.outcome, Ok(Outcome::default()))?
    };
    let cost = outcome.rehearsed.unwrap_or_default();
    let (config, total_steps) = (fixed.config.clone(), fixed.total_steps);
    let eval_batches = fixed.valid.as_ref().map_or(0, EvalSource::batches);
    let times = |every: u64| match every {
        0 => 1,
        _ => total_steps.div_ceil(every),
    };
    let steps_s = total_steps as f64 * cost.step_s;
    // A run with a time limit stops within it and then validates and samples once more.
    let (steps_s, part) = match limit > 0.0 && steps_s > limit {
        true => (limit, limit / steps_s),
        false => (steps_s, 1.0),
    };
    let eval_s = cost.eval_batch_s * eval_batches as f64;
    let evals = (times(config.eval.every) as f64 * part).max(1.0);
    let samples = (times(config.eval.sample_every) as f64 * part).max(1.0);
    Ok(Estimate {
        parameters: ParameterCount::of(&config.model).total(),
        total_steps,
        tokens_per_step: config.tokens_per_step(),
        training_tokens: fixed.training_tokens,
        step_s: cost.step_s,
        eval_s,
        run_s: steps_s + evals * eval_s + samples * cost.sample_s,
        memory_bytes: cost.peak_bytes,
        model: config.model,
    })
}
