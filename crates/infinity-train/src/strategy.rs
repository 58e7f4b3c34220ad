//! The training loop, as a custom strategy of burn-train's learner.
//!
//! Burn's own loop counts epochs and takes a data loader to its end; this one counts optimizer
//! steps, so that validation, checkpoints, samples and Ctrl-C fall on steps. Learner, optimizer
//! groups, metric store, early stopping, checkpoint threads and dashboard stay Burn's. What the
//! dashboard calls an epoch is the stretch up to a validation.

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::RunConfig;
use crate::data::{BatchSource, EvalSource, TrainSource};
use crate::error::TrainError;
use crate::eval::{EvalReport, evaluate_with};
use crate::metrics::{EvalMetrics, LmOutput, Reporter, StepMetrics, resident_bytes};
use crate::optimizer::clip;
use crate::run_dir::RunDir;
use crate::step::{LmBatch, Trainee};
use burn::data::dataloader::Progress;
use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::train::{
    EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use infinity_model::{GenerationConfig, ModelState, Tokenizer, generate};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Everything the loop needs besides what burn-train hands it.
pub(crate) struct Loop {
    pub(crate) config: RunConfig,
    pub(crate) total_steps: u64,
    pub(crate) train: TrainSource,
    pub(crate) valid: Option<EvalSource>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) interrupt: Arc<AtomicBool>,
    pub(crate) checkpoints: CheckpointStore,
    /// The mutable part. Burn's strategies are shared; only one thread ever takes this.
    pub(crate) run: Mutex<Run>,
}

/// What changes while the loop runs.
pub(crate) struct Run {
    pub(crate) state: TrainerState,
    /// What the model remembers of the last batch, where windows follow each other.
    pub(crate) stream: Option<ModelState>,
    /// The step of the last complete checkpoint of this session, or of the one it went on from.
    pub(crate) saved: Option<u64>,
    pub(crate) reporter: Box<dyn Reporter + Send>,
    pub(crate) directory: RunDir,
    pub(crate) outcome: Result<Outcome, TrainError>,
}

/// How the loop ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) interrupted: bool,
    pub(crate) eval: Option<EvalReport>,
}

/// A strategy that can be cloned into burn-train and looked at afterwards.
pub(crate) struct StepLoop(pub(crate) Arc<Loop>);

impl SupervisedLearningStrategy<Trainee> for StepLoop {
    fn fit(
        &self,
        components: TrainingComponents<Trainee>,
        learner: Learner<Trainee>,
        _train: TrainLoader<Trainee>,
        _valid: ValidLoader<Trainee>,
        _starting_epoch: usize,
    ) -> (Trainee, SupervisedTrainingEventProcessor<Trainee>) {
        let mut run = self.0.run.lock().expect("one loop at a time");
        let mut fit = Fit {
            fixed: &self.0,
            components,
            learner,
            clock: Clock::new(&run.state),
        };
        let outcome = fit.steps(&mut run);
        if let Some(error) = fit.components.interrupter.error() {
            run.outcome = Err(TrainError::Learner(error.to_string()));
        }
        if !matches!((&run.outcome, &outcome), (Err(_), Ok(_))) {
            run.outcome = outcome;
        }
        (fit.learner.model(), fit.components.event_processor)
    }
}

/// One call of `fit`.
struct Fit<'a> {
    fixed: &'a Loop,
    components: TrainingComponents<Trainee>,
    learner: Learner<Trainee>,
    clock: Clock,
}

/// Time and tokens since the last logged step.
struct Clock {
    started: Instant,
    before_s: f64,
    /// Time that was not training (validation, samples, checkpoints) since `logged`.
    paused_s: f64,
    logged: Instant,
    tokens: u64,
    steps: u64,
}

impl Clock {
    fn new(state: &TrainerState) -> Self {
        let now = Instant::now();
        Clock {
            started: now,
            before_s: state.elapsed_s,
            paused_s: 0.0,
            logged: now,
            tokens: 0,
            steps: 0,
        }
    }

    fn elapsed_s(&self) -> f64 {
        self.before_s + self.started.elapsed().as_secs_f64()
    }
}

/// What one optimizer step gave.
struct StepResult {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    finite: bool,
}

impl Fit<'_> {
    fn steps(&mut self, run: &mut Run) -> Result<Outcome, TrainError> {
        let Loop {
            config,
            total_steps,
            ..
        } = self.fixed;
        let mut above = 0;
        let mut last_eval = None;
        self.start_split(self.epoch(run.state.step + 1));
        while run.state.step < *total_steps {
            if self.fixed.interrupt.load(Ordering::Relaxed) {
                return self.interrupted(run, last_eval);
            }
            let result = self.step(&mut run.state, &mut run.stream)?;
            let step = run.state.step;
            self.watch(&result, run, &mut above)?;
            if due(step, config.logging.every) || step == *total_steps || step == 1 {
                self.report(&result, run)?;
            }
            let late = self.out_of_time();
            let last = step == *total_steps || late;
            let mut stop = false;
            let paused = Instant::now();
            if self.fixed.valid.is_some() && (due(step, config.eval.every) || last) {
                let (report, early) = self.validate(run)?;
                last_eval = Some(report);
                stop = early;
            }
            if due(step, config.eval.sample_every) || last || stop {
                self.sample(run)?;
            }
            if due(step, config.checkpoint.every) || last || stop {
                self.checkpoint(run)?;
            }
            self.clock.paused_s += paused.elapsed().as_secs_f64();
            if stop {
                run.reporter
                    .message("stopped early: the validation loss no longer falls");
                break;
            }
            if late && step < *total_steps {
                let limit = config.training.max_seconds;
                run.reporter
                    .message(&format!("stopped after {limit} s, at step {step}"));
                break;
            }
            if self.components.interrupter.should_stop() {
                break;
            }
        }
        Ok(Outcome {
            interrupted: false,
            eval: last_eval,
        })
    }

    /// Whether `training.max_seconds` are over.
    fn out_of_time(&self) -> bool {
        let limit = self.fixed.config.training.max_seconds;
        limit > 0 && self.clock.elapsed_s() >= limit as f64
    }

    /// One optimizer step over all its micro-batches.
    fn step(
        &mut self,
        state: &mut TrainerState,
        carried: &mut Option<ModelState>,
    ) -> Result<StepResult, TrainError> {
        let Loop { config, train, .. } = self.fixed;
        let n = config.training.gradient_accumulation_steps as u64;
        let hosts = (0..n)
            .map(|i| train.batch(state.micro_step + i))
            .collect::<Result<Vec<_>, _>>()?;
        let targets: usize = hosts.iter().map(|host| host.valid).sum();
        let tokens: usize = hosts.iter().map(|host| host.rows * host.len).sum();
        let mut accumulator = GradientsAccumulator::new();
        let mut total = LmOutput {
            loss_sum: 0.0,
            n_tokens: 0,
            grad_norm: None,
            state: None,
        };
        let mut single = None;
        for (i, host) in hosts.into_iter().enumerate() {
            let seed = config.run.seed.wrapping_add(state.micro_step + i as u64);
            let batch = LmBatch {
                state: carried.take().filter(|state| state.batch() == host.rows),
                scale: 1.0 / targets.max(1) as f64,
                seed: Some(seed),
                host,
            };
            let output = self.learner.train_step(batch);
            total.loss_sum += output.item.loss_sum;
            total.n_tokens += output.item.n_tokens;
            if config.data.stateful {
                *carried = output.item.state;
            }
            match n {
                1 => single = Some(output.grads),
                _ => accumulator.accumulate(&self.learner.model(), output.grads),
            }
        }
        let grads = single.unwrap_or_else(|| accumulator.grads());
        let (grads, grad_norm) = clip(&self.learner.model(), grads, config.training.max_grad_norm);
        let loss = total.loss_sum / total.n_tokens.max(1) as f64;
        let finite = loss.is_finite() && grad_norm.is_finite();
        // The schedule goes on with the step, whether or not it was taken.
        self.learner.lr_step();
        if finite || !config.training.skip_non_finite {
            self.learner.optimizer_step(grads);
        } else {
            state.skipped += 1;
            // A state that is not finite would spoil every batch after it.
            *carried = None;
        }
        state.step += 1;
        state.micro_step += n;
        state.tokens += tokens as u64;
        self.clock.tokens += tokens as u64;
        self.clock.steps += 1;
        total.grad_norm = Some(grad_norm);
        self.tell(total, state.step);
        let learning_rate = self.learner.lr_current().base();
        Ok(StepResult {
            loss,
            grad_norm,
            learning_rate,
            finite,
        })
    }

    /// Hands a step to burn-train's metrics.
    fn tell(&mut self, output: LmOutput, step: u64) {
        let progress = Progress::new(
            step as usize,
            self.fixed.total_steps as usize,
            Some("steps".to_owned()),
        );
        let lr = Some(self.learner.lr_current());
        let item = TrainingItem::new(output, progress, Some(step as usize), lr);
        let event = LearnerEvent::ProcessedItem(item);
        let told = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(told);
    }

    /// Stops a run that is lost.
    fn watch(&self, result: &StepResult, run: &mut Run, above: &mut u64) -> Result<(), TrainError> {
        let training = &self.fixed.config.training;
        let step = run.state.step;
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
        let lost = !result.finite || (watchdog.threshold > 0.0 && result.loss > watchdog.threshold);
        *above = if lost { *above + 1 } else { 0 };
        if *above >= watchdog.patience.max(1) && (watchdog.threshold > 0.0 || *above >= 100) {
            let reason = format!("loss {} for {above} steps in a row", result.loss);
            return Err(TrainError::Diverged { step, reason });
        }
        Ok(())
    }

    fn report(&mut self, result: &StepResult, run: &mut Run) -> Result<(), TrainError> {
        let seconds = (self.clock.logged.elapsed().as_secs_f64() - self.clock.paused_s).max(1e-9);
        let step_s = seconds / self.clock.steps.max(1) as f64;
        run.state.elapsed_s = self.clock.elapsed_s();
        let metrics = StepMetrics {
            step: run.state.step,
            total_steps: self.fixed.total_steps,
            loss: result.loss,
            learning_rate: result.learning_rate,
            grad_norm: result.grad_norm,
            tokens: run.state.tokens,
            tokens_per_s: self.clock.tokens as f64 / seconds,
            step_ms: step_s * 1e3,
            memory_bytes: resident_bytes(),
            elapsed_s: run.state.elapsed_s,
            eta_s: step_s * (self.fixed.total_steps - run.state.step) as f64,
            skipped: run.state.skipped,
        };
        self.clock.logged = Instant::now();
        (self.clock.paused_s, self.clock.tokens, self.clock.steps) = (0.0, 0, 0);
        run.reporter.step(&metrics);
        run.directory.log(&metrics.to_json())
    }

    /// The stretch between validations that `step` (from 1) falls into, from 1.
    fn epoch(&self, step: u64) -> usize {
        let every = self.fixed.config.eval.every;
        if every == 0 {
            1
        } else {
            ((step - 1) / every + 1) as usize
        }
    }

    fn start_split(&mut self, epoch: usize) {
        let every = match self.fixed.config.eval.every {
            0 => self.fixed.total_steps,
            every => every,
        };
        let event = LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: every as usize,
        };
        let told = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(told);
    }

    /// Validates; also says whether early stopping ends the run.
    fn validate(&mut self, run: &mut Run) -> Result<(EvalReport, bool), TrainError> {
        let source = self
            .fixed
            .valid
            .as_ref()
            .expect("asked for only with a split");
        let epoch = self.epoch(run.state.step);
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
        let best = run.state.best_loss.is_none_or(|best| report.loss < best);
        if best {
            run.state.best_loss = Some(report.loss);
            run.state.best_step = run.state.step;
        }
        let metrics = EvalMetrics {
            step: run.state.step,
            loss: report.loss,
            perplexity: report.perplexity,
            bits_per_byte: report.bits_per_byte,
            seconds: report.seconds,
            best,
        };
        run.reporter.eval(&metrics);
        run.directory.log(&metrics.to_json())?;
        let stop = match &mut self.components.early_stopping {
            Some(early) => early.should_stop(epoch, &self.components.event_store),
            None => false,
        };
        if best && self.fixed.config.checkpoint.keep_best {
            self.checkpoint(run)?;
            self.fixed.checkpoints.mark_best(run.state.step)?;
        }
        self.start_split(epoch + 1);
        Ok((report, stop))
    }

    fn sample(&mut self, run: &mut Run) -> Result<(), TrainError> {
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

    fn checkpoint(&mut self, run: &mut Run) -> Result<(), TrainError> {
        let step = run.state.step;
        let Some(checkpointer) = &mut self.components.checkpointer else {
            return Ok(());
        };
        if run.saved == Some(step) {
            return Ok(());
        }
        run.state.elapsed_s = self.clock.elapsed_s();
        let checkpoints = &self.fixed.checkpoints;
        checkpoints.begin(run.state.clone(), run.stream.as_ref())?;
        checkpointer.checkpoint(&self.learner, step as usize, &self.components.event_store);
        checkpoints.finish(step)?;
        run.saved = Some(step);
        let keep = &self.fixed.config.checkpoint;
        let best = (keep.keep_best && run.state.best_loss.is_some()).then_some(run.state.best_step);
        checkpoints.prune(step, keep.keep_last, best);
        Ok(())
    }

    fn interrupted(
        &mut self,
        run: &mut Run,
        eval: Option<EvalReport>,
    ) -> Result<Outcome, TrainError> {
        if self.fixed.config.checkpoint.save_on_interrupt {
            self.checkpoint(run)?;
        }
        Ok(Outcome {
            interrupted: true,
            eval,
        })
    }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
