//! The note `best`: which checkpoint had the lowest validation loss.

use super::files::{sync_directory, write_synced};
use super::{COMPLETE, CheckpointStore, PREFIX, TrainerState};
use crate::config::RunConfig;
use crate::error::CheckpointError;
use std::fs;
use std::io;
use std::path::PathBuf;

const BEST: &str = "best";

impl TrainerState {
    /// The step whose checkpoint is kept as the best, if one is.
    pub(crate) fn best(&self, config: &RunConfig) -> Option<u64> {
        let kept = config.checkpoint.keep_best && self.best_loss.is_some();
        kept.then_some(self.best_step)
    }
}

impl CheckpointStore {
    fn note(&self) -> PathBuf {
        self.directory.join(BEST)
    }

    /// Names the best checkpoint, for people and for [`prune`](Self::prune).
    ///
    /// # Errors
    /// If the note cannot be written; there is none then, because an old one would name another.
    pub fn mark_best(&self, step: u64) -> Result<(), CheckpointError> {
        let (temporary, path) = (self.directory.join(".tmp-best"), self.note());
        let written = write_synced(&temporary, format!("{PREFIX}{step:08}\n").as_bytes())
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| sync_directory(&self.directory));
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            let _ = fs::remove_file(&path);
            let meant = format!("the best checkpoint is that of step {step}");
            self.note_error(error, meant)
        })
    }

    /// The step that is named the best.
    pub fn best(&self) -> Option<u64> {
        let note = fs::read_to_string(self.note()).ok()?;
        note.trim().strip_prefix(PREFIX)?.parse().ok()
    }

    /// Makes the note name the checkpoint of `best`, or goes without one where that is not there.
    ///
    /// # Errors
    /// As [`mark_best`](Self::mark_best).
    pub(crate) fn settle_best(&self, best: Option<u64>) -> Result<(), CheckpointError> {
        match best.filter(|step| self.path(*step).join(COMPLETE).is_file()) {
            there if there == self.best() => Ok(()),
            Some(step) => self.mark_best(step),
            None => match fs::remove_file(self.note()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(self.note_error(error, "no checkpoint is the best".to_owned()))
                }
                _ => Ok(()),
            },
        }
    }

    fn note_error(&self, error: io::Error, meant: String) -> CheckpointError {
        CheckpointError::Note {
            path: self.note(),
            reason: error.to_string(),
            meant,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

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

    /// A link to a device that is always full stands for a full disk.
    #[test]
    fn a_note_that_cannot_be_written_names_no_other_checkpoint() {
        let (folder, store) = store(&[2, 4]);
        store.settle_best(Some(2)).unwrap();
        assert_eq!(store.best(), Some(2));
        let temporary = folder.path().join(".tmp-best");
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        let message = store.prune(4, 0, Some(4), None).unwrap_err().to_string();
        for words in ["cannot write the note", "best", "No space", "step 4"] {
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(store.best(), None);
        assert!(temporary.symlink_metadata().is_err(), "nothing is left");
        store.settle_best(Some(4)).unwrap();
        assert_eq!(store.best(), Some(4));
    }
}
