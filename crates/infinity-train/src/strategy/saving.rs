//! What a run saves, and which of it is good.
//!
//! A checkpoint holds the weights after its step's update, and their loss is first seen by the step
//! after it, or by a validation. So the last good checkpoint is the last one after which a step was
//! seen that was not lost. It is what an error names, and it is kept until there is a newer one.

use super::{Fit, Run};
use crate::checkpoint::TrainerState;
use crate::data::DataError;
use crate::error::TrainError;

/// Which checkpoints a run knows of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    /// The step of the last complete one of this session, or of the one it went on from.
    pub(crate) last: Option<u64>,
    /// The last good one's.
    pub(crate) good: Option<u64>,
    /// Whether one more is on the disk than was asked for, because it is the good one.
    spare: bool,
}

impl Saved {
    /// Those of a run that goes on after step `last`; the checkpoints of all `steps` are there. One
    /// before the last was followed by the steps up to the last, of which that one was not lost.
    pub(crate) fn before(last: Option<u64>, steps: &[u64]) -> Self {
        let earlier = |last| steps.iter().copied().filter(move |step| *step < last).max();
        Saved {
            last,
            good: last.and_then(earlier),
            spare: false,
        }
    }
}

impl TrainerState {
    /// Steps in a row up to this one after which nothing is saved: the model may be lost already.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_in_a_row + self.overflows_in_a_row
    }
}

impl Fit<'_> {
    pub(super) fn checkpoint(&mut self, run: &mut Run) -> Result<(), TrainError> {
        let step = run.state.step;
        let Some(checkpointer) = &mut self.components.checkpointer else {
            return Ok(());
        };
        let there = |step| self.fixed.checkpoints.path(step).exists();
        if run.saved.last == Some(step) && there(step) {
            return Ok(());
        }
        run.state.elapsed_s = self.clock.elapsed_s();
        for notice in run.directory.sync()? {
            run.reporter.message(&notice);
        }
        let checkpoints = &self.fixed.checkpoints;
        if let Some(gone) = run.saved.last.filter(|step| !there(*step)) {
            let path = checkpoints.path(gone);
            let path = path.display();
            run.reporter
                .message(&format!("{path} has been removed while the run goes on"));
        }
        let main = self.fixed.devices[0].clone().inner();
        let stream = run.stream.as_ref().map(|stream| stream.whole(&main));
        checkpoints.begin(run.state.clone(), stream.as_ref())?;
        checkpointer.checkpoint(&self.learner, step as usize, &self.components.event_store);
        checkpoints.finish(step)?;
        run.saved.last = Some(step);
        // A validation of these weights has seen their loss already.
        if run.validated == Some(step) && run.state.lost() == 0 {
            run.saved.good = Some(step);
        }
        run.saved.spare = run.saved.good != Some(step);
        self.prune(step, run);
        Ok(())
    }

    /// Notes that the last checkpoint is good where a step after it was not lost.
    pub(super) fn confirm(&self, run: &mut Run) {
        let Some(last) = run.saved.last.filter(|_| run.state.lost() == 0) else {
            return;
        };
        run.saved.good = Some(last);
        if std::mem::take(&mut run.saved.spare) {
            self.prune(last, run);
        }
    }

    fn prune(&self, step: u64, run: &mut Run) {
        let keep_last = self.fixed.config.checkpoint.keep_last;
        let best = run.state.best(&self.fixed.config);
        let pruned = self
            .fixed
            .checkpoints
            .prune(step, keep_last, best, run.saved.good);
        if let Err(error) = pruned {
            run.reporter.message(&error.to_string());
        }
    }

    /// Saves what a run that is asked to stop has learned, unless its last step was lost.
    pub(super) fn save_on_interrupt(&mut self, run: &mut Run) -> Result<(), TrainError> {
        if !self.fixed.config.checkpoint.save_on_interrupt {
            return Ok(());
        }
        match run.state.lost() {
            0 => self.checkpoint(run),
            lost => {
                run.reporter.message(&format!(
                    "no checkpoint is written: the last {lost} steps were lost"
                ));
                Ok(())
            }
        }
    }

    /// An error that ends a run, with the checkpoint from where it can go on.
    pub(super) fn ended_by(&mut self, error: TrainError, run: &mut Run) -> TrainError {
        match error {
            TrainError::Data(error) => self.rescue(error, run),
            TrainError::Diverged { step, reason } => TrainError::Diverged {
                step,
                reason: format!("{reason}; {}", self.last_good(run)),
            },
            other => other,
        }
    }

    /// Data that cannot be read harms neither the model nor its place in the data: what was learned
    /// is saved before the run ends.
    fn rescue(&mut self, error: DataError, run: &mut Run) -> TrainError {
        if run.state.step > 0
            && run.state.lost() == 0
            && let Err(unsaved) = self.checkpoint(run)
        {
            run.reporter.message(&unsaved.to_string());
        }
        match self.there(run.saved.last) {
            Some(saved) => TrainError::DataLost { error, saved },
            None => TrainError::Data(error),
        }
    }

    /// In words, the checkpoint from which a run that diverged can go on.
    fn last_good(&self, run: &Run) -> String {
        match (self.there(run.saved.good), self.there(run.saved.last)) {
            (Some(good), Some(last)) if good < last => format!(
                "the last good checkpoint is that of step {good} (--resume {good}); after that of \
                 step {last} every step was lost"
            ),
            (Some(good), _) => format!("the last good checkpoint is that of step {good}"),
            (None, Some(last)) => format!(
                "the only checkpoint is that of step {last}, after which every step was lost"
            ),
            (None, None) => "there is no checkpoint".to_owned(),
        }
    }

    fn there(&self, step: Option<u64>) -> Option<u64> {
        step.filter(|step| self.fixed.checkpoints.path(*step).exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_before_the_one_gone_on_from_is_good() {
        for (last, good) in [(6, Some(4)), (4, Some(2)), (2, None)] {
            let saved = Saved::before(Some(last), &[2, 4, 6]);
            assert_eq!((saved.last, saved.good), (Some(last), good));
        }
        assert_eq!(Saved::before(None, &[2]).good, None);
    }
}
