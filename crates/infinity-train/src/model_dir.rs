//! Where the model is: a model directory, a run directory that holds one, or a checkpoint of a run.

use crate::checkpoint::{CheckpointStore, TrainerState, model_of};
use crate::config::{ConfigLayers, RunConfig};
use crate::error::TrainError;
use crate::run_dir::{CHECKPOINTS, EFFECTIVE, FINAL, TOKENIZER};
use infinity_files::Fingerprint;
use infinity_model::burn::tensor::Device;
use infinity_model::pretrained::config_from_json;
use infinity_model::{
    GenerationConfig, Precision, Pretrained, PretrainedError, Tokenizer, from_pretrained_in,
};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// What makes a directory a model directory.
const MARKER: &str = "config.json";

/// Settings of generation beside a finished model.
const GENERATION: &str = "generation_config.json";

/// The file of a checkpoint that says at which step it is.
const STATE: &str = "trainer_state.json";

/// The note among checkpoints that names the best.
const BEST: &str = "best";

/// A model that was found and not loaded yet.
#[derive(Debug)]
pub enum Found {
    /// A model directory.
    Directory(PathBuf),
    /// What a run had learned at some step.
    Checkpoint(Box<Checkpoint>),
}

/// A complete checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    run: PathBuf,
    store: CheckpointStore,
    state: TrainerState,
    /// The run's finished model, which is older than this checkpoint.
    older: Option<PathBuf>,
}

/// The model meant by `given`: a model directory, a run directory, or `checkpoints/step-N` or
/// `checkpoints/best` in a run directory.
///
/// # Errors
/// There is no such directory, or no model in it; the message says what was looked for.
pub fn find(given: &Path) -> Result<Found, TrainError> {
    if let Some(checkpoint) = checkpoint(given)? {
        return Ok(Found::Checkpoint(Box::new(checkpoint)));
    }
    match (directory(given), retired(given)) {
        (Ok(found), _) => Ok(match newer(given, &found) {
            Some(checkpoint) => Found::Checkpoint(Box::new(checkpoint)),
            None => Found::Directory(found),
        }),
        (Err(error), old) => match old.and_then(|old| newest(given, &old)) {
            Some(checkpoint) => Ok(Found::Checkpoint(Box::new(checkpoint))),
            None => Err(error),
        },
    }
}

/// The model that the run in `run` had finished before it went on.
fn retired(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run).ok()?.flatten();
    let before = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let is_old = |name: &str| name.starts_with(FINAL) && name.contains("-step-");
        name.to_str().is_some_and(is_old) && entry.path().join(MARKER).is_file()
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
        true => written(&path) > written(&finished.join(MARKER)),
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

/// The model directory meant by `given`: itself, or `final/` inside a run directory.
fn directory(given: &Path) -> Result<PathBuf, TrainError> {
    let shown = given.display();
    if !given.exists() {
        return Err(TrainError::NoModel(format!(
            "there is no model directory {shown}"
        )));
    }
    if !given.is_dir() {
        return Err(TrainError::NoModel(format!(
            "{shown} is a file; a model is a directory with {MARKER} and model.safetensors"
        )));
    }
    let inside = given.join(FINAL);
    let mut places = [given.to_owned(), inside].into_iter();
    places.find(|dir| dir.join(MARKER).is_file()).ok_or_else(|| {
        let hint = match given.join(CHECKPOINTS).is_dir() {
            true => format!(
                "; it is a run that has not finished: its `train` command with --resume goes on \
                 with it, and {} is the best model it has made so far",
                given.join(CHECKPOINTS).join(BEST).display()
            ),
            false => String::new(),
        };
        TrainError::NoModel(format!(
            "{shown} is not a model directory: neither {MARKER} nor {FINAL}/{MARKER} is there{hint}"
        ))
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
    if !among || (step.is_none() && name != BEST) || given.join(MARKER).is_file() {
        return Ok(None);
    }
    let step = match step.or_else(|| store.best()) {
        Some(step) => step,
        None => return Err(no_best(given, &store)),
    };
    let state = store.load(step)?;
    let run = match around.parent() {
        Some(run) => or_here(run).to_owned(),
        None => around.join(".."),
    };
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
    /// Which checkpoint of which run it is, if it is one.
    pub fn describe(&self) -> Option<String> {
        let Found::Checkpoint(checkpoint) = self else {
            return None;
        };
        let (step, run) = (checkpoint.state.step, checkpoint.run.display());
        let than = checkpoint.older.as_ref().map_or_else(String::new, |older| {
            format!(", which is newer than {}", older.display())
        });
        Some(format!(
            "checkpoint of step {step} of the run in {run}{than}"
        ))
    }

    /// Loads it onto a device, to compute in `precision`.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not fit the others, or the device cannot hold the weights.
    pub fn load(&self, precision: Precision, device: &Device) -> Result<Pretrained, TrainError> {
        let checkpoint = match self {
            Found::Directory(directory) => {
                return Ok(from_pretrained_in(directory, precision, device)?);
            }
            Found::Checkpoint(checkpoint) => checkpoint,
        };
        let path = self.tokenizer()?;
        let tokenizer = Tokenizer::from_file(path).map_err(PretrainedError::from)?;
        let model = model_of(&checkpoint.store, &checkpoint.state, device)?;
        let model = model.with_precision(precision)?;
        // Settings of generation may have been changed by hand beside the finished model.
        let settings = checkpoint
            .older
            .as_ref()
            .map(|older| older.join(GENERATION));
        let generation = match settings {
            Some(path) if path.is_file() => GenerationConfig::from_json(&read(&path)?)
                .map_err(|source| PretrainedError::Config { path, source })?,
            _ => GenerationConfig {
                eos_token_id: tokenizer.eos_id().into_iter().collect(),
                ..GenerationConfig::default()
            },
        };
        Ok(Pretrained {
            config: model.config().clone(),
            model,
            generation,
            tokenizer: Some(tokenizer),
            notes: Vec::new(),
        })
    }

    /// The `tokenizer.json` of the model. That of a checkpoint is there and the one it was trained
    /// with.
    ///
    /// # Errors
    /// It is not.
    pub fn tokenizer(&self) -> Result<PathBuf, TrainError> {
        let checkpoint = match self {
            Found::Directory(directory) => return Ok(directory.join(TOKENIZER)),
            Found::Checkpoint(checkpoint) => checkpoint,
        };
        let run = &checkpoint.run;
        let mut places = [run.join(TOKENIZER), run.join(FINAL).join(TOKENIZER)].into_iter();
        let path = places.find(|path| path.is_file()).ok_or_else(|| {
            TrainError::NoModel(format!(
                "the run in {} has no {TOKENIZER}, which text needs: earlier versions wrote it at \
                 the end of a run only; its `train` command with --resume writes it",
                run.display()
            ))
        })?;
        let found = Tokenizer::from_file(&path).and_then(|found| found.to_json());
        let (expected, found) = (
            &checkpoint.state.tokenizer,
            found.map_err(PretrainedError::from)?,
        );
        if !expected.is_empty() && !Fingerprint::matches(expected, found) {
            return Err(TrainError::NoModel(format!(
                "{} is not the tokenizer that the checkpoint of step {} was trained with",
                path.display(),
                checkpoint.state.step
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
        let path = match self {
            Found::Directory(directory) => run_config(directory),
            Found::Checkpoint(checkpoint) => effective(&checkpoint.run),
        };
        Ok(match (path, self) {
            (Some(path), _) => layers.file(&path)?,
            (None, Found::Checkpoint(checkpoint)) => {
                layers.text("the checkpoint's configuration", &checkpoint.state.config)?
            }
            (None, Found::Directory(directory)) => {
                let window = window(directory)?;
                layers.text(
                    "the model's config.json",
                    &format!("[data]\nmax_seq_length = {window}\n"),
                )?
            }
        })
    }
}

/// The configuration of the run whose `final/` the model lies in.
fn run_config(model: &Path) -> Option<PathBuf> {
    effective(model.canonicalize().ok()?.parent()?)
}

/// The configuration that a run was made by.
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

/// The training window in a model's `config.json`.
fn window(directory: &Path) -> Result<usize, TrainError> {
    let path = directory.join(MARKER);
    let config = config_from_json(&read(&path)?);
    let config = config.map_err(|source| PretrainedError::Config { path, source })?;
    Ok(config.max_position_embeddings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_its_final_model() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        let message = |path: &Path| find(path).unwrap_err().to_string();
        let found = |path: &Path| match find(path).unwrap() {
            Found::Directory(directory) => directory,
            Found::Checkpoint(checkpoint) => panic!("{checkpoint:?}"),
        };
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
            assert!(matches!(find(&model).unwrap(), Found::Directory(found) if found == model));
        }
    }
}
