//! A whole run: data, model, optimizer, loop, and the model directory at the end.

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::{Progress, RunConfig};
use crate::data::{BatchSource, DataError, EvalSource, PreparedData, TrainSource, prepare};
use crate::devices::Devices;
use crate::error::TrainError;
use crate::eval::EvalReport;
use crate::loss_scale::LossScale;
use crate::metrics::{LmMetric, Reporter};
use crate::optimizer::{learning_rates, optimizer};
use crate::renderer::Quiet;
use crate::resume::{Resume, resume_state, same_text};
use crate::run_dir::RunDir;
use crate::step::{Recompute, Trainee, drops};
use crate::strategy::{Carried, Loop, Outcome, Reduction, Run, Saved, StepLoop};
use crate::unused::{Always, NoLoader};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::{IterationSpeedMetric, LearningRateMetric};
use burn::train::{Learner, SupervisedTraining, TrainingStrategy};
use infinity_model::count::ParameterCount;
use infinity_model::{Formats, GenerationConfig, InfinityModel, ModelConfig, save_pretrained};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// How a run is watched and stopped.
pub struct TrainControl {
    /// Set from outside, it ends the run after the present step, with a checkpoint.
    pub interrupt: Arc<AtomicBool>,
    /// Set by the run when it begins to look at `interrupt`. What comes before, reading and
    /// tokenizing text, has nothing to save, and may be ended from outside.
    pub heeded: Arc<AtomicBool>,
    /// Hears what happens.
    pub reporter: Box<dyn Reporter + Send>,
    /// Go on from a checkpoint.
    pub resume: Option<Resume>,
    /// The configuration as it was written, for the run directory.
    pub config_text: String,
}

/// What came of a run.
#[derive(Clone, Debug)]
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
    let (fixed, resumed_at) = set_up(config, &devices.into(), control, false)?;
    let model = launch(&fixed, resumed_at);
    finish(&fixed, &model)
}

/// Everything of a run but its model; also the step it goes on after.
pub(crate) fn set_up(
    mut config: RunConfig,
    devices: &Devices,
    mut control: TrainControl,
    rehearses: bool,
) -> Result<(Arc<Loop>, Option<u64>), TrainError> {
    config.validate()?;
    devices.settle(&mut config.distributed)?;
    supported(&config)?;
    devices.check(config.run.precision)?;
    let formats = Formats::new(config.run.precision, devices.main());
    control
        .reporter
        .message(&format!("precision {}", formats.describe()));
    if devices.ranks() > 1 && drops(&config.model) {
        control
            .reporter
            .message("dropout   devices take turns: all draw from the process's one generator");
    }
    let reduction = Reduction::of(&config.distributed, devices)?;
    if let (Some(reduction), true) = (&reduction, devices.ranks() > 1) {
        control
            .reporter
            .message(&format!("reduction {}", reduction.describe()));
    }
    let checkpoints = CheckpointStore::new(config.output_dir().join("checkpoints"));
    let state = resume_state(
        &config,
        &checkpoints,
        control.resume.as_ref(),
        &mut *control.reporter,
    )?;
    let prepared = prepare(&config.data, &config.tokenizer, &mut |event| {
        control.reporter.message(&event.to_string());
    })?;
    if let Some(state) = &state {
        same_text(state, &prepared.meta)?;
    }
    config.model = model_config(&config, &prepared)?;
    let train = TrainSource::new(
        prepared.train.clone(),
        &config.data,
        config.rows(),
        config.run.seed,
    )?;
    if let Some(warning) = train.warning() {
        control.reporter.message(&warning);
    }
    let valid = validation(&config, &prepared)?;
    let directory = match rehearses {
        true => RunDir::nowhere(&config),
        false => run_directory(&config, &mut control, &prepared, state.as_ref())?,
    };

    let accumulated = config.training.gradient_accumulation_steps as u64;
    let steps_per_epoch = train.steps_per_epoch().div_ceil(accumulated);
    let total_steps = config
        .training
        .total_steps(config.tokens_per_step(), steps_per_epoch);
    control.reporter.message(&format!(
        "model     {} parameters, {total_steps} steps",
        ParameterCount::of(&config.model).total()
    ));
    let resumed_at = state.as_ref().map(|state| state.step);
    if let Some(step) = resumed_at.filter(|step| *step > total_steps) {
        control.reporter.message(&format!(
            "the run is at step {step}, past the {total_steps} that it is to have: nothing is left to train"
        ));
    }
    let fresh = TrainerState {
        config: config.to_toml(),
        text: prepared.meta.source.hash.clone(),
        train_tokens: prepared.meta.train.tokens.checksum.clone(),
        validation_tokens: prepared.meta.validation.tokens.checksum.clone(),
        tokenizer: prepared.meta.tokenizer_hash.clone(),
        loss_scale: (config.run.precision.scales_loss())
            .then(|| LossScale::new(&config.training.loss_scale)),
        ..TrainerState::default()
    };
    let stream = match resumed_at {
        Some(step) if config.data.stateful => {
            checkpoints.stream(step, &devices.main().clone().inner())?
        }
        _ => None,
    };
    control.heeded.store(true, Ordering::SeqCst);
    let run = Run {
        stream: stream.map(Carried::from),
        saved: Saved::before(resumed_at, &checkpoints.steps()),
        validated: None,
        state: state.unwrap_or(fresh),
        reporter: control.reporter,
        directory,
        outcome: Ok(Outcome::default()),
    };
    let fixed = Arc::new(Loop {
        devices: devices.with_autodiff(config.training.gradient_checkpointing),
        reduction,
        config,
        total_steps,
        training_tokens: prepared.train.len(),
        rehearses,
        train,
        valid,
        tokenizer: prepared.tokenizer,
        interrupt: control.interrupt,
        checkpoints,
        run: Mutex::new(run),
    });
    Ok((fixed, resumed_at))
}

/// The run's directory, with what was asked for in it.
fn run_directory(
    config: &RunConfig,
    control: &mut TrainControl,
    prepared: &PreparedData,
    state: Option<&TrainerState>,
) -> Result<RunDir, TrainError> {
    let mut directory = match state {
        None if control.resume == Some(Resume::Latest) => RunDir::restart(config)?,
        state => RunDir::open(config, state.map(|state| state.step))?,
    };
    if let Some(state) = state
        && let Err(error) = directory.checkpoints().settle_best(state.best(config))
    {
        control.reporter.message(&error.to_string());
    }
    let facts = json!({
        "parameters": ParameterCount::of(&config.model).total(),
        "data": prepared.meta,
    });
    let tokenizer = prepared.tokenizer.to_json().map_err(DataError::from)?;
    directory.describe(config, &control.config_text, &facts, tokenizer)?;
    Ok(directory)
}

/// Runs the loop inside burn-train's learner.
pub(crate) fn launch(fixed: &Arc<Loop>, resumed_at: Option<u64>) -> InfinityModel {
    let config = &fixed.config;
    let device = &fixed.devices[0];
    let model = config.model.init_seeded(config.run.seed, device);
    let model = model
        .with_precision(config.run.precision)
        .expect("checked before the run");
    let rates = learning_rates(
        &config.optimizer,
        &config.lr_scheduler,
        fixed.total_steps,
        &config.model,
    );
    let trainee = Trainee::new(model, config.training.loss_chunk);
    let trainee = trainee.recomputing(Recompute::of(config));
    let learner = Learner::new(trainee, optimizer(&config.optimizer, &config.model), rates);
    let root = config.output_dir();
    let [model_part, optimizer_part, rates_part] = fixed.checkpoints.parts();
    let mut training = SupervisedTraining::new(&root, Arc::new(NoLoader), Arc::new(NoLoader))
        .metric_train_numeric(LmMetric::loss())
        .metric_valid_numeric(LmMetric::loss())
        .metric_train_numeric(LmMetric::grad_norm())
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .with_custom_checkpointers(model_part, optimizer_part, rates_part)
        .with_checkpointing_strategy(Always)
        .num_epochs(fixed.stretches().count())
        .label(&config.run.name)
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(StepLoop(fixed.clone()))));
    training = match config.logging.progress {
        // burn-train's dashboard is what it shows on a terminal when it is told nothing else.
        Progress::Tui if !fixed.rehearses => training
            .metric_train_numeric(LearningRateMetric::new())
            .metric_train_numeric(IterationSpeedMetric::new()),
        _ => training.renderer(Box::new(Quiet)),
    };
    if let Some(step) = resumed_at {
        training = training.checkpoint(step as usize);
    }
    training.launch(learner).model.model
}

/// Writes `final/` and says how it went.
fn finish(fixed: &Arc<Loop>, model: &InfinityModel) -> Result<TrainReport, TrainError> {
    let mut run = fixed.run.lock().expect("the loop has ended");
    let outcome = std::mem::replace(&mut run.outcome, Ok(Outcome::default()))?;
    if fixed.config.checkpoint.export_safetensors && !outcome.interrupted {
        let eos = fixed.tokenizer.eos_id().into_iter().collect();
        let generation = GenerationConfig {
            eos_token_id: eos,
            ..GenerationConfig::default()
        };
        let path = run.directory.final_model();
        save_pretrained(&path, model, Some(&fixed.tokenizer), &generation)?;
    }
    Ok(TrainReport {
        step: run.state.step,
        saved: (run.saved.last).filter(|step| fixed.checkpoints.path(*step).exists()),
        interrupted: outcome.interrupted,
        eval: outcome.eval,
    })
}

/// Refuses what this version cannot do, before anything is made.
fn supported(config: &RunConfig) -> Result<(), TrainError> {
    let refuse = |key, value: String, instead| {
        Err(TrainError::Unsupported {
            key,
            value,
            instead,
        })
    };
    if config.logging.progress == Progress::Tui && !std::io::stdout().is_terminal() {
        let (value, instead) = (
            "\"tui\"".to_owned(),
            "use \"plain\"; a dashboard needs a terminal",
        );
        return refuse("logging.progress", value, instead);
    }
    Ok(())
}

/// The model's configuration with what the tokenizer decides.
fn model_config(config: &RunConfig, prepared: &PreparedData) -> Result<ModelConfig, TrainError> {
    let tokens = prepared.tokenizer.vocab_size();
    let vocab_size = match config.model.vocab_size {
        0 => tokens,
        given if given < tokens => {
            return Err(TrainError::Vocabulary {
                vocab_size: given,
                tokens,
            });
        }
        given => given,
    };
    let eos_token_id = config.model.eos_token_id.or(prepared.tokenizer.eos_id());
    let model = ModelConfig {
        vocab_size,
        eos_token_id,
        ..config.model.clone()
    };
    model.validate()?;
    Ok(model)
}

fn validation(
    config: &RunConfig,
    prepared: &PreparedData,
) -> Result<Option<EvalSource>, TrainError> {
    if !config.eval.do_eval || prepared.valid.is_empty() {
        return Ok(None);
    }
    let source = EvalSource::new(
        prepared.valid.clone(),
        config.training.per_device_eval_batch_size,
        config.data.max_seq_length,
        config.eval.carry_state,
    )?;
    Ok(Some(source.limited(config.eval.max_batches)))
}
