//! The training loop, as a custom strategy of burn-train's learner.
//!
//! Burn's own loop counts epochs and takes a data loader to its end; this one counts optimizer
//! steps, so that validation, checkpoints, samples and Ctrl-C fall on steps. Learner, optimizer
//! groups, metric store, checkpoint threads and dashboard stay Burn's. What the
//! dashboard calls an epoch is the stretch up to a validation.

mod carried;
mod ends;
mod ranks;
mod reduction;
mod rehearsal;
mod replica;
mod saving;
mod step;
mod stretches;
mod validation;

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::RunConfig;
use crate::data::{BatchSource, EvalSource, HostBatch, TrainSource, Workers};
use crate::error::TrainError;
use crate::eval::EvalReport;
use crate::metrics::{Reporter, StepMetrics, resident_bytes};
use crate::run_dir::RunDir;
use crate::step::Trainee;
use burn::tensor::Device;
use burn::train::{
    Learner, SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader,
    TrainingComponents, ValidLoader,
};
use infinity_model::Tokenizer;
use ranks::Ranks;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use step::StepResult;

pub(crate) use carried::Carried;
pub(crate) use reduction::Reduction;
pub(crate) use rehearsal::Rehearsed;
pub(crate) use saving::Saved;
pub(crate) use stretches::Stretches;

/// Everything the loop needs besides what burn-train hands it.
pub(crate) struct Loop {
    pub(crate) config: RunConfig,
    /// The devices of the run by rank, with autodiff.
    pub(crate) devices: Vec<Device>,
    /// How gradients become one where every rank has an optimizer; none where the main device alone
    /// has one.
    pub(crate) reduction: Option<Reduction>,
    pub(crate) total_steps: u64,
    /// Tokens of the training text.
    pub(crate) training_tokens: u64,
    pub(crate) train: TrainSource,
    pub(crate) valid: Option<EvalSource>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) interrupt: Arc<AtomicBool>,
    pub(crate) checkpoints: CheckpointStore,
    /// Only measure some steps, and write nothing.
    pub(crate) rehearses: bool,
    /// The mutable part. Burn's strategies are shared; only one thread ever takes this.
    pub(crate) run: Mutex<Run>,
}

impl Loop {
    /// The stretches between validations.
    pub(crate) fn stretches(&self) -> Stretches {
        let validated = self.valid.is_some();
        let every = if validated { self.config.eval.every } else { 0 };
        Stretches::new(every, self.total_steps)
    }
}

/// What changes while the loop runs.
pub(crate) struct Run {
    pub(crate) state: TrainerState,
    /// What the model remembers of the last batch, where windows follow each other.
    pub(crate) stream: Option<Carried>,
    pub(crate) saved: Saved,
    /// The last step whose weights a validation found finite.
    pub(crate) validated: Option<u64>,
    pub(crate) reporter: Box<dyn Reporter + Send>,
    pub(crate) directory: RunDir,
    pub(crate) outcome: Result<Outcome, TrainError>,
}

/// How the loop ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) interrupted: bool,
    pub(crate) eval: Option<EvalReport>,
    pub(crate) rehearsed: Option<Rehearsed>,
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
        let ranks = Ranks::start(&self.0.devices, self.0.reduction.clone(), &learner);
        let mut fit = Fit {
            fixed: &self.0,
            components,
            learner,
            ranks,
            clock: Clock::new(&run.state),
            batches: None,
        };
        let outcome = match self.0.rehearses {
            true => fit.rehearse(&mut run),
            false => fit
                .steps(&mut run)
                .map_err(|error| fit.ended_by(error, &mut run)),
        };
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
    ranks: Ranks,
    clock: Clock,
    /// Made ahead by `data.num_workers` threads, from the first step of this session on.
    batches: Option<Workers<HostBatch>>,
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
        let total_steps = self.fixed.total_steps;
        let mut last_eval = None;
        let mut owed = false;
        self.start_split(self.fixed.stretches().of(run.state.step + 1));
        let mut over = self.over_before(run);
        while run.state.step < total_steps && !over {
            if self.is_interrupted() {
                self.save_on_interrupt(run)?;
                return Ok(Outcome {
                    interrupted: true,
                    eval: last_eval,
                    ..Outcome::default()
                });
            }
            let result = self.step(&mut run.state, &mut run.stream)?;
            let due = self.due(run);
            self.judge(&result, &due, run)?;
            self.confirm(run);
            if due.report {
                self.report(&result, run)?;
            }
            let paused = Instant::now();
            let mut best = false;
            if due.eval {
                let report = self.validate(run)?;
                best = run.state.best_step == run.state.step;
                last_eval = Some(report);
            }
            let stop = self.stale(run);
            if stop {
                self.judge_end(&result, run)?;
            }
            if due.sample || stop {
                self.sample(run)?;
            }
            // After everything else of the step: what a killed run goes on from is all there.
            owed |= due.checkpoint || (best && self.fixed.config.checkpoint.keep_best);
            let ends = due.last || stop;
            // What is saved while steps are lost may be lost itself; at the end nothing comes after,
            // and the last good one stays beside it.
            if ends || (owed && run.state.lost() == 0) {
                self.checkpoint(run)?;
                owed = false;
            }
            self.clock.paused_s += paused.elapsed().as_secs_f64();
            over = self.over(run, ends);
        }
        if let Some(error) = self.components.interrupter.error() {
            return Err(TrainError::Learner(error.to_string()));
        }
        Ok(Outcome {
            eval: last_eval,
            ..Outcome::default()
        })
    }

    /// The next batch of the session, whose first is number `first`.
    fn next_batch(&mut self, first: u64) -> Result<HostBatch, TrainError> {
        let batches = match &mut self.batches {
            Some(batches) => batches,
            none => {
                let (source, count) =
                    (self.fixed.train.clone(), self.fixed.config.data.num_workers);
                let vocabulary = self.fixed.config.model.vocab_size;
                let make = move |n| source.batch(n)?.within(vocabulary);
                none.insert(Workers::start(make, first, count)?)
            }
        };
        Ok(batches.take()?)
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
            loss_scale: run.state.loss_scale.map(|scale| scale.scale),
        };
        self.clock.logged = Instant::now();
        (self.clock.paused_s, self.clock.tokens, self.clock.steps) = (0.0, 0, 0);
        run.reporter.step(&metrics);
        run.directory.log(&metrics.to_json())
    }
}
