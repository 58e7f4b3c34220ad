//! What a run will take, before it runs: some of its steps are taken for their cost alone.

use crate::burn_train::Shell;
use crate::config::RunConfig;
use crate::data::EvalSource;
use crate::distributed::Devices;
use crate::error::TrainError;
use crate::evaluate::evaluate_with;
use crate::metrics::{forget_peak, peak_resident_bytes};
use crate::train::{Run, TrainControl};
use burn::module::Module;
use infinity_model::ModelConfig;
use infinity_model::count::ParameterCount;
use std::time::{Duration, Instant};

/// What a run is and what it takes.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The model with what the tokenizer decides.
    pub model: ModelConfig,
    /// Numbers that are learned.
    pub parameters: u64,
    /// Numbers of the model that are not, where adapters learn instead.
    pub frozen: u64,
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
    let run = Run::prepare(config, &devices.into(), control, true)?;
    let (run, cost) = run.in_learner(Run::rehearse)?;
    let [step_s, eval_batch_s, sample_s] = cost?;
    let memory_bytes = peak_resident_bytes();
    let (config, total_steps) = (run.config, run.state.total_steps);
    let eval_batches = run.valid.as_ref().map_or(0, EvalSource::batches);
    let times = |every: u64| match every {
        0 => 1,
        _ => total_steps.div_ceil(every),
    };
    let all = ParameterCount::of(&config.model).total();
    let (parameters, frozen) = match config.lora.wanted() {
        Some(lora) => (lora.count(&config.model)?, all),
        None => (all, 0),
    };
    let mut steps_s = total_steps as f64 * step_s;
    let mut part = 1.0;
    if limit > 0.0 && steps_s > limit {
        // A run with a time limit stops within it and then validates and samples once more.
        (steps_s, part) = (limit, limit / steps_s);
    }
    let eval_s = eval_batch_s * eval_batches as f64;
    let evals = (times(config.eval.every) as f64 * part).max(1.0);
    let samples = (times(config.eval.sample_every) as f64 * part).max(1.0);
    Ok(Estimate {
        parameters,
        frozen,
        total_steps,
        tokens_per_step: config.tokens_per_step(),
        training_tokens: run.training_tokens,
        step_s,
        eval_s,
        run_s: steps_s + evals * eval_s + samples * sample_s,
        memory_bytes,
        model: config.model,
    })
}

/// Steps that are measured at least, after one that warms up.
const STEPS: usize = 4;
/// And as many more as fit into this time.
const TIME: Duration = Duration::from_secs(10);
/// Validation batches that are measured.
const EVAL_BATCHES: u64 = 3;

impl Run {
    /// Takes steps as the run would, as many as it takes to know what they cost, a piece of a validation
    /// and a sample; nothing is written. Seconds of a step, a validation batch and the samples of one moment.
    fn rehearse(&mut self, shell: &mut Shell) -> Result<[f64; 3], TrainError> {
        // The peak of tokenising a text is not the run's.
        forget_peak();
        self.step(shell)?;
        let (began, mut steps) = (Instant::now(), 0);
        while steps < STEPS || began.elapsed() < TIME {
            if self.is_asked_to_stop(shell) || self.state.step >= self.state.total_steps {
                break;
            }
            self.step(shell)?;
            steps += 1;
        }
        // A run of one step has nothing but its first.
        let step_s = match steps {
            0 => self.clock.started.elapsed().as_secs_f64(),
            _ => began.elapsed().as_secs_f64() / steps as f64,
        };
        let eval_batch_s = self.rehearse_validation()?;
        let began = Instant::now();
        self.sample(shell)?;
        Ok([step_s, eval_batch_s, began.elapsed().as_secs_f64()])
    }

    /// Seconds of a validation batch, the first one apart; 0 without a validation.
    fn rehearse_validation(&self) -> Result<f64, TrainError> {
        let Some(source) = &self.valid else {
            return Ok(0.0);
        };
        let trainee = self.trainee.valid();
        let mut ends = Vec::new();
        let began = Instant::now();
        evaluate_with(&trainee, source, &mut |_, number| {
            ends.push(began.elapsed().as_secs_f64());
            number < EVAL_BATCHES
        })?;
        Ok(match ends[..] {
            [first, .., last] => (last - first) / (ends.len() - 1) as f64,
            [only] => only,
            [] => 0.0,
        })
    }
}
