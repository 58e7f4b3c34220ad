//! A run, top to bottom: `prepare`, then a loop of step, evaluation, checkpoint and
//! stop (`steps`), then the model directory (`finish`).
//!
//! Beside it: `prepare.rs` is everything before the first step, `lost.rs` what becomes of steps that are lost,
//! `saved.rs` which checkpoints there are.

mod lost;
mod prepare;
mod saved;

use crate::burn_train::{Shell, Stretches, within_learner};
use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::{Progress, RunConfig};
use crate::data::{EvalSource, HostBatch, TrainSource, Workers, templates};
use crate::distributed::{Carried, Devices, Ranks, Update, Work};
use crate::error::TrainError;
use crate::evaluate::{EvalReport, evaluate_with};
use crate::metrics::{EvalMetrics, Event, Reporter, StepMetrics, resident_bytes};
use crate::model_dir;
use crate::optimizer::{Optimizer, clip};
use crate::resume::Resume;
use crate::run_dir::RunDir;
use crate::step::loss_scale::LossScale;
use crate::step::{LmBatch, Trainee};
use burn::module::Module;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::{copy_conversations, copy_template, read_settings, save_adapter};
use infinity_model::{GateSummary, GenerationConfig, Tokenizer, generate, save_pretrained};
use saved::Saved;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a validation goes on after somebody asked for an end.
const MOMENT: Duration = Duration::from_millis(500);

/// How a run is watched and stopped.
pub struct TrainControl {
    /// Set from outside, it ends the run after the present step, with a checkpoint.
    pub interrupt: Arc<AtomicBool>,
    /// Set by the run when it begins to look at `interrupt`. What comes before has nothing to save and may be
    /// ended from outside: reading and tokenizing text and, on a GPU, compiling kernels for the first step.
    pub heeded: Arc<AtomicBool>,
    /// Hears what happens.
    pub reporter: Box<dyn Reporter + Send>,
    /// Go on from a checkpoint.
    pub resume: Option<Resume>,
    /// The configuration as it was written, for the run directory.
    pub config_text: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct TrainReport {
    /// Optimizer steps done.
    pub step: u64,
    /// The step of its last checkpoint, if one is there: where it can go on.
    pub saved: Option<u64>,
    /// Whether it was stopped from outside.
    pub interrupted: bool,
    /// The last validation.
    pub eval: Option<EvalReport>,
}

/// Trains as `config` says, on `devices`: one, or as many as its `[distributed]` asks for.
///
/// # Errors
/// Everything that [`TrainError`] lists. What was written before stays: checkpoints are complete
/// or absent.
pub fn train(
    config: RunConfig,
    devices: impl Into<Devices>,
    control: TrainControl,
) -> Result<TrainReport, TrainError> {
    let run = Run::prepare(config, &devices.into(), control, false)?;
    let (run, ended) =
        run.in_learner(|run, shell| run.steps(shell).map_err(|error| run.ended_by(error)))?;
    run.finish(ended?)
}

/// A run: what it is, and how far it has come.
pub(crate) struct Run {
    pub(crate) config: RunConfig,
    /// Micro-batches of a run that is measured in epochs: its last step takes what is left.
    micro_batches: Option<u64>,
    pub(crate) training_tokens: u64,
    train: TrainSource,
    pub(crate) valid: Option<EvalSource>,
    tokenizer: Tokenizer,
    interrupt: Arc<AtomicBool>,
    heeded: Arc<AtomicBool>,
    checkpoints: CheckpointStore,
    directory: RunDir,
    reporter: Box<dyn Reporter + Send>,
    /// Whether it only measures some steps and writes nothing.
    rehearses: bool,

    pub(crate) trainee: Trainee,
    optimizer: Optimizer,
    ranks: Ranks,
    pub(crate) state: TrainerState,
    /// What the model remembers of the last batch, where windows follow each other.
    stream: Option<Carried>,
    saved: Saved,
    /// The last step whose weights a validation found finite.
    validated: Option<u64>,
    /// Whether the last step was finite.
    finite: bool,
    /// Whether a checkpoint is due that has not been written while steps were lost.
    owes_checkpoint: bool,
    pub(crate) clock: Clock,
    /// Made ahead by `data.num_workers` threads, from the first step of this session on.
    batches: Option<Workers<HostBatch>>,
}

pub(crate) struct StepResult {
    /// In nats a target; 0 where there is none.
    loss: f64,
    /// Tokens that were to be predicted: none where rows hold no answer.
    targets: usize,
    grad_norm: f64,
    learning_rate: f64,
    finite: bool,
    /// The scale after a step that was left out because it was too high.
    overflow: Option<LossScale>,
}

/// What falls on a step besides itself.
struct Due {
    report: bool,
    eval: bool,
    sample: bool,
    checkpoint: bool,
    /// The run ends with it.
    last: bool,
}

impl Run {
    pub(crate) fn in_learner<T: Send + 'static>(
        mut self,
        body: impl FnOnce(&mut Run, &mut Shell) -> T + Send + 'static,
    ) -> Result<(Run, T), TrainError> {
        let every = self.valid.as_ref().map_or(0, |_| self.config.eval.every);
        let stretches = Stretches::new(every, self.state.total_steps);
        let dashboard = self.config.logging.progress == Progress::Tui && !self.rehearses;
        let shown = (stretches, self.state.step, dashboard);
        let (config, trainee) = (self.config.clone(), self.trainee.clone());
        within_learner(&config, shown, trainee, move |shell| {
            let given = body(&mut self, shell);
            (self.trainee.clone(), (self, given))
        })
    }

    /// How it ended, but for its last step and checkpoint.
    fn steps(&mut self, shell: &mut Shell) -> Result<TrainReport, TrainError> {
        let mut ended = TrainReport::default();
        shell.begin_training(self.state.step);
        // A validation that was broken off comes before the next step.
        let mut revalidates = self.state.validation_owed;
        if !revalidates && self.state.step > 0 && (self.is_stale() || self.is_out_of_time()) {
            self.say_why_over();
            return Ok(ended);
        }
        loop {
            if !revalidates && self.state.step >= self.state.total_steps {
                return Ok(ended);
            }
            if self.is_asked_to_stop(shell) {
                return self.interrupted(ended);
            }

            let result = match std::mem::take(&mut revalidates) {
                true => None,
                false => Some(self.step(shell)?),
            };
            let due = self.due();
            self.heeded.store(true, Ordering::SeqCst);
            if let Some(result) = &result {
                self.watch(result)?;
                if due.last {
                    self.judge_end(result)?;
                }
                self.confirm();
                if due.report {
                    self.report(result)?;
                }
            }

            let paused = Instant::now();
            let mut best = false;
            if due.eval {
                let Some(report) = self.validate(shell)? else {
                    self.state.validation_owed = true;
                    return self.interrupted(ended);
                };
                best = self.state.best_step == self.state.step;
                ended.eval = Some(report);
            }
            let stops = self.is_stale();
            if let (true, Some(result)) = (stops, &result) {
                self.judge_end(result)?;
            }
            if due.sample || stops {
                self.sample(shell)?;
            }

            // After everything else of the step: what a killed run goes on from is all there.
            self.owes_checkpoint |= due.checkpoint || (best && self.config.checkpoint.keep_best);
            let ends = due.last || stops;
            // What is saved while steps are lost may be lost itself; at the end nothing comes after,
            // and the last good one stays beside it.
            if ends || (self.owes_checkpoint && self.is_sound()) {
                self.checkpoint()?;
                self.owes_checkpoint = false;
            }
            self.clock.paused_s += paused.elapsed().as_secs_f64();

            shell.check()?;
            if ends {
                self.say_why_over();
                return Ok(ended);
            }
        }
    }

    fn due(&self) -> Due {
        let (config, step) = (&self.config, self.state.step);
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let end = step == self.state.total_steps;
        let last = end || self.is_out_of_time();
        Due {
            report: due(config.logging.every) || end || step == 1,
            eval: self.valid.is_some() && (due(config.eval.every) || last),
            sample: due(config.eval.sample_every) || last,
            checkpoint: due(config.checkpoint.every),
            last,
        }
    }

    /// One optimizer step over all its micro-batches.
    pub(crate) fn step(&mut self, shell: &mut Shell) -> Result<StepResult, TrainError> {
        let accumulated = self.config.training.gradient_accumulation_steps as u64;
        let done = self.state.micro_step;
        let left = |all: u64| all.saturating_sub(done).max(1);
        let n = (self.micro_batches).map_or(accumulated, |all| accumulated.min(left(all)));
        // All of the step's data before anything changes: a run without data can still be saved.
        let hosts: Result<Vec<_>, _> = (0..n).map(|_| self.next_batch()).collect();
        let mut hosts = hosts?;
        let states = self.config.data.initial_state;
        let first = states.first_passing(self.state.total_steps);
        if self.state.step >= first {
            for (host, n) in hosts.iter_mut().zip(done..) {
                host.pass(self.config.run.seed ^ n);
            }
        }
        let loss_scale = self.state.loss_scale.map_or(1.0, |scale| scale.scale);
        let targets: usize = hosts.iter().map(|host| host.valid).sum();
        let tokens: usize = hosts.iter().map(|host| host.rows * host.len).sum();
        let work = Work {
            hosts,
            scale: loss_scale / targets.max(1) as f64,
            seed: self.config.run.seed.wrapping_add(done),
            // The step before the first that starts from states has to leave them.
            stateful: self.config.data.stateful
                || (states.last_fraction > 0.0 && self.state.step + 1 >= first),
        };
        let (mut output, grads) = self.ranks.learn(&self.trainee, work, &mut self.stream);
        let max_norm = self.config.training.max_grad_norm;
        let (grads, clip) = clip(&self.trainee, grads, loss_scale, max_norm);
        let (n_tokens, grad_norm) = (output.n_tokens, clip.norm);
        output.grad_norm = Some(grad_norm);
        let loss = output.loss_sum / n_tokens.max(1) as f64;
        let finite = loss.is_finite() && grad_norm.is_finite();
        let mut overflow = None;
        if let Some(scale) = &mut self.state.loss_scale {
            let updated = scale.update(finite, &self.config.training.loss_scale);
            updated.map_err(|why| TrainError::Diverged {
                step: self.state.step + 1,
                reason: why.to_owned(),
            })?;
            overflow = (!finite).then_some(*scale);
        }
        let update = Update {
            step: self.state.step,
            factor: clip.factor,
            taken: finite || !(self.config.training.skip_non_finite || overflow.is_some()),
        };
        let learning_rate = self.optimizer.learning_rate(self.state.step);
        self.ranks
            .update(&mut self.trainee, &mut self.optimizer, grads, update);
        if !update.taken {
            self.state.skipped += 1;
            if overflow.is_none() || !loss.is_finite() {
                // A state that is not finite would spoil every batch after it.
                self.stream = None;
            }
        }
        self.finite = finite;
        self.state.step += 1;
        self.state.micro_step += n;
        self.state.tokens += tokens as u64;
        self.clock.tokens += tokens as u64;
        self.clock.steps += 1;
        shell.step(output, self.state.step, learning_rate);
        Ok(StepResult {
            loss,
            targets: n_tokens,
            grad_norm,
            learning_rate,
            finite,
            overflow,
        })
    }

    /// The next batch of the session, whose first is the one the run has come to.
    fn next_batch(&mut self) -> Result<HostBatch, TrainError> {
        if self.batches.is_none() {
            let source = self.train.clone();
            let vocabulary = self.config.model.vocab_size;
            let make = move |n| source.batch(n)?.within(vocabulary);
            let (first, count) = (self.state.micro_step, self.config.data.num_workers);
            self.batches = Some(Workers::start(make, first, count)?);
        }
        let batches = self.batches.as_mut().expect("just started");
        Ok(batches.take()?)
    }

    fn report(&mut self, result: &StepResult) -> Result<(), TrainError> {
        let seconds = (self.clock.logged.elapsed().as_secs_f64() - self.clock.paused_s).max(1e-9);
        let step_s = seconds / self.clock.steps.max(1) as f64;
        self.state.elapsed_s = self.clock.elapsed_s();
        let metrics = StepMetrics {
            step: self.state.step,
            total_steps: self.state.total_steps,
            loss: (result.targets > 0).then_some(result.loss),
            learning_rate: result.learning_rate,
            grad_norm: result.grad_norm,
            tokens: self.state.tokens,
            tokens_per_s: self.clock.tokens as f64 / seconds,
            step_ms: step_s * 1e3,
            memory_bytes: resident_bytes(),
            elapsed_s: self.state.elapsed_s,
            eta_s: step_s * (self.state.total_steps - self.state.step) as f64,
            skipped: self.state.skipped,
            loss_scale: self.state.loss_scale.map(|scale| scale.scale),
        };
        self.clock.logged = Instant::now();
        (self.clock.paused_s, self.clock.tokens, self.clock.steps) = (0.0, 0, 0);
        self.reporter.hear(Event::Step(&metrics));
        self.directory.log(&metrics.to_json())
    }

    /// Validates, and counts what early stopping looks at; nothing where somebody asks for an end
    /// meanwhile.
    fn validate(&mut self, shell: &mut Shell) -> Result<Option<EvalReport>, TrainError> {
        let step = self.state.step;
        let source = self.valid.as_ref().expect("due only with a split");
        let batches = source.batches();
        shell.begin_validation(step, batches as usize);
        let trainee = self.trainee.valid();
        let (began, mut done) = (Instant::now(), 0);
        let report = evaluate_with(&trainee, source, &mut |output, number| {
            shell.validated(output, number as usize, batches as usize);
            done = number;
            // One that is over in a moment need not be done again.
            began.elapsed() < MOMENT || !self.is_asked_to_stop(shell)
        })?;
        if done < batches {
            return Ok(None);
        }
        shell.end_validation(step);
        if !report.loss.is_finite() {
            // Steps that are not finite are left out, so it is the model itself that is not.
            let reason = format!("validation loss {}", report.loss);
            return Err(TrainError::Diverged { step, reason });
        }
        let gates = self.gates(&trainee)?;
        self.validated = Some(step);
        self.saved.is_old |= std::mem::take(&mut self.state.validation_owed);
        let state = &mut self.state;
        let best = state.best_loss.is_none_or(|best| report.loss < best);
        state.stale_evals += 1;
        if best {
            (state.best_loss, state.best_step, state.stale_evals) = (Some(report.loss), step, 0);
        }
        let metrics = EvalMetrics {
            step,
            report: report.clone(),
            best,
            gates,
        };
        self.reporter.hear(Event::Eval(&metrics));
        self.directory.log(&metrics.to_json())?;
        if step < self.state.total_steps {
            shell.begin_training(step);
        }
        Ok(Some(report))
    }

    /// What the gates do with the first validation batch.
    fn gates(&self, trainee: &Trainee) -> Result<Vec<GateSummary>, TrainError> {
        let first = self.valid.as_ref().and_then(|valid| valid.iter().next());
        let Some(host) = first.transpose()? else {
            return Ok(Vec::new());
        };
        let state = trainee.model.initial_state(host.rows);
        let (len, device) = (host.len, trainee.model.device());
        let tokens = LmBatch::alone(host).tokens(0, len, &device);
        Ok(trainee.model.gate_summaries(tokens, state))
    }

    /// Lets the model go on with every prompt, unless somebody asks for an end meanwhile.
    pub(crate) fn sample(&mut self, shell: &Shell) -> Result<(), TrainError> {
        let eval = &self.config.eval;
        if eval.sample_prompts.is_empty() || eval.sample_tokens == 0 {
            return Ok(());
        }
        let model = self.trainee.valid().model;
        let config = GenerationConfig {
            max_new_tokens: Some(eval.sample_tokens),
            seed: Some(self.config.run.seed),
            ..GenerationConfig::default()
        };
        let stops = || self.interrupt.load(Ordering::Relaxed) || shell.asked_to_stop();
        let mut all = String::new();
        let quiet = &mut |_: &str| match stops() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        for prompt in &eval.sample_prompts {
            match generate(&model, &self.tokenizer, prompt, &config, quiet) {
                _ if stops() => return Ok(()),
                Ok(generation) => {
                    let text = &*generation.text;
                    self.reporter.hear(Event::Sample { prompt, text });
                    all.push_str(&format!("{prompt}{text}\n\n"));
                }
                Err(error) => {
                    (self.reporter).message(&format!("no sample for {prompt:?}: {error}"))
                }
            }
        }
        self.directory.sample(self.state.step, &all)
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        let is_there = |step| self.checkpoints.path(step).exists();
        if self.saved.last == Some(step) && is_there(step) && !self.saved.is_old {
            return Ok(());
        }
        if let Some(gone) = self.saved.last.filter(|step| !is_there(*step)) {
            let path = self.checkpoints.path(gone);
            let text = format!("{} has been removed while the run goes on", path.display());
            self.reporter.message(&text);
        }
        self.state.elapsed_s = self.clock.elapsed_s();
        for notice in self.directory.sync()? {
            self.reporter.message(&notice);
        }
        let main = self.trainee.model.device().inner();
        let stream = self.stream.as_ref().map(|stream| stream.whole(&main));
        self.checkpoints
            .write(&self.state, stream.as_ref(), &self.trainee, &self.optimizer)?;
        self.saved.last = Some(step);
        self.saved.is_old = false;
        // A validation of these weights has seen their loss already.
        if self.validated == Some(step) && self.is_sound() {
            self.saved.good = Some(step);
        }
        self.saved.spare = self.saved.good != Some(step);
        self.prune(step);
        Ok(())
    }

    /// The end of a run that is asked to stop. What it has learned is saved, unless its last step was lost.
    fn interrupted(&mut self, mut ended: TrainReport) -> Result<TrainReport, TrainError> {
        if self.config.checkpoint.save_on_interrupt && self.is_sound() {
            self.checkpoint()?;
        } else if self.config.checkpoint.save_on_interrupt {
            let lost = self.state.lost();
            let text = format!("no checkpoint is written: the last {lost} steps were lost");
            self.reporter.message(&text);
        }
        ended.interrupted = true;
        Ok(ended)
    }

    /// Whether someone asked for an end: by a signal, or on burn-train's dashboard.
    pub(crate) fn is_asked_to_stop(&self, shell: &Shell) -> bool {
        self.interrupt.load(Ordering::Relaxed) || shell.asked_to_stop()
    }

    fn is_stale(&self) -> bool {
        let patience = self.config.eval.early_stopping_patience;
        patience > 0 && self.state.stale_evals >= patience
    }

    /// Whether `training.max_seconds` are over.
    fn is_out_of_time(&self) -> bool {
        let limit = self.config.training.max_seconds;
        limit > 0 && self.clock.elapsed_s() >= limit as f64
    }

    /// Says why the run ends before its last step, if it does.
    fn say_why_over(&mut self) {
        let (step, limit) = (self.state.step, self.config.training.max_seconds);
        if self.is_stale() {
            let text = "stopped early: the validation loss no longer falls";
            self.reporter.message(text);
        } else if step < self.state.total_steps {
            let text = format!("stopped after {limit} s, at step {step}");
            self.reporter.message(&text);
        }
    }

    /// Writes `final/` and says how it went.
    fn finish(self, ended: TrainReport) -> Result<TrainReport, TrainError> {
        if self.config.checkpoint.export_safetensors && !ended.interrupted {
            // A model is talked to as the one that it comes from, and ends as that does.
            let beside = templates::directory(&self.config.tokenizer)?;
            let tuned = !self.config.training.init_from.as_os_str().is_empty();
            let theirs = beside.filter(|_| tuned).map(|dir| read_settings(&dir));
            let generation = match theirs {
                Some(Ok(settings)) => settings.generation,
                _ => model_dir::generation_of(&self.tokenizer),
            };
            let (path, model) = (self.directory.final_model(), self.trainee.valid().model);
            let run = self.config.output_dir();
            match &self.state.base {
                Some(base) => {
                    let found = model_dir::find(&base.path)?;
                    let of = found.directory();
                    save_adapter(&path, &model, of, &base.path, &base.fingerprint)?;
                    if !self.config.data.messages_column.is_empty() {
                        copy_template(&path, &run.join(TEMPLATE))?;
                    }
                }
                None => {
                    save_pretrained(&path, &model, Some(&self.tokenizer), &generation)?;
                    copy_conversations(&path, &run, Some(&self.tokenizer))?;
                }
            }
        }
        Ok(TrainReport {
            step: self.state.step,
            saved: self.there(self.saved.last),
            ..ended
        })
    }
}

/// Time and tokens since the last logged step.
pub(crate) struct Clock {
    pub(crate) started: Instant,
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
