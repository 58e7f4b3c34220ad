//! One optimizer step over all its micro-batches, and what is made of a step that went wrong.

use super::carried::Carried;
use super::ranks::{Learned, Work};
use super::reduction::Update;
use super::{Fit, Loop, Run};
use crate::checkpoint::TrainerState;
use crate::error::TrainError;
use crate::loss_scale::LossScale;
use crate::metrics::LmOutput;
use crate::optimizer::measure;
use burn::train::{EventProcessorTraining, LearnerEvent, TrainingItem};

/// What one optimizer step gave.
pub(super) struct StepResult {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    pub(super) finite: bool,
    /// The scale after a step that was left out because it was too high.
    pub(super) overflow: Option<LossScale>,
}

impl Fit<'_> {
    /// One optimizer step over all its micro-batches.
    pub(super) fn step(
        &mut self,
        state: &mut TrainerState,
        carried: &mut Option<Carried>,
    ) -> Result<StepResult, TrainError> {
        let Loop { config, .. } = self.fixed;
        let n = config.training.gradient_accumulation_steps as u64;
        // All of the step's data before anything changes: a run without data can still be saved.
        let hosts = (0..n)
            .map(|_| self.next_batch(state.micro_step))
            .collect::<Result<Vec<_>, _>>()?;
        let loss_scale = state.loss_scale.map_or(1.0, |scale| scale.scale);
        let targets: usize = hosts.iter().map(|host| host.valid).sum();
        let tokens: usize = hosts.iter().map(|host| host.rows * host.len).sum();
        let work = Work {
            hosts,
            scale: loss_scale / targets.max(1) as f64,
            seed: config.run.seed.wrapping_add(state.micro_step),
            stateful: config.data.stateful,
        };
        let model = self.learner.model();
        let Learned {
            loss_sum,
            n_tokens,
            grads,
        } = self.ranks.learn(&model, work, carried);
        let max_norm = config.training.max_grad_norm;
        let (grads, clip) = measure(&model, grads, loss_scale, max_norm);
        let grad_norm = clip.norm;
        let loss = loss_sum / n_tokens.max(1) as f64;
        let finite = loss.is_finite() && grad_norm.is_finite();
        let overflow = self.rescale(state, finite)?;
        let update = Update {
            factor: clip.factor,
            taken: finite || !(config.training.skip_non_finite || overflow.is_some()),
        };
        self.ranks.update(&mut self.learner, grads, update);
        if !update.taken {
            state.skipped += 1;
            if overflow.is_none() || !loss.is_finite() {
                // A state that is not finite would spoil every batch after it.
                *carried = None;
            }
        }
        state.step += 1;
        state.micro_step += n;
        state.tokens += tokens as u64;
        self.clock.tokens += tokens as u64;
        self.clock.steps += 1;
        let output = LmOutput {
            loss_sum,
            n_tokens,
            grad_norm: Some(grad_norm),
            state: None,
        };
        self.tell(output, state.step);
        let learning_rate = self.learner.lr_current().base();
        Ok(StepResult {
            loss,
            grad_norm,
            learning_rate,
            finite,
            overflow,
        })
    }

    /// Fits the loss scale to a step, where there is one; the new one if the step overflowed.
    fn rescale(
        &self,
        state: &mut TrainerState,
        finite: bool,
    ) -> Result<Option<LossScale>, TrainError> {
        let Some(scale) = &mut state.loss_scale else {
            return Ok(None);
        };
        let config = &self.fixed.config.training.loss_scale;
        let updated = scale.update(finite, config);
        updated.map_err(|error| TrainError::Diverged {
            step: state.step + 1,
            reason: error.to_string(),
        })?;
        Ok((!finite).then_some(*scale))
    }

    /// Hands a step to burn-train's metrics.
    pub(super) fn tell(&mut self, output: LmOutput, step: u64) {
        let progress = self.fixed.stretches().progress(step);
        let lr = Some(self.learner.lr_current());
        let item = TrainingItem::new(output, progress, Some(step as usize), lr);
        let event = LearnerEvent::ProcessedItem(item);
        let told = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(told);
    }

    /// Stops a run that is lost.
    pub(super) fn watch(&self, result: &StepResult, run: &mut Run) -> Result<(), TrainError> {
        let training = &self.fixed.config.training;
        let step = run.state.step;
        if let Some(scale) = result.overflow {
            // Not the run's fault but the scale's, so that the watchdog does not count it; one that keeps
            // overflowing ends at its floor. It may be the model's all the same: nothing is saved.
            run.state.overflows_in_a_row += 1;
            run.reporter.message(&format!(
                "step {step} left out: overflow in f16, loss scale now {} ({} so far)",
                scale.scale, run.state.skipped
            ));
            return Ok(());
        }
        run.state.overflows_in_a_row = 0;
        if !result.finite {
            let (loss, norm) = (result.loss, result.grad_norm);
            if !training.skip_non_finite {
                let reason = format!("loss {loss}, gradient norm {norm}");
                return Err(TrainError::Diverged { step, reason });
            }
            run.reporter.message(&format!(
                "step {step} left out: loss {loss}, gradient norm {norm} ({} so far)",
                run.state.skipped
            ));
        }
        let watchdog = training.loss_watchdog;
        let is_on = watchdog.threshold > 0.0;
        let lost = !result.finite || (is_on && result.loss > watchdog.threshold);
        let in_a_row = &mut run.state.lost_in_a_row;
        *in_a_row = if lost { *in_a_row + 1 } else { 0 };
        let patience = match is_on {
            true => watchdog.patience,
            false => watchdog.non_finite_patience,
        };
        if *in_a_row >= patience.max(1) {
            let reason = match result.finite {
                true => format!("loss {} after {in_a_row} lost steps in a row", result.loss),
                false => format!(
                    "loss {}, gradient norm {}, after {in_a_row} lost steps in a row",
                    result.loss, result.grad_norm
                ),
            };
            return Err(TrainError::Diverged { step, reason });
        }
        Ok(())
    }
}
