//! One batch: windows of tokens, side by side, with what follows each.

use super::error::DataError;
use super::random::{below, mix};
use infinity_kernels::borders::Borders;

/// Target of a position that does not count: padding, and rows without data.
pub const IGNORE_INDEX: i32 = -100;

/// Windows and what follows each of their tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Where in the rows documents begin, for `data.packing = "packed"`.
    pub borders: Borders,
}

/// Keeps the draws of passed states apart from those of windows.
const PASS: u64 = 0x9a55_57a7;

impl HostBatch {
    /// The columns from `from` to `to` of `ids` `[rows, len]`, which are its inputs or targets.
    pub fn columns(&self, ids: &[i32], from: usize, to: usize) -> Vec<i32> {
        let rows = ids.chunks_exact(self.len.max(1));
        rows.flat_map(|row| &row[from..to]).copied().collect()
    }

    /// Every row starts from the state that another one had at the end of the batch before: the one so
    /// many rows further, drawn from `seed`.
    pub(crate) fn pass(&mut self, seed: u64) {
        let others = (self.rows as u64).saturating_sub(1);
        if others == 0 {
            return;
        }
        let shift = 1 + below(mix(&[seed, PASS]), others) as usize;
        let row = |row| Some((row + shift) % self.rows);
        self.carry = (0..self.rows).map(row).collect();
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
            valid: valid(&targets),
            targets,
            rows: to - from,
            len: self.len,
            carry: self.carry[from..to].to_vec(),
            borders: self.borders.rows(from, to),
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
            Some(id) => Err(DataError::Unusable(format!(
                "the token files hold the id {id}, but the vocabulary has {size} entries: they are damaged, or \
                 changed while the run was going on; delete them in `data.cache_dir` to have them made again"
            ))),
            None => Ok(self),
        }
    }
}

/// How many of `targets` count.
pub(super) fn valid(targets: &[i32]) -> usize {
    targets.iter().filter(|id| **id != IGNORE_INDEX).count()
}
