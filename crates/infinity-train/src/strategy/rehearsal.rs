//! Some steps, a piece of a validation and a sample for their cost alone; nothing is written.

use super::{Fit, Outcome, Run};
use crate::error::TrainError;
use crate::eval::evaluate_with;
use crate::metrics::{forget_peak, peak_resident_bytes};
use burn::module::Module;
use std::time::{Duration, Instant};

/// Steps that are measured at least, after one that warms up.
const STEPS: usize = 4;
/// And as many more as fit into this time.
const TIME: Duration = Duration::from_secs(10);
/// Validation batches that are measured.
const EVAL_BATCHES: u64 = 3;

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rehearsed {
    /// Seconds of a step.
    pub(crate) step_s: f64,
    /// Seconds of a validation batch.
    pub(crate) eval_batch_s: f64,
    /// Seconds of the samples of one moment.
    pub(crate) sample_s: f64,
    /// Largest resident memory of the process in bytes.
    pub(crate) peak_bytes: u64,
}

impl Fit<'_> {
    /// Takes steps as the run would, as many as it takes to know what they cost.
    pub(super) fn rehearse(&mut self, run: &mut Run) -> Result<Outcome, TrainError> {
        // The peak of tokenising a text is not the run's.
        forget_peak();
        self.step(&mut run.state, &mut run.stream)?;
        let (began, mut steps) = (Instant::now(), 0);
        while steps < STEPS || began.elapsed() < TIME {
            if self.is_interrupted() || run.state.step >= self.fixed.total_steps {
                break;
            }
            self.step(&mut run.state, &mut run.stream)?;
            steps += 1;
        }
        // A run of one step has nothing but its first.
        let step_s = match steps {
            0 => self.clock.started.elapsed().as_secs_f64(),
            _ => began.elapsed().as_secs_f64() / steps as f64,
        };
        let eval_batch_s = self.rehearse_validation()?;
        let began = Instant::now();
        self.sample(run)?;
        Ok(Outcome {
            interrupted: self.is_interrupted(),
            eval: None,
            rehearsed: Some(Rehearsed {
                step_s,
                eval_batch_s,
                sample_s: began.elapsed().as_secs_f64(),
                peak_bytes: peak_resident_bytes(),
            }),
        })
    }

    /// Seconds of a validation batch, the first one apart; 0 without a validation.
    fn rehearse_validation(&self) -> Result<f64, TrainError> {
        let Some(source) = &self.fixed.valid else {
            return Ok(0.0);
        };
        let trainee = self.learner.model().valid();
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
