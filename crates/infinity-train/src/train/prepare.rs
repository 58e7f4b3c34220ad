//! Everything of a run before its first step.

use super::saved::Saved;
use super::{Clock, Run, TrainControl};
use crate::checkpoint::{Base, CheckpointStore, TrainerState};
use crate::config::{Progress, RunConfig};
use crate::data::{
    self, DataError, EvalSource, HostBatch, Needles, PreparedData, TokenizerConfig, TokenizerKind,
    TrainSource, prepare, templates,
};
use crate::distributed::{Carried, Devices, Ranks, Reduction};
use crate::error::{CheckpointError, TrainError};
use crate::metrics::Reporter;
use crate::model_dir::{self, About, Found};
use crate::optimizer::Optimizer;
use crate::resume::{Resume, resume_state, same_text};
use crate::run_dir::{CHECKPOINTS, CONFIG, Opens, RUN, RunDir, TOKENIZER, saved_nothing};
use crate::step::loss_scale::LossScale;
use crate::step::{Recompute, Trainee, drops};
use burn::tensor::Device;
use infinity_files::{Fingerprint, fingerprint};
use infinity_kernels::accelerator;
use infinity_model::adapter::Lora;
use infinity_model::count::ParameterCount;
use infinity_model::pretrained::{Fit, same_network};
use infinity_model::state_file::fingerprint_in_bf16;
use infinity_model::{Formats, InfinityModel, ModelConfig, Precision, Tokenizer};
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

impl Run {
    /// Everything up to the first step: data, model, optimizer, and the directory unless the run
    /// `rehearses`.
    pub(crate) fn prepare(
        mut config: RunConfig,
        devices: &Devices,
        mut control: TrainControl,
        rehearses: bool,
    ) -> Result<Self, TrainError> {
        let goes_on = control.resume.is_some() && config.lora.wanted().is_none();
        let (source, missing) = match Source::of(&config) {
            // A run that goes on has its weights already.
            Err(missing) if goes_on && !is_unsaid(&config.model) => (None, Some(missing)),
            found => (found?, None),
        };
        let taken = match &source {
            Some(source) => source.take_over(&mut config)?,
            None => Vec::new(),
        };
        config.validate()?;
        if let Some(source) = &source {
            source.suits(&config)?;
        }
        devices.settle(&mut config.distributed)?;
        supported(&config)?;
        devices.check(config.run.precision)?;
        let formats = Formats::new(config.run.precision, devices.main());
        let reporter = &mut control.reporter;
        for text in taken {
            reporter.message(&text);
        }
        reporter.message(&format!("precision {}", formats.describe()));
        let reduction = Reduction::of(&config.distributed, devices)?;
        if let (Some(reduction), true) = (&reduction, devices.ranks() > 1) {
            reporter.message(&format!("reduction {}", reduction.describe()));
        }

        let checkpoints = CheckpointStore::new(config.output_dir().join(CHECKPOINTS));
        let resume = control.resume.as_ref();
        let resumed = resume_state(&config, &checkpoints, resume, &mut **reporter)?;
        if let (None, Some(missing)) = (&resumed, missing) {
            return Err(missing);
        }
        if resumed.is_none() && resume == Some(&Resume::Latest) {
            saved_nothing(&config.output_dir())?;
            let path = config.output_dir().join(CHECKPOINTS);
            let path = path.display();
            reporter.message(&format!("no checkpoint in {path} yet: the run starts anew"));
        }
        let prepared = prepare(&config.data, &config.tokenizer, &mut |line| {
            reporter.message(&line)
        })?;
        if let Some(state) = &resumed {
            same_text(state, &prepared.meta)?;
        }
        if let Some(source) = source.as_ref().filter(|_| config.lora.wanted().is_some()) {
            source.has_tokenizer(&prepared.meta.tokenizer_hash)?;
        }
        config.model = model_config(&config, &prepared)?;
        let (text, seed) = (prepared.train.clone(), config.run.seed);
        let train = TrainSource::new(text, &config.data, config.rows(), seed)?;
        let needles = Needles::new(&prepared.tokenizer, config.data.needle_fraction)?;
        let train = train.hiding(needles);
        if let Some(warning) = train.warning() {
            reporter.message(&warning);
        }
        let valid = validation(&config, &prepared)?;

        // Before anything is written: what is named may not be there, or not fit.
        let ranks = devices.with_autodiff(config.training.gradient_checkpointing);
        let (model, base) = match (config.lora.wanted(), &source) {
            (Some(lora), Some(source)) => {
                let (model, base) = source.adapted(&config, &lora, &ranks[0])?;
                same_base(resumed.as_ref(), &base)?;
                (model, Some(base))
            }
            (_, source) => {
                let mut model = config.model.init_seeded(seed, &ranks[0]);
                if let Some(source) = source.as_ref().filter(|_| resumed.is_none()) {
                    model = source.started(model, &prepared, &mut *control.reporter)?;
                }
                (model, None)
            }
        };

        let state = resumed.as_ref();
        let (total_steps, micro_batches) = length(&config, &train, state);
        let directory = match rehearses {
            true => RunDir::nowhere(&config),
            false => run_directory(&config, &mut control, &prepared, &checkpoints, state)?,
        };
        let reporter = &mut control.reporter;
        let parameters = ParameterCount::of(&config.model).total();
        let mut text = format!("model     {parameters} parameters");
        if let Some(lora) = model.lora() {
            let learn = lora.count(&config.model)?;
            text += &format!(" that stay as they are, adapters of {learn} that learn");
        }
        reporter.message(&format!("{text}, {total_steps} steps"));
        if devices.ranks() > 1 && drops(&model) {
            let text = "dropout   devices take turns: all draw from the process's one generator";
            reporter.message(text);
        }
        let resumed_at = resumed.as_ref().map(|state| state.step);
        match resumed_at {
            Some(step) if step > total_steps => reporter.message(&format!(
                "the run is at step {step}, past the {total_steps} that it is to have: nothing is left to train"
            )),
            Some(step) if step < total_steps => {
                let made_at = checkpoints.steps().last().copied().unwrap_or(step);
                if let Some(old) = directory.retire_final(made_at)? {
                    let old = old.display();
                    reporter.message(&format!("the finished model of before is now {old}"));
                }
            }
            _ => {}
        }

        let model = model.with_precision(config.run.precision)?;
        let mut trainee =
            Trainee::new(model, config.training.loss_chunk).recomputing(Recompute::of(&config));
        let mut stream = None;
        if let Some(step) = resumed_at {
            trainee = checkpoints.weights(step, trainee)?;
            if config.data.stateful || config.data.initial_state.last_fraction > 0.0 {
                stream = checkpoints.stream(step, &devices.main().clone().inner())?;
            }
        }
        let rates = &config.lr_scheduler;
        let mut optimizer = Optimizer::new(&config.optimizer, rates, total_steps, &trainee);
        if let Some(step) = resumed_at {
            optimizer.load(&checkpoints.optimizer(step))?;
        }
        let scales = config.run.precision.scales_loss();
        let state = TrainerState {
            total_steps,
            base,
            ..resumed.unwrap_or_else(|| TrainerState {
                config: config.to_toml(),
                text: prepared.meta.source.hash.clone(),
                train_tokens: prepared.meta.train.tokens.checksum.clone(),
                validation_tokens: prepared.meta.validation.tokens.checksum.clone(),
                tokenizer: prepared.meta.tokenizer_hash.clone(),
                loss_scale: scales.then(|| LossScale::new(&config.training.loss_scale)),
                ..TrainerState::default()
            })
        };
        let compiles = |device| accelerator::facts(device).is_some();
        if !ranks.iter().any(compiles) {
            control.heeded.store(true, Ordering::SeqCst);
        }
        Ok(Run {
            ranks: Ranks::start(&ranks, reduction, &trainee, &optimizer),
            saved: Saved::before(resumed_at, &checkpoints.steps()),
            clock: Clock::new(&state),
            micro_batches,
            training_tokens: prepared.train.len(),
            train,
            valid,
            tokenizer: prepared.tokenizer,
            interrupt: control.interrupt,
            heeded: control.heeded,
            checkpoints,
            directory,
            reporter: control.reporter,
            rehearses,
            trainee,
            optimizer,
            state,
            stream: stream.map(|whole| Carried(vec![whole])),
            validated: None,
            finite: true,
            owes_checkpoint: false,
            batches: None,
            config,
        })
    }
}

/// `model` with what `own` says of dropout and windows, which are a run's.
fn run_as(own: &ModelConfig, model: ModelConfig) -> ModelConfig {
    ModelConfig {
        max_position_embeddings: own.max_position_embeddings,
        hidden_dropout_prob: own.hidden_dropout_prob,
        attention_probs_dropout_prob: own.attention_probs_dropout_prob,
        ..model
    }
}

/// Whether nothing is said of a model but that.
fn is_unsaid(model: &ModelConfig) -> bool {
    *model == run_as(model, ModelConfig::default())
}

/// The model that `training.init_from` names, which is looked for before anything else is done.
struct Source {
    /// As it was named.
    path: PathBuf,
    found: Found,
    about: About,
}

impl Source {
    fn of(config: &RunConfig) -> Result<Option<Self>, TrainError> {
        let path = &config.training.init_from;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let named = |error| match error {
            TrainError::NoModel(why) => TrainError::NoModel(format!("`training.init_from`: {why}")),
            other => other,
        };
        let found = model_dir::find(path).map_err(named)?;
        let about = found.about().map_err(named)?;
        let path = path.clone();
        Ok(Some(Source { path, found, about }))
    }

    fn refuse<T>(&self, why: &str) -> Result<T, TrainError> {
        let why = format!("names {}, {why}", self.found.place().display());
        Err(TrainError::NoModel(format!("`training.init_from` {why}")))
    }

    /// Where it is another family's model, or any whose adapters are to learn, and nothing is said about `[model]` but
    /// its dropout, that is the model, and its tokenizer where nothing is said about `[tokenizer]`. What is to be told.
    fn take_over(&self, config: &mut RunConfig) -> Result<Vec<String>, TrainError> {
        let adapts = config.lora.wanted().is_some();
        if adapts && self.found.has_adapters() {
            return self.refuse(
                "which is an adapter itself: write it as a model first, with `infinity export --merge`",
            );
        }
        let about = &self.about;
        if !is_unsaid(&config.model) || !(adapts || about.is_of_others) {
            return Ok(Vec::new());
        }
        config.model = run_as(&config.model, about.model.clone());
        let mut told = about.notes.clone();
        let place = self.found.place();
        told.push(format!("model     as {} says", place.display()));
        let tokenizer = self.found.tokenizer().ok().filter(|path| path.is_file());
        if let Some(path) = tokenizer
            && config.tokenizer == TokenizerConfig::default()
        {
            told.push("tokenizer its own".to_owned());
            config.tokenizer = TokenizerConfig {
                kind: TokenizerKind::File,
                path,
                add_special_tokens: about.begins,
                ..config.tokenizer.clone()
            };
        }
        Ok(told)
    }

    /// Refuses what adapters of it cannot be, before any data is read.
    fn suits(&self, config: &RunConfig) -> Result<(), TrainError> {
        let Some(lora) = config.lora.wanted() else {
            return Ok(());
        };
        let theirs = &self.about.model;
        let mut ours = config.model.clone();
        if ours.vocab_size == 0 {
            ours.vocab_size = theirs.vocab_size;
        }
        let why = "adapters are of a model as it is: leave [model] out";
        same_network(&ours, theirs, why)?;
        lora.targets(theirs)?;
        if let Some(tokenizer) = data::known_tokenizer(&config.data, &config.tokenizer)? {
            let json = tokenizer.to_json().map_err(DataError::from)?;
            self.has_tokenizer(&fingerprint(json))?;
        }
        Ok(())
    }

    /// Refuses a tokenizer other than its own, where it has one: its embedding does not learn.
    fn has_tokenizer(&self, hash: &str) -> Result<(), TrainError> {
        let path = self.found.tokenizer()?;
        if !path.is_file() {
            return Ok(());
        }
        let theirs = Tokenizer::from_file(path).and_then(|tokenizer| tokenizer.to_json());
        match Fingerprint::matches(hash, theirs.map_err(DataError::from)?) {
            true => Ok(()),
            false => self.refuse(
                "whose embedding is of another tokenizer's tokens and does not learn: leave [tokenizer] out",
            ),
        }
    }

    /// It with adapters that learn, and what it was without them.
    fn adapted(
        &self,
        config: &RunConfig,
        lora: &Lora,
        device: &Device,
    ) -> Result<(InfinityModel, Base), TrainError> {
        let source = (self.found).load(model_dir::own(config.run.precision), device)?;
        let (place, fingerprint) = (self.found.place(), fingerprint_in_bf16(&source.model));
        let path = place.canonicalize().unwrap_or_else(|_| place.into());
        let model = source.model.dropping_out(&config.model);
        let model = model.with_lora(lora, config.run.seed)?;
        Ok((model, Base { path, fingerprint }))
    }

    /// `model` with its weights, as far as they fit.
    fn started(
        &self,
        model: InfinityModel,
        prepared: &PreparedData,
        reporter: &mut dyn Reporter,
    ) -> Result<InfinityModel, TrainError> {
        let source = (self.found).load(Precision::F32, &model.device().inner())?;
        let (model, fit) = model.with_weights_of(&source.model);
        let shown = self.path.display();
        let of = self.found.describe().unwrap_or_else(|| shown.to_string());
        if fit.taken.is_empty() {
            return Err(TrainError::NoModel(format!(
                "`training.init_from = \"{shown}\"` holds nothing of the name and shape of a weight of this model: {}",
                Fit::listed(&fit.left_out)
            )));
        }
        let (taken, all) = (fit.taken.len(), fit.taken.len() + fit.fresh.len());
        let text = format!("weights   {taken} of {all} tensors are those of {of}");
        reporter.message(&text);
        for (what, names) in [("left out ", &fit.left_out), ("fresh    ", &fit.fresh)] {
            if !names.is_empty() {
                reporter.message(&format!("{what} {}", Fit::listed(names)));
            }
        }
        let theirs = source.tokenizer.map(|tokenizer| tokenizer.to_json());
        if let Some(Ok(theirs)) = theirs
            && !Fingerprint::matches(&prepared.meta.tokenizer_hash, theirs)
        {
            let why = "has another tokenizer, whose tokens its embedding is of";
            reporter.message(&format!("warning: {shown} {why}"));
        }
        Ok(model)
    }
}

/// Refuses to go on with the adapters of another model.
fn same_base(resumed: Option<&TrainerState>, base: &Base) -> Result<(), CheckpointError> {
    let was = resumed.and_then(|state| state.base.as_ref());
    let other = was.filter(|was| was.fingerprint != base.fingerprint);
    other.map_or(Ok(()), |was| {
        Err(CheckpointError::Changed {
            key: "training.init_from".to_owned(),
            was: format!("a model of weights {}", was.fingerprint),
            now: format!("one of weights {}", base.fingerprint),
            why: None,
        })
    })
}

/// Optimizer steps of a run, and its micro-batches where it is measured in epochs.
///
/// A run of an earlier version rounded every epoch up to whole steps; one that is resumed keeps its length,
/// on which its rates depend.
fn length(
    config: &RunConfig,
    train: &TrainSource,
    resumed: Option<&TrainerState>,
) -> (u64, Option<u64>) {
    let training = &config.training;
    let accumulated = training.gradient_accumulation_steps as u64;
    let is_capped = training.max_steps > 0 || training.max_tokens > 0;
    if is_capped || resumed.is_some_and(|state| state.total_steps == 0) {
        let steps_per_epoch = train.steps_per_epoch().div_ceil(accumulated);
        let steps = training.total_steps(config.tokens_per_step(), steps_per_epoch);
        return (steps, None);
    }
    let micro_batches = training.num_train_epochs * train.steps_per_epoch() as f64;
    let micro_batches = (micro_batches.ceil() as u64).max(1);
    (micro_batches.div_ceil(accumulated), Some(micro_batches))
}

/// The run's directory, with what was asked for in it.
fn run_directory(
    config: &RunConfig,
    control: &mut TrainControl,
    prepared: &PreparedData,
    checkpoints: &CheckpointStore,
    resumed: Option<&TrainerState>,
) -> Result<RunDir, TrainError> {
    let opens = match resumed {
        Some(state) => Opens::After(state),
        None if control.resume == Some(Resume::Latest) => Opens::Again,
        None => Opens::Anew,
    };
    let run = json!({
        "infinity_version": env!("CARGO_PKG_VERSION"),
        "burn_version": "0.22.1",
        "seed": config.run.seed,
        "device": config.run.device,
        "init_from": config.training.init_from,
        "facts": {
            "parameters": ParameterCount::of(&config.model).total(),
            "data": prepared.meta,
        },
    });
    let tokenizer = &prepared.tokenizer;
    let mut described = vec![
        (RUN, format!("{run:#}\n")),
        (CONFIG, control.config_text.clone()),
        // Checkpoints need it to be used before there is a finished model.
        (TOKENIZER, tokenizer.to_json().map_err(DataError::from)?),
    ];
    let conversations = templates::remembered(&config.data, &config.tokenizer, tokenizer);
    described.extend(conversations?);
    let mut notices = Vec::new();
    let directory = RunDir::open(config, opens, described, &mut notices)?;
    if let Some(state) = resumed {
        let settled = checkpoints.settle_best(state.best(config));
        notices.extend(settled.err().map(|error| error.to_string()));
    }
    for notice in notices {
        control.reporter.message(&notice);
    }
    Ok(directory)
}

/// Refuses what this version cannot do, before anything is made.
fn supported(config: &RunConfig) -> Result<(), TrainError> {
    let why = match config.logging.progress {
        Progress::Tui if !cfg!(feature = "tui") => "this build is without the feature `tui`",
        Progress::Tui if !std::io::stdout().is_terminal() => "a dashboard needs a terminal",
        _ => return Ok(()),
    };
    Err(TrainError::Refused(format!(
        "`logging.progress = \"tui\"` is not there yet: use \"plain\"; {why}"
    )))
}

/// The model's configuration with what the tokenizer decides.
fn model_config(config: &RunConfig, prepared: &PreparedData) -> Result<ModelConfig, TrainError> {
    let (mut model, tokens) = (config.model.clone(), prepared.tokenizer.vocab_size());
    match model.vocab_size {
        0 => model.vocab_size = tokens,
        given if given < tokens => {
            return Err(TrainError::Refused(format!(
                "`model.vocab_size = {given}` is smaller than the tokenizer's {tokens} entries; leave it out to take \
                 the tokenizer's"
            )));
        }
        _ => {}
    }
    model.eos_token_id = model.eos_token_id.or(prepared.tokenizer.eos_id());
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
    let source = source.limited(config.eval.max_batches);
    // Where rows are conversations, a split may have none of their answers.
    let is_empty = |batch: &HostBatch| batch.valid == 0;
    let answered = source
        .iter()
        .find(|batch| !batch.as_ref().is_ok_and(is_empty));
    answered.unwrap_or(Err(DataError::NoAnswers))?;
    Ok(Some(source))
}
