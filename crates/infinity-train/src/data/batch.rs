//! A batch of token windows on the host, and the promise that batches are pure functions.

use super::error::DataError;
use super::store::TokenStore;

/// Target of a position that does not count: padding, and rows without data.
pub const IGNORE_INDEX: i32 = -100;

/// Windows and what follows each of their tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBatch {
    /// Token ids `[rows, len]`, row after row.
    pub inputs: Vec<i32>,
    /// The token after each input `[rows, len]`, or [`IGNORE_INDEX`].
    pub targets: Vec<i32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row.
    pub len: usize,
    /// Per row: the row of the previous batch whose last state it begins with, mostly itself;
    /// `None` begins with an empty state.
    pub carry: Vec<Option<usize>>,
    /// How many targets count.
    pub valid: usize,
}

impl HostBatch {
    /// The columns from `from` to `to` of `ids` `[rows, len]`, which are its inputs or targets.
    pub fn columns(&self, ids: &[i32], from: usize, to: usize) -> Vec<i32> {
        let rows = ids.chunks_exact(self.len.max(1));
        rows.flat_map(|row| &row[from..to]).copied().collect()
    }

    /// The rows from `from` to `to` as a batch of their own. Its `carry` still names rows of the
    /// whole previous batch.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn part(&self, from: usize, to: usize) -> Self {
        let ids = |all: &[i32]| all[from * self.len..to * self.len].to_vec();
        let targets = ids(&self.targets);
        HostBatch {
            inputs: ids(&self.inputs),
            valid: targets.iter().filter(|id| **id != IGNORE_INDEX).count(),
            targets,
            rows: to - from,
            len: self.len,
            carry: self.carry[from..to].to_vec(),
        }
    }

    /// The batch, if every id in it is one of a vocabulary of `size`: a damaged token file can hold
    /// anything.
    ///
    /// # Errors
    /// The first id that is not.
    pub fn within(self, size: usize) -> Result<Self, DataError> {
        let known = |id: i32| id == IGNORE_INDEX || usize::try_from(id).is_ok_and(|id| id < size);
        let ids = self.inputs.iter().chain(&self.targets);
        match ids.copied().find(|id| !known(*id)) {
            Some(id) => Err(DataError::UnknownToken { id, size }),
            None => Ok(self),
        }
    }
}

/// Batches by number. The same number always gives the same batch, on any thread and in any order.
pub trait BatchSource: Send + Sync {
    /// The batch number `step`, counted from 0 over all epochs.
    fn batch(&self, step: u64) -> Result<HostBatch, DataError>;

    /// How many batches see the data once; at least 1.
    fn steps_per_epoch(&self) -> u64;
}

/// Fills a batch row by row.
pub(super) struct BatchBuilder<'a> {
    store: &'a TokenStore,
    batch: HostBatch,
    window: Vec<i32>,
}

impl<'a> BatchBuilder<'a> {
    pub(super) fn new(store: &'a TokenStore, rows: usize, len: usize) -> Self {
        let batch = HostBatch {
            inputs: Vec::with_capacity(rows * len),
            targets: Vec::with_capacity(rows * len),
            rows,
            len,
            carry: Vec::with_capacity(rows),
            valid: 0,
        };
        Self {
            store,
            batch,
            window: Vec::with_capacity(len + 1),
        }
    }

    /// Adds a row of the `targets` tokens after `start`, each predicted from the ones before it.
    ///
    /// Fewer targets than `len` leave the rest of the row padded: the last input is repeated, so
    /// that padding is a token every model knows, and its target is ignored.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn row(
        &mut self,
        start: u64,
        targets: usize,
        carry: Option<usize>,
    ) -> Result<(), DataError> {
        debug_assert!(
            targets <= self.batch.len,
            "{targets} targets in a row of {}",
            self.batch.len
        );
        self.window.clear();
        if targets > 0 {
            self.store.read(start, targets + 1, &mut self.window)?;
        }
        let padding = self.batch.len - targets;
        let inputs = &self.window[..targets];
        self.batch.inputs.extend_from_slice(inputs);
        let filler = inputs.last().copied().unwrap_or(0);
        self.batch
            .inputs
            .extend(std::iter::repeat_n(filler, padding));
        self.batch
            .targets
            .extend_from_slice(self.window.get(1..).unwrap_or_default());
        self.batch
            .targets
            .extend(std::iter::repeat_n(IGNORE_INDEX, padding));
        self.batch.carry.push(carry);
        self.batch.valid += targets;
        Ok(())
    }

    pub(super) fn finish(self) -> HostBatch {
        debug_assert_eq!(self.batch.carry.len(), self.batch.rows);
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_inputs_shifted_by_one_and_padding_is_ignored() {
        let store = TokenStore::from_documents(&[vec![10, 11, 12, 13, 14, 15]]);
        let mut builder = BatchBuilder::new(&store, 3, 4);
        builder.row(1, 4, Some(0)).unwrap();
        builder.row(3, 2, None).unwrap();
        builder.row(0, 0, Some(1)).unwrap();
        let batch = builder.finish();
        assert_eq!(batch.inputs, [11, 12, 13, 14, 13, 14, 14, 14, 0, 0, 0, 0]);
        assert_eq!(
            batch.targets,
            [12, 13, 14, 15, 14, 15, -100, -100, -100, -100, -100, -100]
        );
        assert_eq!(
            (batch.carry.as_slice(), batch.valid),
            ([Some(0), None, Some(1)].as_slice(), 6)
        );
        let part = batch.part(1, 3);
        assert_eq!((part.rows, part.len, part.valid), (2, 4, 2));
        assert_eq!(
            (&part.inputs[..], &part.targets[..], &part.carry[..]),
            (&batch.inputs[4..], &batch.targets[4..], &batch.carry[1..])
        );
        assert_eq!(batch.part(0, 3), batch);
    }
}
