//! Checkpoints: one directory a step, complete or not there.
//!
//! ```text
//! checkpoints/step-00000500/{model,optim,scheduler}.bpk  trainer_state.json  COMPLETE
//!                           stream.safetensors, where a state is carried between windows
//! ```
//!
//! Burn's learner saves its three parts on three threads. They write into a directory of another
//! name; when the last part is there, everything is synced, `COMPLETE` is written with the size
//! and fingerprint of every file, and the directory gets its name. A run that dies on the way
//! leaves a `.tmp-` directory that nobody reads and the next checkpoint removes.

mod best;
mod files;
mod part;

pub use part::Part;

use crate::error::CheckpointError;
use crate::loss_scale::LossScale;
use crate::stream_state::{self, STREAM};
use burn::tensor::Device;
use files::{Mark, remove_if_there, sync_directory, write_error, write_synced};
use infinity_model::ModelState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

const COMPLETE: &str = "COMPLETE";
const STATE: &str = "trainer_state.json";
const PREFIX: &str = "step-";
const TEMPORARY: &str = ".tmp-";
/// Parts that Burn's learner saves.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];

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
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    directory: PathBuf,
    pending: Arc<(Mutex<Pending>, Condvar)>,
}

/// The checkpoint being written.
#[derive(Debug, Default)]
struct Pending {
    state: Option<TrainerState>,
    parts: usize,
    failure: Option<String>,
    outcome: Option<Result<(), String>>,
}

impl CheckpointStore {
    /// The checkpoints in `directory`, which need not exist yet.
    pub fn new(directory: PathBuf) -> Self {
        CheckpointStore {
            directory,
            pending: Arc::default(),
        }
    }

    /// The directory of a step's checkpoint.
    pub fn path(&self, step: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{step:08}"))
    }

    fn temporary(&self, step: u64) -> PathBuf {
        self.directory.join(format!("{TEMPORARY}{PREFIX}{step:08}"))
    }

    /// The parts for Burn's learner: model, optimizer, scheduler.
    pub fn parts(&self) -> [Part; 3] {
        PARTS.map(|name| Part {
            store: self.clone(),
            name,
        })
    }

    /// Announces a checkpoint; the learner's parts follow. `stream` is the state that the next
    /// batch goes on from, if any.
    ///
    /// # Errors
    /// If its directory or the stream's file cannot be made.
    pub fn begin(
        &self,
        state: TrainerState,
        stream: Option<&ModelState>,
    ) -> Result<(), CheckpointError> {
        let temporary = self.temporary(state.step);
        self.remove_unfinished();
        let made = remove_if_there(&temporary).and_then(|()| fs::create_dir_all(&temporary));
        made.map_err(|error| write_error(&temporary, error))?;
        if let Some(stream) = stream {
            let path = temporary.join(STREAM);
            stream_state::save(&path, stream).map_err(|error| {
                let _ = remove_if_there(&temporary);
                write_error(&path, error)
            })?;
        }
        *self.pending.0.lock().expect("no writer panicked") = Pending {
            state: Some(state),
            ..Pending::default()
        };
        Ok(())
    }

    /// Removes what runs that died on the way have left.
    fn remove_unfinished(&self) {
        let unfinished = format!("{TEMPORARY}{PREFIX}");
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&unfinished) {
                // It is in nobody's way but the disk's.
                let _ = remove_if_there(&entry.path());
            }
        }
    }

    /// Waits for the announced checkpoint.
    ///
    /// # Errors
    /// If a part could not be written.
    pub fn finish(&self, step: u64) -> Result<(), CheckpointError> {
        let (lock, ready) = &*self.pending;
        let mut pending = lock.lock().expect("no writer panicked");
        let outcome = loop {
            match pending.outcome.take() {
                Some(outcome) => break outcome,
                None => pending = ready.wait(pending).expect("no writer panicked"),
            }
        };
        drop(pending);
        outcome.map_err(|reason| {
            let _ = remove_if_there(&self.temporary(step));
            CheckpointError::Write {
                path: self.path(step),
                reason,
            }
        })
    }

    /// Notes that a part was saved; the last one completes the checkpoint.
    fn part_done(&self, step: u64, saved: Result<(), String>) {
        let (lock, ready) = &*self.pending;
        let mut pending = lock.lock().expect("no writer panicked");
        pending.parts += 1;
        if let Err(reason) = saved {
            pending.failure.get_or_insert(reason);
        }
        // Not before the last part, so that nobody writes any more when a failure is cleaned up.
        if pending.parts == PARTS.len() {
            let state = pending.state.take().expect("announced by begin");
            debug_assert_eq!(state.step, step);
            pending.outcome = Some(match pending.failure.take() {
                Some(reason) => Err(reason),
                None => self.complete(&state).map_err(|error| error.to_string()),
            });
            ready.notify_all();
        }
    }

    /// Writes the state and the marker, syncs everything, gives the directory its name.
    fn complete(&self, state: &TrainerState) -> io::Result<()> {
        let temporary = self.temporary(state.step);
        write_synced(&temporary.join(STATE), &serde_json::to_vec_pretty(state)?)?;
        let mut marks = BTreeMap::new();
        for entry in fs::read_dir(&temporary)? {
            let path = entry?.path();
            File::open(&path)?.sync_all()?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            marks.insert(name, Mark::of(&path, None)?);
        }
        write_synced(
            &temporary.join(COMPLETE),
            &serde_json::to_vec_pretty(&marks)?,
        )?;
        sync_directory(&temporary)?;
        let path = self.path(state.step);
        remove_if_there(&path)?;
        fs::rename(&temporary, &path)?;
        sync_directory(&self.directory)
    }

    /// The step of a checkpoint directory of this run.
    ///
    /// # Errors
    /// If `path` is another directory.
    pub fn step_of(&self, path: &Path) -> Result<u64, CheckpointError> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = real.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let ours = |step: &u64| {
            self.path(*step)
                .canonicalize()
                .is_ok_and(|ours| ours == real)
        };
        step.filter(ours).ok_or_else(|| CheckpointError::Elsewhere {
            path: path.to_path_buf(),
            directory: self.directory.clone(),
        })
    }

    /// Steps with a complete checkpoint, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let mut steps: Vec<u64> = entries
            .filter(|entry| entry.path().join(COMPLETE).is_file())
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix(PREFIX)?
                    .parse()
                    .ok()
            })
            .collect();
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
        match damaged.into_iter().next() {
            Some(error) => Err(error),
            None => Err(self.none()),
        }
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
            return Err(match self.steps() {
                steps if steps.is_empty() => self.none(),
                steps => CheckpointError::NoStep {
                    step,
                    directory: self.directory.clone(),
                    steps,
                },
            });
        }
        if !marker.is_file() {
            return Err(CheckpointError::Incomplete { path: directory });
        }
        let damaged = |path: &Path, reason: String| CheckpointError::Damaged {
            path: path.to_path_buf(),
            reason,
        };
        let text = fs::read(&marker).map_err(|error| damaged(&marker, error.to_string()))?;
        let marks: BTreeMap<String, Mark> =
            serde_json::from_slice(&text).map_err(|error| damaged(&marker, error.to_string()))?;
        let needed = PARTS.map(|part| format!("{part}.bpk"));
        let needed = needed.iter().map(String::as_str).chain([STATE]);
        if let Some(name) = needed.into_iter().find(|name| !marks.contains_key(*name)) {
            return Err(damaged(&marker, format!("it does not list {name}")));
        }
        for (name, mark) in marks {
            let path = directory.join(name);
            let found =
                Mark::of(&path, Some(&mark)).map_err(|error| damaged(&path, error.to_string()))?;
            if found != mark {
                return Err(damaged(&path, found.differs_from(&mark)));
            }
        }
        let path = directory.join(STATE);
        let text = fs::read(&path).map_err(|error| damaged(&path, error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))
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
        let state = stream_state::load(&path, device);
        state
            .map(Some)
            .map_err(|reason| CheckpointError::Damaged { path, reason })
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
            let (path, temporary) = (self.path(*step), self.temporary(*step));
            let _ = fs::rename(&path, &temporary).and_then(|()| remove_if_there(&temporary));
        }
        settled
    }
}
