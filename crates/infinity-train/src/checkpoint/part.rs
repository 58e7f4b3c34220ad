//! The three parts of a checkpoint, as Burn's learner saves and restores them.

use super::CheckpointStore;
use burn::optim::OptimizerRecord;
use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use std::path::PathBuf;

/// One of the three parts of a checkpoint, as Burn's learner sees it. Its "epochs" are steps.
pub struct Part {
    pub(super) store: CheckpointStore,
    pub(super) name: &'static str,
}

impl Part {
    fn file(&self, directory: PathBuf) -> PathBuf {
        directory.join(format!("{}.bpk", self.name))
    }

    fn save_part<R: Checkpoint>(&self, step: usize, record: R) {
        let path = self.file(self.store.temporary(step as u64));
        // A full disk can show as an error or as a panic on the way down.
        let saved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| record.save(path)));
        let saved = match saved {
            Ok(saved) => saved.map_err(|error| without_layers(&error.to_string())),
            Err(_) => Err("the writer panicked".to_owned()),
        };
        self.store.part_done(step as u64, saved);
    }

    fn restore_part<R: Checkpoint>(&self, step: usize) -> Result<R, CheckpointerError> {
        R::load(self.file(self.store.path(step as u64)))
    }
}

/// What the system said, without the layers it came through, each of which names itself, and
/// without the temporary file that nobody will find.
fn without_layers(message: &str) -> String {
    let mut rest = message;
    for layer in ["Record error: `", "Record I/O error: ", "I/O error: "] {
        rest = rest.strip_prefix(layer).unwrap_or(rest);
    }
    let reason = match rest.split_once("': ") {
        Some((place, reason)) if place.starts_with("cannot write to '") => reason,
        _ => rest,
    };
    reason.trim_end_matches('`').to_owned()
}

macro_rules! part_of {
    ($($record:ty),+) => {$(
        impl Checkpointer<$record> for Part {
            fn save(&self, step: usize, record: $record) -> Result<(), CheckpointerError> {
                // Failures reach the run through `CheckpointStore::finish`.
                self.save_part(step, record);
                Ok(())
            }

            fn delete(&self, _step: usize) -> Result<(), CheckpointerError> {
                Ok(()) // `CheckpointStore::prune` removes whole checkpoints.
            }

            fn restore(&self, step: usize) -> Result<$record, CheckpointerError> {
                self.restore_part(step)
            }
        }
    )+};
}

part_of!(ModuleRecord, OptimizerRecord, LrSchedulerRecord);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_left() {
        let full = "No space left on device (os error 28)";
        let place = "cannot write to 'a/.tmp-step-1/model.bpk.7-0.tmp'";
        for message in [
            format!("Record error: `Record I/O error: I/O error: {place}: {full}`"),
            format!("Record error: `{full}`"),
            full.to_owned(),
        ] {
            assert_eq!(without_layers(&message), full);
        }
        let other = "Unknown error: `the channel is closed";
        assert_eq!(without_layers(other), other);
    }
}
