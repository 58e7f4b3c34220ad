//! What falls on a step, and when a run is over: its steps are done, its time is, the loss no longer
//! falls, it is lost, or somebody asked.

use super::step::StepResult;
use super::{Fit, Run};
use crate::error::TrainError;
use std::sync::atomic::Ordering;

/// What falls on a step besides itself.
pub(super) struct Due {
    pub(super) report: bool,
    pub(super) eval: bool,
    pub(super) sample: bool,
    pub(super) checkpoint: bool,
    /// The run ends with it.
    pub(super) last: bool,
}

impl Fit<'_> {
    /// Whether someone asked for an end: by a signal, or on burn-train's dashboard.
    pub(super) fn is_interrupted(&self) -> bool {
        let interrupter = &self.components.interrupter;
        self.fixed.interrupt.load(Ordering::Relaxed)
            || (interrupter.should_stop() && interrupter.error().is_none())
    }

    /// What falls on the step that was just taken.
    pub(super) fn due(&self, run: &Run) -> Due {
        let config = &self.fixed.config;
        let step = run.state.step;
        let end = step == self.fixed.total_steps;
        let last = end || self.out_of_time();
        Due {
            report: due(step, config.logging.every) || end || step == 1,
            eval: self.fixed.valid.is_some() && (due(step, config.eval.every) || last),
            sample: due(step, config.eval.sample_every) || last,
            checkpoint: due(step, config.checkpoint.every),
            last,
        }
    }

    /// Counts lost steps, and ends a run that is lost.
    pub(super) fn judge(
        &self,
        result: &StepResult,
        due: &Due,
        run: &mut Run,
    ) -> Result<(), TrainError> {
        self.watch(result, run)?;
        match due.last {
            true => self.judge_end(result, run),
            false => Ok(()),
        }
    }

    /// A run must not end well with a model that makes nothing finite, nor with one that never
    /// learned.
    pub(super) fn judge_end(&self, result: &StepResult, run: &Run) -> Result<(), TrainError> {
        if result.finite {
            return Ok(());
        }
        let (step, lost) = (run.state.step, run.state.lost());
        let (loss, norm) = (result.loss, result.grad_norm);
        let patience = self.fixed.config.training.loss_watchdog.patience;
        // A gradient that overflows under a finite loss is a scale too high, not a model that is lost.
        let is_model = result.overflow.is_none() || !loss.is_finite();
        let reason = if run.state.skipped == step {
            let scale = match result.overflow {
                Some(scale) => format!(", loss scale now {}", scale.scale),
                None => String::new(),
            };
            format!("loss {loss}, gradient norm {norm}{scale}; every step of the run was left out")
        } else if is_model && lost >= patience.max(1) {
            format!("loss {loss}, gradient norm {norm}, not finite in the last {lost} steps")
        } else {
            return Ok(());
        };
        Err(TrainError::Diverged { step, reason })
    }

    /// Whether early stopping ends the run.
    pub(super) fn stale(&self, run: &Run) -> bool {
        let patience = self.fixed.config.eval.early_stopping_patience;
        patience > 0 && run.state.stale_evals >= patience
    }

    /// Whether a run that goes on had reached its end already.
    pub(super) fn over_before(&self, run: &mut Run) -> bool {
        let ended = run.state.step > 0 && (self.stale(run) || self.out_of_time());
        ended && self.over(run, true)
    }

    /// Whether the run is over, with a word about why it ends before its last step.
    pub(super) fn over(&self, run: &mut Run, ends: bool) -> bool {
        if self.stale(run) {
            run.reporter
                .message("stopped early: the validation loss no longer falls");
        } else if ends && run.state.step < self.fixed.total_steps {
            let limit = self.fixed.config.training.max_seconds;
            let step = run.state.step;
            run.reporter
                .message(&format!("stopped after {limit} s, at step {step}"));
        }
        ends || self.components.interrupter.error().is_some()
    }

    /// Whether `training.max_seconds` are over.
    fn out_of_time(&self) -> bool {
        let limit = self.fixed.config.training.max_seconds;
        limit > 0 && self.clock.elapsed_s() >= limit as f64
    }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
