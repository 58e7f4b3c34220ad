//! The training loop, as a custom strategy of burn-train's learner.
//!
//! Burn's own loop counts epochs and takes a data loader to its end; this one counts optimizer
//! steps, so that validation, checkpoints, samples and Ctrl-C fall on steps. Learner, optimizer
//! groups, metric store, early stopping, checkpoint threads and dashboard stay Burn's. What the
//! dashboard calls an epoch is the stretch up to a validation.

mod step;
mod validation;

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::RunConfig;
use crate::data::{EvalSource, TrainSource};
use crate::error::TrainError;
use crate::eval::EvalReport;
use crate::metrics::{Reporter, StepMetrics, resident_bytes};
use crate::run_dir::RunDir;
use crate::step::Trainee;
use burn::train::{
    Learner, SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, ValidLoader,
};
use infinity_model::{ModelState, Tokenizer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use step::StepResult;

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
