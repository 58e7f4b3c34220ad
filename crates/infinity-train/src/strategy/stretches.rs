//! The stretches of a run between its validations, which burn-train's dashboard calls epochs.

use burn::data::dataloader::Progress;

/// How a run is cut into stretches. Steps and stretches are counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretches {
    every: u64,
    total: u64,
}

impl Stretches {
    /// Those of a run of `total` steps that validates after each `every`; 0 is not before its end.
    pub(crate) fn new(every: u64, total: u64) -> Self {
        let every = if every == 0 { total.max(1) } else { every };
        Stretches { every, total }
    }

    /// How many there are.
    pub(crate) fn count(self) -> usize {
        self.total.div_ceil(self.every) as usize
    }

    /// The stretch that `step` falls into.
    pub(crate) fn of(self, step: u64) -> usize {
        (step.saturating_sub(1) / self.every) as usize + 1
    }

    /// Steps of a stretch: the last one is what is left. At least 1, since the dashboard divides by
    /// it, also where a run that is over opens one more.
    pub(crate) fn items(self, number: usize) -> usize {
        let before = (number as u64 - 1).saturating_mul(self.every);
        self.every.min(self.total.saturating_sub(before)).max(1) as usize
    }

    /// The place of `step` in its stretch.
    pub(crate) fn progress(self, step: u64) -> Progress {
        let place = step.saturating_sub(1) % self.every + 1;
        let items = self.items(self.of(step));
        Progress::new(place as usize, items, Some("steps".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_a_place_within_its_stretch() {
        for (every, total) in [(50, 600), (50, 620), (7, 7), (9, 4), (1, 3), (0, 5)] {
            let stretches = Stretches::new(every, total);
            let mut expected = (1, 0);
            for step in 1..=total {
                let (number, progress) = (stretches.of(step), stretches.progress(step));
                // The next place in this stretch, or the first of the next one.
                expected = match number == expected.0 {
                    true => (number, expected.1 + 1),
                    false => (expected.0 + 1, 1),
                };
                let found = (number, progress.items_processed);
                assert_eq!(found, expected, "step {step} of {total}, every {every}");
                assert_eq!(progress.items_total, stretches.items(number));
                let ends = every > 0 && step % every == 0 || step == total;
                assert_eq!(progress.is_completed(), ends, "step {step} of {total}");
            }
            assert_eq!(expected.0, stretches.count());
            let all: usize = (1..=stretches.count()).map(|n| stretches.items(n)).sum();
            assert_eq!(all as u64, total);
        }
        assert_eq!(Stretches::new(50, 100).items(3), 1, "never a division by 0");
    }
}
