//! Where the model is: a model directory, a run directory that holds one, a checkpoint of a run, or adapters and the
//! model that they belong to.

use crate::checkpoint::{BEST, CheckpointStore, STATE, TrainerState, model_of};
use crate::config::{ConfigLayers, RunConfig};
use crate::error::TrainError;
use crate::run_dir::{CHECKPOINTS, EFFECTIVE, FINAL, TOKENIZER};
use infinity_files::Fingerprint;
use infinity_model::burn::tensor::Device;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::{
    base_of, config_from_json, copy_adapter, is_adapter, read_adapter_settings, read_settings,
    save_adapter, with_adapter_of,
};
use infinity_model::state_file::fingerprint_in_bf16;
use infinity_model::{
    GenerationConfig, ModelConfig, Precision, Pretrained, PretrainedError, Tokenizer,
    from_pretrained_in,
};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What makes a directory a model directory.
const MARKER: &str = "config.json";

/// What makes a directory one of adapters, where there is no model.
const ADAPTER_MARKER: &str = "adapter_config.json";

/// Settings of generation beside a finished model.
const GENERATION: &str = "generation_config.json";

/// A model that was found and not loaded yet: a model directory, what a run had learned at some step, or adapters; and
/// of adapters, which model they are to be added to.
#[derive(Debug)]
pub struct Found {
    place: PathBuf,
    checkpoint: Option<Checkpoint>,
    base: Option<Box<Base>>,
}

/// What is known of a model without its weights.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Its shape.
    pub(crate) model: ModelConfig,
    /// Whether another family's program wrote it.
    pub(crate) is_of_others: bool,
    /// Whether its texts get the special tokens of its tokenizer.
    pub(crate) begins: bool,
    /// What was in another family's files and is not used.
    pub(crate) notes: Vec<String>,
}

/// The model that adapters belong to.
#[derive(Debug)]
struct Base {
    found: Found,
    /// As it was given or recorded.
    path: PathBuf,
    /// Of its weights, where it is known.
    fingerprint: Option<String>,
}

/// A complete checkpoint.
#[derive(Debug)]
struct Checkpoint {
    run: PathBuf,
    store: CheckpointStore,
    state: TrainerState,
    /// The run's finished model, which is older than this checkpoint.
    older: Option<PathBuf>,
}

/// The model meant by `given`: a model directory, a run directory, `checkpoints/step-N` or `checkpoints/best` in a run
/// directory, or a directory of adapters that says which model they belong to.
///
/// # Errors
/// There is no such directory, or no model in it; the message says what was looked for.
pub fn find(given: &Path) -> Result<Found, TrainError> {
    find_on(given, None)
}

/// [`find`], with the adapters in the directory, run or checkpoint `adapter`, if one is given, whatever model they name.
///
/// # Errors
/// As [`find`]; or there are no adapters.
pub fn find_with(given: &Path, adapter: Option<&Path>) -> Result<Found, TrainError> {
    let Some(adapter) = adapter else {
        return find(given);
    };
    let found = find_on(adapter, Some(given))?;
    if found.has_adapters() {
        return Ok(found);
    }
    Err(TrainError::NoModel(format!(
        "{} is a model and no adapter: there is no {ADAPTER_MARKER}, or a {MARKER} beside it",
        found.place.display()
    )))
}

/// What `given` means; if that is adapters, those of the model in `base` or of the one that they name.
fn find_on(given: &Path, base: Option<&Path>) -> Result<Found, TrainError> {
    let mut found = look(given)?;
    found.base = match found.checkpoint.as_ref().map(|of| &of.state.base) {
        Some(Some(own)) => {
            let fingerprint = Some(own.fingerprint.clone());
            Some(Base::of(
                &found.place,
                base.unwrap_or(&own.path),
                fingerprint,
            )?)
        }
        None if is_adapter(&found.place) => Some(named_base(&found.place, base)?),
        _ => None,
    };
    Ok(found)
}

/// What `given` means, and not yet which model it belongs to.
fn look(given: &Path) -> Result<Found, TrainError> {
    let folder = directory(given);
    let unfinished = || match &folder {
        Ok(finished) => newer(given, finished),
        Err(_) => newest(given, &retired(given)?),
    };
    let checkpoint = checkpoint(given)?.or_else(unfinished);
    let place = match &checkpoint {
        Some(of) => of.store.path(of.state.step),
        None => folder?,
    };
    Ok(Found {
        place,
        checkpoint,
        base: None,
    })
}

/// The model of the adapters in `folder`: that in `base`, or the one that they name.
fn named_base(folder: &Path, base: Option<&Path>) -> Result<Box<Base>, TrainError> {
    let (settings, shown) = (read_adapter_settings(folder)?, folder.display());
    let given = base.map(Path::to_path_buf);
    let base = given.or_else(|| base_of(folder, &settings)).ok_or_else(|| {
        TrainError::NoModel(format!(
            "{shown} is an adapter of {}, and no such directory is here: name the model's own, and the \
             adapter with --adapter {shown}",
            match &settings.base {
                Some(base) => format!("{base:?}"),
                None => "a model that it does not name".to_owned(),
            }
        ))
    })?;
    Base::of(folder, &base, settings.fingerprint)
}

impl Base {
    /// The model in `path` that the adapters in `of` belong to, and which is none of adapters itself.
    fn of(of: &Path, path: &Path, fingerprint: Option<String>) -> Result<Box<Self>, TrainError> {
        let found = look(path)?;
        // Its own base is not looked for: it may be this one.
        let has_adapters = match &found.checkpoint {
            Some(checkpoint) => checkpoint.state.base.is_some(),
            None => is_adapter(&found.place),
        };
        if has_adapters {
            return Err(TrainError::NoModel(format!(
                "{} is an adapter of {}, which is an adapter itself: write that one as a model first, with \
                 `infinity export --merge`",
                of.display(),
                found.place.display()
            )));
        }
        Ok(Box::new(Base {
            found,
            path: path.to_path_buf(),
            fingerprint,
        }))
    }
}

/// The model that the run in `run` had finished before it went on.
fn retired(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run).ok()?.flatten();
    let before = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let is_old = |name: &str| name.starts_with(FINAL) && name.contains("-step-");
        name.to_str().is_some_and(is_old) && marker(&entry.path()).is_some()
    };
    entries.filter(before).map(|entry| entry.path()).max()
}

/// The newest checkpoint of `run`, if it is newer than the finished model beside it: the run was
/// resumed with more steps by a program that leaves that model where it is, and did not finish again.
fn newer(run: &Path, finished: &Path) -> Option<Checkpoint> {
    if finished == run {
        return None;
    }
    let store = CheckpointStore::new(run.join(CHECKPOINTS));
    let path = store.path(*store.steps().last()?).join(STATE);
    let newest_state: TrainerState = serde_json::from_str(&read(&path).ok()?).ok()?;
    let config = RunConfig::from_toml(&newest_state.config).ok()?;
    let (steps, seconds) = (config.training.max_steps, config.training.max_seconds);
    let written = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    // How many steps there were to be is only known with the data, or before they end by themselves:
    // then the clock has to say it.
    let is_newer = match steps == 0 || seconds > 0 || config.eval.early_stopping_patience > 0 {
        true => written(&path) > written(&marker(finished)?),
        false => newest_state.step < steps,
    };
    is_newer.then(|| newest(run, finished)).flatten()
}

/// The newest complete checkpoint of `run`, with the model that it is newer than.
fn newest(run: &Path, older: &Path) -> Option<Checkpoint> {
    let store = CheckpointStore::new(run.join(CHECKPOINTS));
    let (state, _) = store.latest().ok()?;
    Some(Checkpoint {
        run: run.to_owned(),
        store,
        state,
        older: Some(older.to_owned()),
    })
}

/// The file that makes `dir` the directory of a model or of adapters.
fn marker(dir: &Path) -> Option<PathBuf> {
    let mut names = [MARKER, ADAPTER_MARKER].into_iter();
    names.find_map(|name| Some(dir.join(name)).filter(|path| path.is_file()))
}

/// The model directory meant by `given`: itself, or `final/` inside a run directory.
fn directory(given: &Path) -> Result<PathBuf, TrainError> {
    let shown = given.display();
    let inside = given.join(FINAL);
    let mut places = [given.to_owned(), inside].into_iter();
    places.find(|dir| marker(dir).is_some()).ok_or_else(|| {
        let saved = CheckpointStore::new(given.to_owned()).steps();
        let hint = match saved.last() {
            Some(last) => format!("; it holds checkpoints: name one, as in {shown}/step-{last}"),
            None if given.join(CHECKPOINTS).is_dir() => format!(
                "; it is a run that has not finished: its `train` command with --resume goes on \
                 with it, and {} is the best model it has made so far",
                given.join(CHECKPOINTS).join(BEST).display()
            ),
            None => String::new(),
        };
        TrainError::NoModel(match given.read_dir().map_err(|why| (why.kind(), why)) {
            Err((io::ErrorKind::NotFound, _)) => format!("there is no model directory {shown}"),
            Err((io::ErrorKind::NotADirectory, _)) => format!(
                "{shown} is a file; a model is a directory with {MARKER} and model.safetensors"
            ),
            Err((_, why)) => format!("cannot read {shown}: {why}"),
            Ok(_) => format!(
                "{shown} is not a model directory: neither {MARKER} nor {FINAL}/{MARKER} is there{hint}"
            ),
        })
    })
}

/// The checkpoint that `given` names, if it is the name of one. Whether it is there or not, a name
/// among checkpoints means nothing else.
fn checkpoint(given: &Path) -> Result<Option<Checkpoint>, TrainError> {
    let name = given.file_name().and_then(OsStr::to_str);
    let (Some(name), Some(parent)) = (name, given.parent()) else {
        return Ok(None);
    };
    let step = name.strip_prefix("step-").and_then(|n| n.parse().ok());
    let around = or_here(parent);
    let store = CheckpointStore::new(around.to_owned());
    let among = around.ends_with(CHECKPOINTS) || !store.steps().is_empty();
    if !among || (step.is_none() && name != BEST) || marker(given).is_some() {
        return Ok(None);
    }
    let best = || store.best().ok_or_else(|| no_best(given, &store));
    let state = store.load(step.map_or_else(best, Ok)?)?;
    let run = around.parent().map(|run| or_here(run).to_owned());
    let run = run.unwrap_or_else(|| around.join(".."));
    Ok(Some(Checkpoint {
        run,
        store,
        state,
        older: None,
    }))
}

/// A relative path of no parts is the present directory.
fn or_here(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

fn no_best(given: &Path, store: &CheckpointStore) -> TrainError {
    let newest = match store.steps().last() {
        Some(step) => format!("the newest is {}", store.path(*step).display()),
        None => "none is complete yet".to_owned(),
    };
    TrainError::NoModel(format!(
        "there is no {}: no checkpoint is known to be the best, which takes validations \
         (`eval.do_eval`) and `checkpoint.keep_best`; {newest}",
        given.display()
    ))
}

impl Found {
    /// Which checkpoint of which run it is, or which adapters of which model, if it is one or the other.
    pub fn describe(&self) -> Option<String> {
        let base = self.base.as_ref().map(|base| base.found.place.display());
        let Some(Checkpoint {
            run, state, older, ..
        }) = &self.checkpoint
        else {
            let folder = self.place.display();
            return base.map(|base| format!("the adapters in {folder} on the model in {base}"));
        };
        let mut text = format!(
            "checkpoint of step {} of the run in {}",
            state.step,
            run.display()
        );
        if let Some(older) = older {
            text += &format!(", which is newer than {}", older.display());
        }
        if let Some(base) = base {
            text += &format!(" on the model in {base}");
        }
        Some(text)
    }

    /// Where it lies: the model directory, the checkpoint or the directory of adapters.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The model directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        let is_one = self.checkpoint.is_none() && self.base.is_none();
        is_one.then_some(&self.place)
    }

    /// What network it is, and what is known of its tokenizer.
    pub(crate) fn about(&self) -> Result<About, TrainError> {
        if let Some(base) = &self.base {
            return base.found.about();
        }
        let Some(checkpoint) = &self.checkpoint else {
            let settings = read_settings(&self.place)?;
            let tokenizer = settings.tokenizer.as_ref();
            return Ok(About {
                is_of_others: settings.is_of_others(),
                begins: tokenizer.is_some_and(Tokenizer::adds_special_tokens),
                model: settings.config,
                notes: settings.notes,
            });
        };
        let config = RunConfig::from_record(&checkpoint.state.config)?;
        Ok(About {
            is_of_others: false,
            begins: config.tokenizer.add_special_tokens,
            model: config.model,
            notes: Vec::new(),
        })
    }

    /// Loads it onto a device, to compute in `precision`, adapters added to the weights. Beside weights that stay in
    /// bf16, adapters stay what they are: a sum would lose most of them.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not fit the others, or the device cannot hold the weights.
    pub fn load(&self, precision: Precision, device: &Device) -> Result<Pretrained, TrainError> {
        let tokenizer = match &self.checkpoint {
            Some(_) => {
                Some(Tokenizer::from_file(self.tokenizer()?).map_err(PretrainedError::from)?)
            }
            None => None,
        };
        if let Some(base) = &self.base {
            let mut loaded = self.adapted(base, own(precision), device)?;
            loaded.tokenizer = tokenizer.or(loaded.tokenizer);
            if precision != Precision::Bf16Weights {
                loaded.model = loaded.model.merged();
            }
            loaded.model = loaded.model.with_precision(precision)?;
            return Ok(loaded);
        }
        let (Some(checkpoint), Some(tokenizer)) = (&self.checkpoint, tokenizer) else {
            return Ok(from_pretrained_in(&self.place, precision, device)?);
        };
        let config = RunConfig::from_record(&checkpoint.state.config)?;
        let (store, step) = (&checkpoint.store, checkpoint.state.step);
        let model = model_of(store, step, config.model.init(device))?;
        let model = model.with_precision(precision)?;
        // Settings of generation may have been changed by hand beside the finished model.
        let older = checkpoint.older.as_ref();
        let settings = older.map(|older| older.join(GENERATION));
        let generation = match settings {
            Some(path) if path.is_file() => GenerationConfig::from_json(&read(&path)?)
                .map_err(|source| PretrainedError::Config { path, source })?,
            _ => generation_of(&tokenizer),
        };
        Ok(Pretrained {
            config: model.config().clone(),
            model,
            generation,
            tokenizer: Some(tokenizer),
            notes: Vec::new(),
        })
    }

    /// The model that its adapters belong to, with them beside its weights.
    fn adapted(
        &self,
        base: &Base,
        precision: Precision,
        device: &Device,
    ) -> Result<Pretrained, TrainError> {
        let found = &base.found;
        let loaded = found.load(precision, device)?;
        if let Some(expected) = &base.fingerprint {
            let is = fingerprint_in_bf16(&loaded.model);
            if is != *expected {
                let (of, base) = (self.place.display(), found.place.display());
                return Err(TrainError::NoModel(format!(
                    "the adapters in {of} belong to a model of other weights ({expected}) than the one in {base} ({is})"
                )));
            }
        }
        let model = match &self.checkpoint {
            None => with_adapter_of(loaded.model, found.directory(), &self.place)?,
            Some(Checkpoint { store, state, .. }) => {
                let config = RunConfig::from_record(&state.config)?;
                let lora = config.lora.wanted().ok_or_else(|| self.no_adapters())?;
                model_of(store, state.step, loaded.model.with_lora(&lora, 0)?)?
            }
        };
        Ok(Pretrained { model, ..loaded })
    }

    fn no_adapters(&self) -> TrainError {
        TrainError::NoModel(format!("{} has no adapters", self.place.display()))
    }

    /// Whether it is adapters and the model that they belong to.
    pub fn has_adapters(&self) -> bool {
        self.base.is_some()
    }

    /// Writes its adapters alone to `dir`, as the Python package PEFT has them.
    ///
    /// # Errors
    /// There are none, or they cannot be loaded or written.
    pub fn save_adapter(&self, dir: &Path, device: &Device) -> Result<(), TrainError> {
        let base = self.base.as_ref().ok_or_else(|| self.no_adapters())?;
        if self.checkpoint.is_none() {
            return Ok(copy_adapter(dir, &self.place)?);
        }
        let model = self.adapted(base, Precision::F32, device)?.model;
        let fingerprint = base.fingerprint.as_deref().unwrap_or_default();
        save_adapter(dir, &model, base.found.directory(), &base.path, fingerprint)?;
        Ok(())
    }

    /// How the conversations were written that it learned from, where the model, adapters or the run of a checkpoint say
    /// so themselves.
    pub fn chat_template(&self) -> Option<PathBuf> {
        let folders = match &self.checkpoint {
            None => vec![self.place.clone()],
            // Earlier versions wrote it with the finished model alone.
            Some(of) => vec![of.run.clone(), of.run.join(FINAL)],
        };
        let mut paths = folders.into_iter().map(|folder| folder.join(TEMPLATE));
        paths.find(|path| path.is_file())
    }

    /// The `tokenizer.json` of the model. That of a checkpoint is there and the one it was trained
    /// with.
    ///
    /// # Errors
    /// It is not.
    pub fn tokenizer(&self) -> Result<PathBuf, TrainError> {
        // Beside that of a base lies how conversations are written.
        let base = self.base.as_ref().map(|base| base.found.tokenizer());
        let base = base.transpose()?;
        let Some(Checkpoint { run, state, .. }) = &self.checkpoint else {
            return Ok(base.unwrap_or_else(|| self.place.join(TOKENIZER)));
        };
        let own = [run.join(TOKENIZER), run.join(FINAL).join(TOKENIZER)];
        let mut places = base.into_iter().chain(own);
        let path = places.find(|path| path.is_file()).ok_or_else(|| {
            let run = run.display();
            TrainError::NoModel(format!(
                "the run in {run} has no {TOKENIZER}, which text needs: earlier versions wrote it at \
                 the end of a run only; its `train` command with --resume writes it"
            ))
        })?;
        let found = Tokenizer::from_file(&path).and_then(|found| found.to_json());
        let found = found.map_err(PretrainedError::from)?;
        if !state.tokenizer.is_empty() && !Fingerprint::matches(&state.tokenizer, found) {
            return Err(TrainError::NoModel(format!(
                "{} is not the tokenizer that the checkpoint of step {} was trained with",
                path.display(),
                state.step
            )));
        }
        Ok(path)
    }

    /// The configuration of the run that made it; of a model that lies in no run, its window.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub fn layers(&self) -> Result<ConfigLayers, TrainError> {
        let layers = ConfigLayers::new();
        let made_by = match &self.checkpoint {
            None => run_config(&self.place),
            Some(checkpoint) => effective(&checkpoint.run),
        };
        if let Some(path) = made_by {
            return Ok(layers.file(&path)?);
        }
        if let Some(Checkpoint { state, .. }) = &self.checkpoint {
            return Ok(layers.text("the checkpoint's configuration", &state.config)?);
        }
        if let Some(base) = &self.base {
            return base.found.layers();
        }
        let path = self.place.join(MARKER);
        let config = config_from_json(&read(&path)?)
            .map_err(|source| PretrainedError::Config { path, source })?;
        let window = config.max_position_embeddings;
        let text = format!("[data]\nmax_seq_length = {window}\n");
        Ok(layers.text("the model's config.json", &text)?)
    }
}

/// What a model computes in while it gets its adapters.
pub(crate) fn own(precision: Precision) -> Precision {
    match precision {
        Precision::Bf16Weights => precision,
        _ => Precision::F32,
    }
}

/// How a model of a run generates: it ends where its tokenizer says that a text does.
pub(crate) fn generation_of(tokenizer: &Tokenizer) -> GenerationConfig {
    GenerationConfig {
        eos_token_id: tokenizer.eos_id().into_iter().collect(),
        ..GenerationConfig::default()
    }
}

/// The configuration of the run whose `final/` the model lies in.
fn run_config(model: &Path) -> Option<PathBuf> {
    effective(model.canonicalize().ok()?.parent()?)
}

fn effective(run: &Path) -> Option<PathBuf> {
    let path = run.join(EFFECTIVE);
    path.is_file().then_some(path)
}

fn read(path: &Path) -> Result<String, PretrainedError> {
    fs::read_to_string(path).map_err(|source| PretrainedError::Read {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_its_final_model() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        let message = |path: &Path| find(path).unwrap_err().to_string();
        let found = |path: &Path| find(path).unwrap().directory().unwrap().to_path_buf();
        assert!(message(&run.join("none")).contains("there is no model directory"));
        assert!(message(run).contains("neither config.json"));
        fs::create_dir_all(run.join(CHECKPOINTS)).unwrap();
        assert!(message(run).contains("--resume") && message(run).contains("checkpoints/best"));
        fs::create_dir_all(run.join(FINAL)).unwrap();
        fs::write(run.join(FINAL).join(MARKER), "{}").unwrap();
        assert_eq!(found(run), run.join(FINAL));
        assert_eq!(found(&run.join(FINAL)), run.join(FINAL));
        assert!(message(&run.join(FINAL).join(MARKER)).contains("is a file"));
        assert_eq!(run_config(&run.join(FINAL)), None);
        fs::write(run.join(EFFECTIVE), "").unwrap();
        assert!(run_config(&run.join(FINAL)).is_some());
    }

    #[test]
    fn a_name_among_checkpoints_is_one_of_them_and_elsewhere_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = dir.path().join("run").join(CHECKPOINTS);
        fs::create_dir_all(checkpoints.join("step-00000002")).unwrap();
        let message = |path: PathBuf| find(&path).unwrap_err().to_string();
        assert!(message(checkpoints.join(BEST)).contains("none is complete yet"));
        assert!(message(checkpoints.join("step-2")).contains("not complete"));
        assert!(message(checkpoints.join("step-3")).contains("no complete checkpoint"));
        assert!(message(checkpoints.join("other")).contains("there is no model directory"));
        for name in [BEST, "step-2"] {
            let model = dir.path().join("models").join(name);
            fs::create_dir_all(&model).unwrap();
            fs::write(model.join(MARKER), "{}").unwrap();
            assert_eq!(find(&model).unwrap().directory(), Some(&*model));
        }
    }
}
