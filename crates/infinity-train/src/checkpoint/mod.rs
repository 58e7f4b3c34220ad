//! Checkpoints: one directory a step, complete or not there.
//!
//! ```text
//! checkpoints/step-00000500/{model,optim}.bpk  trainer_state.json  COMPLETE
//!                           stream.safetensors, where a state is carried between windows
//!             best          names the one with the lowest validation loss
//! ```
//!
//! Where adapters learn, `model.bpk` holds them alone, and the state says which model they belong to.
//! A checkpoint is written under another name. When everything is there, `COMPLETE` is written with
//! the size and fingerprint of every file, and the directory gets its name. A run that dies on the
//! way leaves a directory that nobody reads and the next checkpoint removes.

use crate::config::RunConfig;
use crate::error::CheckpointError;
use crate::optimizer::Optimizer;
use crate::step::Trainee;
use crate::step::loss_scale::LossScale;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use infinity_files::{Fingerprint, PartialDirectory, remove_directory};
use infinity_model::{InfinityModel, ModelState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const COMPLETE: &str = "COMPLETE";
pub(crate) const STATE: &str = "trainer_state.json";
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optim.bpk";
/// What the model remembers between windows: a state file without the fingerprint of a model, which lies beside it. It
/// is not there where no state was carried.
const STREAM: &str = "stream.safetensors";
pub(crate) const BEST: &str = "best";
pub(crate) const PREFIX: &str = "step-";
/// What versions before 0.2 began the name of a checkpoint in the making with.
const OLD_TEMPORARY: &str = ".tmp-";

/// Whether a file of this name is part of a checkpoint, of this version or an earlier one.
pub(crate) fn is_part(name: &str) -> bool {
    [COMPLETE, STATE, MODEL, OPTIMIZER, STREAM, "scheduler.bpk"].contains(&name)
        // Burn's writer, when it is killed.
        || name.ends_with(".tmp")
}

/// What a run knows besides parameters, moments and schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps done.
    pub step: u64,
    /// Micro-batches taken from the data source: where the data goes on.
    pub micro_step: u64,
    /// Training tokens seen.
    pub tokens: u64,
    /// Steps left out because something was not finite.
    pub skipped: u64,
    /// Scale of the loss, where the precision needs one.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Lowest validation loss so far.
    pub best_loss: Option<f64>,
    /// Step it was measured at.
    pub best_step: u64,
    /// Validations since then: what early stopping counts.
    #[serde(default)]
    pub stale_evals: u64,
    /// Steps in a row that were lost: what the watchdog counts.
    #[serde(default)]
    pub lost_in_a_row: u64,
    /// Steps in a row that overflowed in f16: what the loss scale is made for, and not counted above.
    #[serde(default)]
    pub overflows_in_a_row: u64,
    /// Whether the validation that falls on this step was broken off, and is to be done again.
    #[serde(default)]
    pub validation_owed: bool,
    /// Optimizer steps of the whole run; 0 in the state of a run that did not note them.
    #[serde(default)]
    pub total_steps: u64,
    /// The configuration, as TOML: what resumption is checked against.
    pub config: String,
    /// Fingerprint of the training text; empty in the state of a run that did not note it.
    #[serde(default)]
    pub text: String,
    /// Checksum of the training tokens; empty in the state of a run that did not note it.
    #[serde(default)]
    pub train_tokens: String,
    /// Checksum of the validation tokens; empty in the state of a run that did not note it.
    #[serde(default)]
    pub validation_tokens: String,
    /// Fingerprint of the tokenizer; empty in the state of a run that did not note it.
    #[serde(default)]
    pub tokenizer: String,
    /// The model that the run's adapters belong to, if adapters are what learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

/// A model whose weights do not learn, and are not in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its directory, or that of the run or checkpoint.
    pub path: PathBuf,
    /// What its weights are.
    pub fingerprint: String,
}

impl TrainerState {
    /// The step whose checkpoint is kept as the best, if one is.
    pub(crate) fn best(&self, config: &RunConfig) -> Option<u64> {
        let kept = config.checkpoint.keep_best && self.best_loss.is_some();
        kept.then_some(self.best_step)
    }
}

/// Size and fingerprint of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    bytes: u64,
    fingerprint: String,
}

impl Mark {
    fn of(path: &Path, mut hash: Fingerprint) -> io::Result<Self> {
        Ok(Mark {
            bytes: hash.file(path)?,
            fingerprint: hash.hex(),
        })
    }
}

/// Writes `COMPLETE`, with the mark of every other file in `folder`.
fn mark(folder: &Path) -> io::Result<()> {
    let mut marks = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        marks.insert(name, Mark::of(&entry.path(), Fingerprint::default())?);
    }
    infinity_files::write(&folder.join(COMPLETE), &serde_json::to_vec_pretty(&marks)?)
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    directory: PathBuf,
}

impl CheckpointStore {
    /// The checkpoints in `directory`, which need not exist yet.
    pub fn new(directory: PathBuf) -> Self {
        CheckpointStore { directory }
    }

    /// The directory of a step's checkpoint.
    pub fn path(&self, step: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{step:08}"))
    }

    /// Writes the checkpoint of `state`'s step, in the place of one that may be there, and which stays if
    /// this fails. `stream` is the state that the next batch goes on from, if any.
    pub(crate) fn write(
        &self,
        state: &TrainerState,
        stream: Option<&ModelState>,
        trainee: &Trainee,
        optimizer: &Optimizer,
    ) -> Result<(), CheckpointError> {
        let target = self.path(state.step);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.directory)?;
            for path in self.entries() {
                let name = path.file_name().unwrap_or_default();
                if name.to_string_lossy().starts_with(OLD_TEMPORARY) {
                    // It is in nobody's way but the disk's.
                    let _ = fs::remove_dir_all(path);
                }
            }
            let partial = PartialDirectory::create(&target)?;
            let folder = partial.path();

            let trainee = trainee.clone();
            let record = match trainee.model.lora() {
                Some(_) => trainee.into_record_group(InfinityModel::adapters()),
                None => trainee.into_record(),
            };
            let put = |name: &str, bytes: &[u8]| infinity_files::write(&folder.join(name), bytes);
            put(MODEL, &record.into_bytes().map_err(io::Error::other)?)?;
            put(OPTIMIZER, &optimizer.to_bytes().map_err(io::Error::other)?)?;
            if let Some(state) = stream {
                let bytes = state.to_bytes(None).map_err(io::Error::other)?;
                fs::write(folder.join(STREAM), bytes)?;
            }
            put(STATE, &serde_json::to_vec_pretty(state)?)?;
            mark(folder)?;
            partial.rename_to(&target)
        };
        write().map_err(|error| {
            let path = target.display();
            CheckpointError::Write(format!("cannot write the checkpoint {path}: {error}"))
        })
    }

    fn entries(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = fs::read_dir(&self.directory).into_iter();
        entries.flatten().flatten().map(|entry| entry.path())
    }

    /// `trainee` with the weights of a step's checkpoint, on its own device and in its own number formats.
    pub(crate) fn weights(&self, step: u64, trainee: Trainee) -> Result<Trainee, CheckpointError> {
        let path = self.path(step).join(MODEL);
        let partial = trainee.model.lora().is_some();
        let record = ModuleRecord::load(&path);
        let record = record.map(|record| record.allow_partial(partial).cast_to_module_dtype());
        let loaded = record.and_then(|record| trainee.try_load_record(record));
        loaded.map_err(|error| damaged(&path, error))
    }

    pub(crate) fn optimizer(&self, step: u64) -> PathBuf {
        self.path(step).join(OPTIMIZER)
    }

    /// The step of a checkpoint directory of this run.
    ///
    /// # Errors
    /// If `path` is another directory.
    pub fn step_of(&self, path: &Path) -> Result<u64, CheckpointError> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let ours = |step: &u64| self.path(*step).canonicalize().ok().as_ref() == Some(&real);
        step_in(&real).filter(ours).ok_or_else(|| {
            CheckpointError::Missing(format!(
                "{} is no checkpoint of this run, whose checkpoints are in {}",
                path.display(),
                self.directory.display()
            ))
        })
    }

    /// Steps with a complete checkpoint, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        let complete = self.entries().filter(|path| path.join(COMPLETE).is_file());
        let mut steps: Vec<u64> = complete.filter_map(|path| step_in(&path)).collect();
        steps.sort_unstable();
        steps
    }

    /// The state of the newest complete and undamaged checkpoint, and what was wrong with newer
    /// ones.
    ///
    /// # Errors
    /// If there is none.
    pub fn latest(&self) -> Result<(TrainerState, Vec<CheckpointError>), CheckpointError> {
        let mut damaged = Vec::new();
        for step in self.steps().into_iter().rev() {
            match self.load(step) {
                Ok(state) => return Ok((state, damaged)),
                Err(error) => damaged.push(error),
            }
        }
        Err(damaged.into_iter().next().unwrap_or_else(|| self.none()))
    }

    fn none(&self) -> CheckpointError {
        CheckpointError::None {
            path: self.directory.clone(),
            found: None,
        }
    }

    /// Checks every file of a step's checkpoint and gives its state.
    ///
    /// # Errors
    /// If it is not complete or not what was written.
    pub fn load(&self, step: u64) -> Result<TrainerState, CheckpointError> {
        let directory = self.path(step);
        let marker = directory.join(COMPLETE);
        if !directory.is_dir() {
            let (steps, folder) = (self.steps(), self.directory.display());
            if steps.is_empty() {
                return Err(self.none());
            }
            let there = listed(&steps);
            return Err(CheckpointError::Missing(format!(
                "there is no checkpoint of step {step} in {folder}; there are those of {there}"
            )));
        }
        if !marker.is_file() {
            return Err(damaged(
                &directory,
                "it is not complete (no COMPLETE file): it was being written when the run ended",
            ));
        }
        let marks: BTreeMap<String, Mark> = read(&marker)?;
        let needed = [MODEL, OPTIMIZER, STATE];
        if let Some(name) = needed.into_iter().find(|name| !marks.contains_key(*name)) {
            return Err(damaged(&marker, format!("it does not list {name}")));
        }
        for (name, mark) in marks {
            let path = directory.join(name);
            let found = Mark::of(&path, Fingerprint::like(&mark.fingerprint));
            let found = found.map_err(|error| damaged(&path, error))?;
            let (is, was) = (found.bytes, mark.bytes);
            if is != was {
                let reason = format!("it has {is} bytes and was written with {was}");
                return Err(damaged(&path, reason));
            }
            if found.fingerprint != mark.fingerprint {
                let reason = "its fingerprint is not that of what was written";
                return Err(damaged(&path, reason));
            }
        }
        read(&directory.join(STATE))
    }

    /// The state that the batch after a step's checkpoint goes on from, on `device`, if it has one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn stream(
        &self,
        step: u64,
        device: &Device,
    ) -> Result<Option<ModelState>, CheckpointError> {
        let path = self.path(step).join(STREAM);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(|error| damaged(&path, error))?;
        let state = ModelState::from_bytes(&bytes, device);
        state.map(Some).map_err(|error| damaged(&path, error))
    }

    /// Removes all checkpoints up to `step`, which was written last, but the newest `keep_last`
    /// (0 keeps all) and those at `best` and `good`; and all after it: a run that went back to an
    /// older checkpoint makes them again. The note of the best then names one that is there.
    ///
    /// # Errors
    /// If the note cannot be written; there is none then.
    pub fn prune(
        &self,
        step: u64,
        keep_last: usize,
        best: Option<u64>,
        good: Option<u64>,
    ) -> Result<(), CheckpointError> {
        let steps = self.steps();
        let (before, after) = steps.split_at(steps.partition_point(|at| *at <= step));
        let surplus = match keep_last {
            0 => 0,
            _ => before.len().saturating_sub(keep_last),
        };
        // Before anything goes: a run that is killed here must not leave a note of what is gone.
        let settled = self.settle_best(best);
        let kept = |step: u64| [best, good].contains(&Some(step));
        let old = before[..surplus].iter().filter(|at| !kept(**at));
        for step in old.chain(after) {
            // Half of a checkpoint must not have its name. What cannot be removed is only in the
            // way; it is tried again next time.
            let _ = remove_directory(&self.path(*step));
        }
        settled
    }

    fn note(&self) -> PathBuf {
        self.directory.join(BEST)
    }

    /// The step that is named the best.
    pub fn best(&self) -> Option<u64> {
        let note = fs::read_to_string(self.note()).ok()?;
        note.trim().strip_prefix(PREFIX)?.parse().ok()
    }

    /// Makes the note name the checkpoint of `best`, for people and for [`prune`](Self::prune). There is none where that
    /// checkpoint is not there, or where the note cannot be written: an old one would name another.
    pub(crate) fn settle_best(&self, best: Option<u64>) -> Result<(), CheckpointError> {
        let best = best.filter(|step| self.path(*step).join(COMPLETE).is_file());
        if best == self.best() {
            return Ok(());
        }
        let note = self.note();
        let meant = match best {
            Some(step) => format!("the best checkpoint is that of step {step}"),
            None => "no checkpoint is the best".to_owned(),
        };
        let settled = match best {
            Some(step) => infinity_files::write(&note, format!("{PREFIX}{step:08}\n").as_bytes()),
            None => fs::remove_file(&note),
        };
        settled.map_err(|error| {
            let _ = fs::remove_file(&note);
            let note = note.display();
            CheckpointError::Write(format!("cannot write the note {note}: {error}; {meant}"))
        })
    }
}

/// The step that a checkpoint's directory is named after.
fn step_in(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = fs::read(path).map_err(|error| damaged(path, error))?;
    serde_json::from_slice(&text).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, reason: impl Display) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// The last steps of many.
fn listed(steps: &[u64]) -> String {
    const SHOWN: usize = 10;
    let earlier = steps.len().saturating_sub(SHOWN);
    let last: Vec<String> = steps[earlier..].iter().map(u64::to_string).collect();
    let last = last.join(", ");
    match earlier {
        0 => format!("the steps {last}"),
        _ => format!("{earlier} earlier steps and {last}"),
    }
}

/// `model` with the weights of a step's checkpoint, to use and not to train. Weights in half precision become f32.
///
/// # Errors
/// They cannot be read, or are of another model.
pub fn model_of(
    store: &CheckpointStore,
    step: u64,
    model: InfinityModel,
) -> Result<InfinityModel, CheckpointError> {
    Ok(store.weights(step, Trainee::new(model, 0))?.model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tensor, TensorData};
    use infinity_files::faults::{Fault, inject};
    use infinity_model::config::Mixer;
    use infinity_model::{LayerState, ModelConfig};

    /// A store with checkpoints of these steps, as far as the note is concerned.
    fn store(steps: &[u64]) -> (tempfile::TempDir, CheckpointStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path().to_path_buf());
        for step in steps {
            fs::create_dir(store.path(*step)).unwrap();
            fs::write(store.path(*step).join(COMPLETE), "").unwrap();
        }
        (folder, store)
    }

    #[test]
    fn a_note_that_cannot_be_written_names_no_other_checkpoint() {
        let (folder, store) = store(&[2, 4]);
        store.settle_best(Some(2)).unwrap();
        assert_eq!(store.best(), Some(2));
        let full = inject(folder.path(), 0, Fault::Error(io::ErrorKind::StorageFull));
        let message = store.prune(4, 0, Some(4), None).unwrap_err().to_string();
        assert!(full.happened());
        drop(full);
        let full = io::Error::from(io::ErrorKind::StorageFull).to_string();
        for words in ["cannot write the note", "best", &full, "step 4"] {
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(store.best(), None);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "nothing is left"
        );
        store.settle_best(Some(4)).unwrap();
        assert_eq!(store.best(), Some(4));
    }

    fn used_state(mixer: Mixer) -> (ModelConfig, ModelState) {
        let config = ModelConfig {
            vocab_size: 5,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            mixer,
            ..ModelConfig::first()
        };
        let model = config.init(&Device::flex());
        let tokens = TensorData::new(vec![0, 1, 2, 3, 4, 0], [2, 3]);
        let tokens = Tensor::from_data(tokens, &Device::flex());
        let (_, mut state) = model.forward(tokens, model.initial_state(2));
        state.position = vec![3, u64::MAX - 7];
        (config, state)
    }

    /// Shape and numbers; the debug text of a tensor shows its first few alone.
    fn numbers<const D: usize>(x: &Tensor<D>) -> ([usize; D], Vec<f32>) {
        (x.dims(), x.to_data().iter::<f32>().collect())
    }

    /// Both states as text: every number, every shape.
    fn shown(state: &ModelState) -> String {
        let layers = state.layers.iter().map(|layer| match layer {
            LayerState::Infinity { memory, tails } => {
                let tails: Vec<_> = tails.iter().map(numbers).collect();
                format!("{:?} {tails:?}", numbers(memory))
            }
            LayerState::Softmax { cache } => {
                let filled = cache.filled().map(|filled| filled.each_ref().map(numbers));
                format!("{filled:?} {:?}", cache.starts())
            }
        });
        format!("{:?} {:?}", state.position, layers.collect::<Vec<_>>())
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let (_folder, store) = store(&[2]);
        let path = store.path(2).join(STREAM);
        let save = |state: &ModelState| fs::write(&path, state.to_bytes(None).unwrap()).unwrap();
        let load = || store.stream(2, &Device::flex()).map(Option::unwrap);
        for mixer in [Mixer::Infinity, Mixer::Softmax] {
            let (config, state) = used_state(mixer);
            save(&state);
            let loaded = load().unwrap();
            assert_eq!(shown(&loaded), shown(&state));
            let fresh = config.init(&Device::flex()).initial_state(2);
            assert_ne!(shown(&fresh), shown(&state));
            save(&fresh);
            assert_eq!(shown(&load().unwrap()), shown(&fresh));
        }
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(load().is_err());
    }
}
