//! Steps that are lost, and checkpoints that are good.
//!
//! A checkpoint holds the weights after its step's update, and their loss is first seen by the step
//! after it, or by a validation. So the last good checkpoint is the last one after which a step was
//! seen that was not lost. It is what an error names, and it is kept until there is a newer one.

use super::{Run, StepResult};
use crate::checkpoint::TrainerState;
use crate::error::TrainError;

impl TrainerState {
    /// Steps in a row up to this one after which nothing is saved: the model may be lost already.
    pub(super) fn lost(&self) -> u64 {
        self.lost_in_a_row + self.overflows_in_a_row
    }
}

impl StepResult {
    fn seen(&self) -> String {
        format!("loss {}, gradient norm {}", self.loss, self.grad_norm)
    }
}

impl Run {
    /// Stops a run that is lost.
    pub(super) fn watch(&mut self, result: &StepResult) -> Result<(), TrainError> {
        let training = &self.config.training;
        let step = self.state.step;
        if let Some(scale) = result.overflow {
            // Not the run's fault but the scale's, so that the watchdog does not count it; one that keeps
            // overflowing ends at its floor. It may be the model's all the same: nothing is saved.
            self.state.overflows_in_a_row += 1;
            self.reporter.message(&format!(
                "step {step} left out: overflow in f16, loss scale now {} ({} so far)",
                scale.scale, self.state.skipped
            ));
            return Ok(());
        }
        self.state.overflows_in_a_row = 0;
        let skipped = self.state.skipped;
        if !result.finite {
            if !training.skip_non_finite {
                return Err(TrainError::Diverged {
                    step,
                    reason: result.seen(),
                });
            }
            let text = format!("step {step} left out: {} ({skipped} so far)", result.seen());
            self.reporter.message(&text);
        }
        if result.finite && result.targets == 0 {
            // It says nothing of the model.
            return Ok(());
        }
        let watchdog = training.loss_watchdog;
        let is_on = watchdog.threshold > 0.0;
        let lost = !result.finite || (is_on && result.loss > watchdog.threshold);
        let in_a_row = &mut self.state.lost_in_a_row;
        *in_a_row = if lost { *in_a_row + 1 } else { 0 };
        let patience = match is_on {
            true => watchdog.patience,
            false => watchdog.non_finite_patience,
        };
        if *in_a_row >= patience.max(1) {
            let reason = match result.finite {
                true => format!("loss {} after {in_a_row} lost steps in a row", result.loss),
                false => format!("{}, after {in_a_row} lost steps in a row", result.seen()),
            };
            return Err(TrainError::Diverged { step, reason });
        }
        Ok(())
    }

    /// A run must not end well with a model that makes nothing finite, nor with one that never
    /// learned.
    pub(super) fn judge_end(&self, result: &StepResult) -> Result<(), TrainError> {
        if result.finite {
            return Ok(());
        }
        let (step, lost) = (self.state.step, self.state.lost());
        let (mut reason, patience) = (result.seen(), self.config.training.loss_watchdog.patience);
        // A gradient that overflows under a finite loss is a scale too high, not a model that is lost.
        let is_model = result.overflow.is_none() || !result.loss.is_finite();
        if self.state.skipped == step {
            if let Some(scale) = result.overflow {
                reason += &format!(", loss scale now {}", scale.scale);
            }
            reason += "; every step of the run was left out";
        } else if is_model && lost >= patience.max(1) {
            reason += &format!(", not finite in the last {lost} steps");
        } else {
            return Ok(());
        }
        Err(TrainError::Diverged { step, reason })
    }

    /// Whether the weights are known to be no lost ones: the last step was not lost, or it was left out
    /// and a validation has found what was learned before to be finite.
    pub(super) fn is_sound(&self) -> bool {
        let learned = self.state.skipped < self.state.step;
        let left_out = learned && !self.finite && self.config.training.skip_non_finite;
        self.state.lost() == 0 || (left_out && self.validated == Some(self.state.step))
    }

    /// Notes that the last checkpoint is good where a step after it was not lost.
    pub(super) fn confirm(&mut self) {
        let Some(last) = self.saved.last.filter(|_| self.state.lost() == 0) else {
            return;
        };
        self.saved.good = Some(last);
        if std::mem::take(&mut self.saved.spare) {
            self.prune(last);
        }
    }

    pub(super) fn prune(&mut self, step: u64) {
        let keep_last = self.config.checkpoint.keep_last;
        let best = self.state.best(&self.config);
        let pruned = (self.checkpoints).prune(step, keep_last, best, self.saved.good);
        if let Err(error) = pruned {
            self.reporter.message(&error.to_string());
        }
    }

    /// An error that ends a run, with the checkpoint from where it can go on.
    pub(super) fn ended_by(&mut self, error: TrainError) -> TrainError {
        match error {
            // It harms neither the model nor its place in the data: what was learned is saved first.
            TrainError::Data(error) => {
                let saves = self.state.step > 0 && self.state.lost() == 0;
                if saves && let Err(unsaved) = self.checkpoint() {
                    self.reporter.message(&unsaved.to_string());
                }
                match self.there(self.saved.last) {
                    Some(saved) => TrainError::DataLost { error, saved },
                    None => TrainError::Data(error),
                }
            }
            TrainError::Diverged { step, reason } => TrainError::Diverged {
                step,
                reason: format!("{reason}; {}", self.last_good()),
            },
            other => other,
        }
    }

    /// In words, the checkpoint from which a run that diverged can go on.
    fn last_good(&self) -> String {
        match (self.there(self.saved.good), self.there(self.saved.last)) {
            (Some(good), Some(last)) if good < last => format!(
                "the last good checkpoint is that of step {good} (--resume {good}); after that of \
                 step {last} every step was lost"
            ),
            (Some(good), _) => format!("the last good checkpoint is that of step {good}"),
            (None, Some(last)) => format!(
                "the only checkpoint is that of step {last}, after which every step was lost"
            ),
            (None, None) => "there is no checkpoint".to_owned(),
        }
    }

    pub(super) fn there(&self, step: Option<u64>) -> Option<u64> {
        step.filter(|step| self.checkpoints.path(*step).exists())
    }
}
