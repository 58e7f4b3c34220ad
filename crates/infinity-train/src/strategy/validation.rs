//! Validation, early stopping and samples, with the events that burn-train's metrics expect.

use super::{Fit, Run};
use crate::error::TrainError;
use crate::eval::{EvalReport, evaluate_with};
use crate::metrics::EvalMetrics;
use crate::step::{LmBatch, Trainee};
use burn::data::dataloader::Progress;
use burn::module::Module;
use burn::train::{EventProcessorTraining, Interrupter, LearnerEvent, TrainingItem};
use infinity_model::{GateSummary, GenerationConfig, generate};
use std::ops::ControlFlow;

impl Fit<'_> {
    pub(super) fn start_split(&mut self, epoch: usize) {
        let event = LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: self.fixed.stretches().items(epoch),
        };
        let told = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(told);
    }

    /// Validates, and counts what early stopping looks at.
    pub(super) fn validate(&mut self, run: &mut Run) -> Result<EvalReport, TrainError> {
        let source = self
            .fixed
            .valid
            .as_ref()
            .expect("asked for only with a split");
        let epoch = self.fixed.stretches().of(run.state.step);
        let processor = &mut self.components.event_processor;
        let interrupter: &Interrupter = &self.components.interrupter;
        let batches = source.batches() as usize;
        interrupter.fail_on_error(processor.process_train(LearnerEvent::EndSplit(epoch)));
        let event = LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: batches,
        };
        interrupter.fail_on_error(processor.process_valid(event));
        let trainee = self.learner.model().valid();
        let report = evaluate_with(&trainee, source, &mut |output, number| {
            let progress = Progress::new(number as usize, batches, Some("batches".to_owned()));
            let item = TrainingItem::new(output, progress, Some(number as usize), None);
            let event = LearnerEvent::ProcessedItem(item);
            interrupter.fail_on_error(processor.process_valid(event));
            true
        })?;
        interrupter.fail_on_error(processor.process_valid(LearnerEvent::EndSplit(epoch)));
        interrupter.fail_on_error(processor.process_train(LearnerEvent::EndEpoch(epoch)));
        interrupter.fail_on_error(processor.flush());
        if !report.loss.is_finite() {
            // Steps that are not finite are left out, so it is the model itself that is not.
            return Err(TrainError::Diverged {
                step: run.state.step,
                reason: format!("validation loss {}", report.loss),
            });
        }
        run.validated = Some(run.state.step);
        let best = run.state.best_loss.is_none_or(|best| report.loss < best);
        run.state.stale_evals += 1;
        if best {
            run.state.best_loss = Some(report.loss);
            run.state.best_step = run.state.step;
            run.state.stale_evals = 0;
        }
        let metrics = EvalMetrics {
            step: run.state.step,
            loss: report.loss,
            perplexity: report.perplexity,
            bits_per_byte: report.bits_per_byte,
            seconds: report.seconds,
            best,
            gates: self.gates(&trainee)?,
        };
        run.reporter.eval(&metrics);
        run.directory.log(&metrics.to_json())?;
        if run.state.step < self.fixed.total_steps {
            self.start_split(epoch + 1);
        }
        Ok(report)
    }

    /// What the gates do with the first validation batch.
    fn gates(&self, trainee: &Trainee) -> Result<Vec<GateSummary>, TrainError> {
        let valid = self.fixed.valid.as_ref();
        let Some(host) = valid.and_then(|valid| valid.iter().next()).transpose()? else {
            return Ok(Vec::new());
        };
        let state = trainee.model.initial_state(host.rows);
        let (len, device) = (host.len, trainee.model.device());
        let tokens = LmBatch::alone(host).tokens(0, len, &device);
        Ok(trainee.model.gate_summaries(tokens, state))
    }

    pub(super) fn sample(&mut self, run: &mut Run) -> Result<(), TrainError> {
        let eval = &self.fixed.config.eval;
        if eval.sample_prompts.is_empty() || eval.sample_tokens == 0 {
            return Ok(());
        }
        let model = self.learner.model().valid().model;
        let config = GenerationConfig {
            max_new_tokens: Some(eval.sample_tokens),
            seed: Some(self.fixed.config.run.seed),
            ..GenerationConfig::default()
        };
        let mut all = String::new();
        for prompt in &eval.sample_prompts {
            let quiet = &mut |_: &str| ControlFlow::Continue(());
            match generate(&model, &self.fixed.tokenizer, prompt, &config, quiet) {
                Ok(generation) => {
                    run.reporter.sample(prompt, &generation.text);
                    all.push_str(&format!("{prompt}{}\n\n", generation.text));
                }
                Err(error) => run
                    .reporter
                    .message(&format!("no sample for {prompt:?}: {error}")),
            }
        }
        run.directory.sample(run.state.step, &all)
    }
}
