//! Which windows a batch takes when no window may hold two documents.
//!
//! The documents of an epoch stand in a random order, one after another, cut into windows of `T`
//! targets. That line of windows is dealt to the rows in equal parts, so every row reads its part
//! from front to back and a long document stays in its row, window after window.

use super::error::DataError;
use super::permutation::{Permutation, mix};
use super::store::TokenStore;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Part of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    len: u64,
    seed: u64,
    windows: u64,
    current: Arc<Mutex<Option<Plan>>>,
}

/// One epoch: documents in order, and how many windows stand before each. Cloning is cheap.
#[derive(Clone, Debug)]
struct Plan {
    epoch: u64,
    documents: Arc<[u64]>,
    windows_before: Arc<[u64]>,
}

impl DocumentPlans {
    pub(super) fn new(
        store: &TokenStore,
        rows: usize,
        len: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (rows, len) = (rows as u64, len as u64);
        // In memory, because an epoch asks for them in a random order.
        let borders: Arc<[u64]> = store.borders()?.into();
        let documents = borders.windows(2);
        let windows = documents
            .map(|borders| windows_in(borders[0]..borders[1], len))
            .sum();
        Ok(Self {
            borders,
            rows,
            len,
            seed,
            windows,
            current: Arc::default(),
        })
    }

    /// Windows of an epoch.
    pub(super) fn windows(&self) -> u64 {
        self.windows
    }

    /// Batches of an epoch.
    pub(super) fn steps(&self) -> u64 {
        self.windows.div_ceil(self.rows).max(1)
    }

    /// The windows of batch `step`, one a row.
    pub(super) fn windows_of(&self, step: u64) -> impl Iterator<Item = Window> {
        let (epoch, place) = (step / self.steps(), step % self.steps());
        let plan = self.plan(epoch);
        (0..self.rows).map(move |row| self.window(&plan, row * self.steps() + place, place > 0))
    }

    fn window(&self, plan: &Plan, index: u64, follows_in_row: bool) -> Window {
        if index >= self.windows {
            return Window {
                start: 0,
                targets: 0,
                continues: false,
            };
        }
        let place = plan
            .windows_before
            .partition_point(|before| *before <= index)
            - 1;
        let range = self.document(plan.documents[place]);
        let part = index - plan.windows_before[place];
        let start = range.start + part * self.len;
        let targets = (range.end - 1 - start).min(self.len) as usize;
        Window {
            start,
            targets,
            continues: follows_in_row && part > 0,
        }
    }

    fn document(&self, index: u64) -> Range<u64> {
        self.borders[index as usize]..self.borders[index as usize + 1]
    }

    fn plan(&self, epoch: u64) -> Plan {
        // A panic elsewhere cannot leave a plan half-made: it is stored complete.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(plan) if plan.epoch == epoch => plan.clone(),
            _ => current.insert(self.make(epoch)).clone(),
        }
    }

    fn make(&self, epoch: u64) -> Plan {
        let count = self.borders.len() as u64 - 1;
        let order = Permutation::new(count, mix(&[self.seed, epoch]));
        let (mut documents, mut windows_before, mut windows) = (Vec::new(), Vec::new(), 0);
        for document in (0..count).map(|place| order.at(place)) {
            let own = windows_in(self.document(document), self.len);
            if own > 0 {
                documents.push(document);
                windows_before.push(windows);
                windows += own;
            }
        }
        Plan {
            epoch,
            documents: documents.into(),
            windows_before: windows_before.into(),
        }
    }
}

/// Windows that predict every token of a document but its first.
fn windows_in(range: Range<u64>, len: u64) -> u64 {
    (range.end - range.start).saturating_sub(1).div_ceil(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_predicts_every_token_once_and_never_crosses_documents() {
        let lengths = [1u32, 2, 5, 9, 17, 40, 3, 8];
        let documents: Vec<Vec<u32>> = lengths
            .iter()
            .map(|length| (0..*length).collect())
            .collect();
        let store = TokenStore::from_documents(&documents);
        let plans = DocumentPlans::new(&store, 3, 8, 11).unwrap();
        for epoch in 0..3 {
            let mut seen = vec![0; store.len() as usize];
            for step in 0..plans.steps() {
                for window in plans.windows_of(epoch * plans.steps() + step) {
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
    fn a_long_document_continues_in_its_row() {
        let store = TokenStore::from_documents(&[(0..100).collect(), (0..4).collect()]);
        let plans = DocumentPlans::new(&store, 2, 8, 5).unwrap();
        let mut carried = 0;
        let mut ends: Vec<Option<u64>> = vec![None; 2];
        for step in 0..plans.steps() {
            for (row, window) in plans.windows_of(step).enumerate() {
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
