//! Which checkpoints of a run are on the disk, and which of them is good.

/// Which checkpoints a run knows of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saved {
    /// The step of the last complete one of this session, or of the one it went on from.
    pub(super) last: Option<u64>,
    /// The last good one's.
    pub(super) good: Option<u64>,
    /// Whether one more is on the disk than was asked for, because it is the good one.
    pub(super) spare: bool,
    /// Whether the last one's state is older than the run's, though its step is not: a validation that
    /// was broken off has been done since.
    pub(super) is_old: bool,
}

impl Saved {
    /// Those of a run that goes on after step `last`; the checkpoints of all `steps` are there. One
    /// before the last was followed by the steps up to the last, of which that one was not lost.
    pub(super) fn before(last: Option<u64>, steps: &[u64]) -> Self {
        let earlier = |last| steps.iter().copied().filter(move |step| *step < last).max();
        Saved {
            last,
            good: last.and_then(earlier),
            ..Saved::default()
        }
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
