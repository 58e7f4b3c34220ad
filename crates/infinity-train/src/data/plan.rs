//! Which windows a batch takes, as pure functions of seed, step and row.
//!
//! Where no window may hold two documents, the documents of an epoch stand in a random order, one after
//! another, cut into windows of `T` targets. That line of windows is dealt to the rows in equal parts,
//! so every row reads its part from front to back and a long document stays in its row.
//!
//! Packed documents are the same line with windows of one target, of which a row takes as many as it has
//! places: what stands beside each other in it are pieces of documents.

use super::config::InitialState;
use super::error::DataError;
use super::random::{Permutation, below, mix};
use super::store::TokenStore;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Part of one document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Position of the first input in the store.
    pub(super) start: u64,
    /// Tokens to predict; 0 for a row that has nothing left in this epoch.
    pub(super) targets: usize,
    /// The window before it in this row is of the same document.
    pub(super) continues: bool,
}

/// The plans of all epochs; the last one used is kept.
#[derive(Clone, Debug)]
pub(super) struct DocumentPlans {
    /// Where documents begin, and where the last one ends.
    borders: Arc<[u64]>,
    rows: u64,
    /// Targets of a window.
    len: u64,
    /// Windows that a row of a batch takes.
    taken: u64,
    seed: u64,
    /// Windows of an epoch.
    windows: u64,
    /// Batches of an epoch.
    pub(super) steps: u64,
    current: Arc<Mutex<Option<(u64, Plan)>>>,
}

/// One epoch: how many windows stand before each document, and the document, in order.
type Plan = Arc<[(u64, usize)]>;

impl DocumentPlans {
    /// Batches of `rows` rows of `len` targets, each of a window or `packed`.
    pub(super) fn new(
        store: &TokenStore,
        packed: bool,
        rows: usize,
        len: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (rows, len) = (rows as u64, len as u64);
        let (len, taken) = if packed { (1, len) } else { (len, 1) };
        // In memory, because an epoch asks for them in a random order.
        let borders: Arc<[u64]> = store.borders()?.into();
        let documents = borders.windows(2);
        let windows = documents
            .map(|ends| windows_in(ends[0]..ends[1], len))
            .sum();
        Ok(Self {
            borders,
            rows,
            len,
            taken,
            seed,
            windows,
            // Packed rows are full.
            steps: match packed {
                true => windows / (rows * taken),
                false => windows.div_ceil(rows),
            },
            current: Arc::default(),
        })
    }

    /// The pieces of documents in every row of batch `step`. The first piece of a row may continue the last one of
    /// the batch before; the others begin where documents begin.
    pub(super) fn windows(&self, step: u64) -> Vec<Vec<Window>> {
        let (epoch, place) = (step / self.steps, step % self.steps);
        let plan = self.plan(epoch);
        let pieces = |row| {
            let first = (row * self.steps + place) * self.taken;
            let (mut pieces, mut taken) = (Vec::new(), 0);
            while taken < self.taken {
                let most = (self.taken - taken) * self.len;
                let piece = self.window(&plan, first + taken, most, taken == 0 && place > 0);
                taken += (piece.targets as u64).div_ceil(self.len).max(1);
                pieces.push(piece);
            }
            pieces
        };
        (0..self.rows).map(pieces).collect()
    }

    /// Window `index` of an epoch, and of its document as many behind it as `most` targets take; it may follow another
    /// in its row.
    fn window(&self, plan: &Plan, index: u64, most: u64, follows: bool) -> Window {
        if index >= self.windows {
            return Window::default();
        }
        let next = plan.partition_point(|it| it.0 <= index);
        let (before, at) = plan[next - 1];
        let document = self.document(at);
        let start = document.start + (index - before) * self.len;
        Window {
            start,
            targets: (document.end - 1 - start).min(most) as usize,
            continues: follows && start > document.start,
        }
    }

    fn document(&self, at: usize) -> Range<u64> {
        self.borders[at]..self.borders[at + 1]
    }

    fn plan(&self, epoch: u64) -> Plan {
        // A panic elsewhere cannot leave a plan half-made: it is stored complete.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((of, plan)) if *of == epoch => plan.clone(),
            _ => current.insert((epoch, self.make(epoch))).1.clone(),
        }
    }

    fn make(&self, epoch: u64) -> Plan {
        let count = self.borders.len() as u64 - 1;
        let order = Permutation::new(count, mix(&[self.seed, epoch]));
        let (mut documents, mut windows) = (Vec::new(), 0);
        for at in (0..count).map(|place| order.at(place) as usize) {
            let own = windows_in(self.document(at), self.len);
            if own > 0 {
                documents.push((windows, at));
                windows += own;
            }
        }
        documents.into()
    }
}

/// Windows that predict every token of a document but its first.
fn windows_in(document: Range<u64>, len: u64) -> u64 {
    (document.end - document.start)
        .saturating_sub(1)
        .div_ceil(len)
}

/// Keeps these draws apart from those of window positions, which hash the same numbers.
const DRAW: u64 = 0x1e57_a7e0;

impl InitialState {
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
        let others: Vec<&usize> = others.iter().filter(|other| **other != row).collect();
        let place = below(bits(1), others.len() as u64) as usize;
        Some(others.get(place).map_or(row, |other| **other))
    }
}

#[cfg(test)]
mod tests {
    mod permutation {
        use super::super::*;

        #[test]
        fn every_number_stands_exactly_once() {
            for n in [1, 2, 3, 7, 64, 65, 1000, 4097] {
                for key in 0..3 {
                    let order = Permutation::new(n, key);
                    let mut seen: Vec<u64> = (0..n).map(|place| order.at(place)).collect();
                    seen.sort_unstable();
                    assert_eq!(seen, (0..n).collect::<Vec<_>>(), "n = {n}, key = {key}");
                }
            }
        }

        #[test]
        fn keys_give_different_orders_and_the_order_is_not_sorted() {
            let order = |key| {
                let order = Permutation::new(1000, key);
                (0..1000).map(|place| order.at(place)).collect::<Vec<_>>()
            };
            assert_ne!(order(0), order(1));
            assert_eq!(order(5), order(5));
            let rising = order(3).windows(2).filter(|pair| pair[0] < pair[1]).count();
            assert!(
                (420..580).contains(&rising),
                "{rising} of 999 neighbours rise"
            );
        }

        #[test]
        fn below_reaches_both_ends_evenly() {
            let mut counts = [0usize; 10];
            (0..10_000).for_each(|i| counts[below(mix(&[i]), 10) as usize] += 1);
            assert!(
                counts.iter().all(|count| (850..1150).contains(count)),
                "{counts:?}"
            );
        }
    }

    mod document_plan {
        use super::super::*;

        #[test]
        fn an_epoch_predicts_every_token_once_and_never_crosses_documents() {
            let lengths = [1u32, 2, 5, 9, 17, 40, 3, 8];
            let documents: Vec<Vec<u32>> = lengths
                .iter()
                .map(|length| (0..*length).collect())
                .collect();
            let store = TokenStore::from_documents(&documents);
            let plans = DocumentPlans::new(&store, false, 3, 8, 11).unwrap();
            for epoch in 0..3 {
                let mut seen = vec![0; store.len() as usize];
                for step in 0..plans.steps {
                    let rows = plans.windows(epoch * plans.steps + step);
                    for window in rows.into_iter().flatten() {
                        let end = window.start + window.targets as u64;
                        let tokens = store.tokens(window.start..end).unwrap();
                        assert!(
                            tokens.windows(2).all(|pair| pair[1] == pair[0] + 1),
                            "{tokens:?}"
                        );
                        let first = window.start + 1;
                        (first..first + window.targets as u64)
                            .for_each(|place| seen[place as usize] += 1);
                    }
                }
                let firsts = store.borders().unwrap();
                for (place, count) in seen.iter().enumerate() {
                    let want = i32::from(!firsts.contains(&(place as u64)));
                    assert_eq!(*count, want, "epoch {epoch}, position {place}");
                }
            }
        }

        #[test]
        fn packed_rows_are_full_and_an_epoch_predicts_no_token_twice() {
            let lengths = [1u32, 2, 5, 9, 17, 40, 3, 8];
            let documents: Vec<Vec<u32>> = lengths
                .iter()
                .map(|length| (0..*length).collect())
                .collect();
            let store = TokenStore::from_documents(&documents);
            let firsts = store.borders().unwrap();
            let (rows, len) = (3, 8);
            let plans = DocumentPlans::new(&store, true, rows as usize, len as usize, 11).unwrap();
            // 77 targets in windows of 8, 3 at a time.
            let steps = plans.steps;
            assert_eq!((plans.windows, steps), (77, 3));
            for epoch in 0..3 {
                let mut seen = vec![0; store.len() as usize];
                let mut ends = vec![0; rows as usize];
                let mut continued = 0;
                for step in 0..steps {
                    let rows = plans.windows(epoch * steps + step);
                    for (row, pieces) in rows.iter().enumerate() {
                        let targets: usize = pieces.iter().map(|piece| piece.targets).sum();
                        assert_eq!(targets, len as usize);
                        for (i, piece) in pieces.iter().enumerate() {
                            let begins = firsts.contains(&piece.start);
                            assert!(begins || i == 0, "only the first piece may go on");
                            assert_eq!(piece.continues, i == 0 && step > 0 && !begins);
                            if piece.continues {
                                assert_eq!(piece.start, ends[row]);
                                continued += 1;
                            }
                            ends[row] = piece.start + piece.targets as u64;
                            let inside = piece.start..ends[row];
                            assert!(
                                !firsts
                                    .iter()
                                    .any(|at| inside.start < *at && *at < inside.end)
                            );
                            assert!(ends[row] < store.len() && !firsts[1..].contains(&ends[row]));
                            inside.for_each(|place| seen[place as usize + 1] += 1);
                        }
                    }
                }
                assert!(continued > 0, "the long document is cut somewhere");
                assert!(seen.iter().all(|count| *count <= 1));
                assert_eq!(seen.iter().sum::<i32>() as u64, steps * rows * len);
            }
        }

        #[test]
        fn a_long_document_continues_in_its_row() {
            let store = TokenStore::from_documents(&[(0..100).collect(), (0..4).collect()]);
            let plans = DocumentPlans::new(&store, false, 2, 8, 5).unwrap();
            let mut carried = 0;
            let mut ends: Vec<Option<u64>> = vec![None; 2];
            for step in 0..plans.steps {
                for (row, window) in plans.windows(step).concat().into_iter().enumerate() {
                    if window.continues {
                        carried += 1;
                        assert_eq!(Some(window.start), ends[row], "step {step}, row {row}");
                    }
                    ends[row] = Some(window.start + window.targets as u64);
                }
            }
            assert!(carried >= 10, "{carried}");
        }
    }

    mod initial_state {

        use super::super::*;

        const ROWS: [usize; 5] = [0, 1, 2, 3, 4];

        fn shares(own: Option<f64>, other: f64, zero: f64) -> InitialState {
            InitialState {
                own,
                other,
                zero,
                last_fraction: 0.0,
            }
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
    }
}
