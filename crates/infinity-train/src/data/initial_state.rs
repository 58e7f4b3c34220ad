//! `data.initial_state`: which state a window of a stream starts from.
//!
//! A model that only ever continues its own row has seen, at step `n`, no state older than `n`
//! windows, and no state that does not fit the text before it. Starting some windows from another
//! stream's state shows it memories that have nothing to do with the text at hand, which it has to
//! be able to overlook; starting some from nothing keeps it able to begin. Both are what makes a
//! recurrent model stable far beyond its training window.
//!
//! The state that a row has at the end of a window is its own from there on, wherever it came from:
//! after another's state or none, the row goes on from that.

use super::config::bad;
use super::error::DataError;
use super::permutation::{below, mix};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Shares of windows by the state that they start from. They apply where a window continues a
/// stream; the first window of a stream always starts from the empty state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitialState {
    /// From the state its row had at the end of the window before. Unset: what the others leave.
    pub own: Option<f64>,
    /// From the state that another row had at the end of the batch before, drawn evenly.
    pub other: f64,
    /// From the empty state.
    pub zero: f64,
}

/// How far the shares may be from 1 together: three decimal fractions, rounded.
const ROUNDING: f64 = 1e-6;

/// Keeps these draws apart from those of window positions, which hash the same numbers.
const DRAW: u64 = 0x1e57_a7e0;

impl InitialState {
    /// Every window continues its own past.
    pub fn is_own(&self) -> bool {
        self.other == 0.0 && self.zero == 0.0
    }

    /// Refuses shares that are none, naming the key, the value and the limit.
    pub(super) fn validate(&self) -> Result<(), DataError> {
        for (key, share) in [
            ("data.initial_state.own", self.own.unwrap_or(0.0)),
            ("data.initial_state.other", self.other),
            ("data.initial_state.zero", self.zero),
        ] {
            // The comparison is written so that NaN fails it.
            if !(0.0..=1.0).contains(&share) {
                return bad(key, share, "must lie between 0 and 1");
            }
        }
        let sum = self.own.unwrap_or(0.0) + self.other + self.zero;
        match self.own {
            Some(_) if (sum - 1.0).abs() > ROUNDING => bad(
                "data.initial_state",
                self,
                &format!("adds up to {sum}; own, other and zero must add up to 1"),
            ),
            None if sum > 1.0 + ROUNDING => bad(
                "data.initial_state",
                self,
                &format!("adds up to {sum}; other and zero leave nothing below 0 for own"),
            ),
            _ => Ok(()),
        }
    }

    /// The row whose last state `row` of batch `step` starts from, `None` for the empty state: a
    /// pure function. `others` are the rows whose state may be taken, which may include `row`;
    /// where no other row is among them, it is its own.
    pub(super) fn draw(&self, seed: u64, step: u64, row: usize, others: &[usize]) -> Option<usize> {
        if self.is_own() {
            return Some(row);
        }
        let bits = |what| mix(&[seed, step, row as u64, DRAW, what]);
        // 53 bits are a fraction in [0, 1) without rounding.
        let fraction = (bits(0) >> 11) as f64 / (1u64 << 53) as f64;
        if fraction < self.zero {
            return None;
        }
        if fraction >= self.zero + self.other {
            return Some(row);
        }
        let others: Vec<usize> = others
            .iter()
            .copied()
            .filter(|other| *other != row)
            .collect();
        let place = below(bits(1), others.len() as u64) as usize;
        Some(others.get(place).copied().unwrap_or(row))
    }
}

impl fmt::Display for InitialState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, other, zero } = self;
        match own {
            Some(own) => write!(f, "{{ own = {own}, other = {other}, zero = {zero} }}"),
            None => write!(f, "{{ other = {other}, zero = {zero} }}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [usize; 5] = [0, 1, 2, 3, 4];

    fn shares(own: Option<f64>, other: f64, zero: f64) -> InitialState {
        InitialState { own, other, zero }
    }

    /// Windows that started from the own, another's and the empty state, and how often each other
    /// row was taken by row 2.
    fn counts(mixture: InitialState, seed: u64) -> ([f64; 3], [usize; 5]) {
        let (mut counts, mut taken) = ([0.0; 3], [0; 5]);
        for step in 0..4000 {
            for row in ROWS {
                match mixture.draw(seed, step, row, &ROWS) {
                    None => counts[2] += 1.0,
                    Some(from) if from == row => counts[0] += 1.0,
                    Some(from) => {
                        counts[1] += 1.0;
                        taken[from] += usize::from(row == 2);
                    }
                }
            }
        }
        (counts.map(|count| count / 20_000.0), taken)
    }

    /// Five standard deviations of a share of 20,000 draws are at most 0.018.
    fn near(found: [f64; 3], expected: [f64; 3]) -> bool {
        let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        off.fold(0.0, f64::max) < 0.018
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        for (mixture, expected) in [
            (InitialState::default(), [1.0, 0.0, 0.0]),
            (shares(Some(0.8), 0.15, 0.05), [0.8, 0.15, 0.05]),
            (shares(None, 0.5, 0.25), [0.25, 0.5, 0.25]),
            (shares(Some(0.0), 0.0, 1.0), [0.0, 0.0, 1.0]),
            (shares(Some(0.0), 1.0, 0.0), [0.0, 1.0, 0.0]),
        ] {
            let (found, _) = counts(mixture, 3);
            assert!(near(found, expected), "{mixture}: {found:?}");
        }
        let (found, _) = counts(shares(None, 0.5, 0.25), 3);
        assert!(!near(found, [0.25, 0.53, 0.22]), "another mixture is seen");
    }

    #[test]
    fn other_rows_are_taken_evenly_and_only_where_they_may_be() {
        let (_, taken) = counts(shares(None, 1.0, 0.0), 8);
        assert_eq!(taken[2], 0);
        for row in [0, 1, 3, 4] {
            assert!((850..1150).contains(&taken[row]), "{taken:?}");
        }
        let other = shares(None, 1.0, 0.0);
        for step in 0..50 {
            assert_eq!(other.draw(1, step, 2, &[4]), Some(4));
            assert_eq!(other.draw(1, step, 2, &[2]), Some(2), "no other row");
            assert_eq!(other.draw(1, step, 2, &[]), Some(2), "no row at all");
        }
    }

    #[test]
    fn draws_depend_on_seed_step_and_row_alone() {
        let mixture = shares(None, 0.3, 0.3);
        let all = |seed| -> Vec<Option<usize>> {
            (0..200)
                .flat_map(|step| ROWS.map(|row| mixture.draw(seed, step, row, &ROWS)))
                .collect()
        };
        let forward = all(5);
        for (place, drawn) in forward.iter().enumerate().rev() {
            let (step, row) = (place as u64 / 5, place % 5);
            assert_eq!(mixture.draw(5, step, row, &ROWS), *drawn);
        }
        assert_ne!(forward, all(6));
    }

    #[test]
    fn wrong_shares_are_refused_by_name() {
        for (mixture, words) in [
            (shares(Some(0.8), 0.1, 0.2), ["data.initial_state", "1.1"]),
            (shares(Some(0.5), 0.0, 0.0), ["data.initial_state", "0.5"]),
            (shares(None, 0.7, 0.7), ["data.initial_state", "1.4"]),
            (
                shares(None, -0.1, 0.0),
                ["data.initial_state.other", "-0.1"],
            ),
            (shares(None, 0.0, 1.5), ["data.initial_state.zero", "1.5"]),
            (
                shares(Some(f64::NAN), 0.0, 0.0),
                ["data.initial_state.own", "NaN"],
            ),
        ] {
            let message = mixture.validate().unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{mixture}: {message}");
            }
        }
        for mixture in [
            InitialState::default(),
            shares(Some(0.8), 0.1, 0.1),
            shares(None, 0.3, 0.7),
        ] {
            mixture.validate().unwrap();
        }
    }
}
