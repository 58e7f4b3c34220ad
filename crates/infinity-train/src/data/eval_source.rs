//! Every token of a split as a target exactly once.
//!
//! `L` tokens have `L − 1` targets (nothing precedes the first) in `W = ⌈(L − 1) / T⌉` windows. Rows
//! take equal runs of consecutive windows, row `r` the windows `r·S … (r + 1)·S − 1` with
//! `S = ⌈W / R⌉`; batch `t` is the `t`-th window of every run. With `carry`, each row's state flows
//! from batch to batch, so only `R` windows begin without memory; one row reads everything as one
//! stream. Without, every window begins with an empty state.

use super::batch::{BatchBuilder, BatchSource, HostBatch};
use super::error::DataError;
use super::store::TokenStore;

/// The batches of an evaluation.
#[derive(Clone, Debug)]
pub struct EvalSource {
    store: TokenStore,
    rows: u64,
    len: u64,
    carry: bool,
    batches: u64,
}

impl EvalSource {
    /// Windows of `len` tokens, `rows` at a time (fewer when there are fewer windows).
    ///
    /// # Errors
    /// The split is shorter than one window.
    pub fn new(store: TokenStore, rows: usize, len: usize, carry: bool) -> Result<Self, DataError> {
        if let Some(task) = store.rows() {
            return Self::of_task(store.clone(), task.rows(), rows, carry);
        }
        let tokens = store.len();
        if tokens <= len as u64 {
            return Err(DataError::SplitTooShort {
                split: "validation",
                more: "more text",
                tokens,
                window: len,
            });
        }
        let len = len as u64;
        let windows = (tokens - 1).div_ceil(len);
        let batches = windows.div_ceil(windows.min(rows.max(1) as u64));
        // Runs that are rounded up can leave rows without any window.
        let rows = windows.div_ceil(batches);
        Ok(Self {
            store,
            rows,
            len,
            carry,
            batches,
        })
    }

    /// All rows of a task, `rows` at a time; none goes on where another ends.
    fn of_task(store: TokenStore, all: u64, rows: usize, carry: bool) -> Result<Self, DataError> {
        if carry {
            let reason = "rows of a task do not follow each other";
            return super::config::bad("eval.carry_state", carry, reason);
        }
        let rows = all.min(rows.max(1) as u64);
        Ok(Self {
            len: store.len() / all,
            store,
            rows,
            carry,
            batches: all.div_ceil(rows),
        })
    }

    /// Stops after `max_batches` batches; 0 keeps all.
    pub fn limited(mut self, max_batches: u64) -> Self {
        if max_batches > 0 {
            self.batches = self.batches.min(max_batches);
        }
        self
    }

    /// Number of batches.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Rows of every batch.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Whether states flow from batch to batch.
    pub fn carry(&self) -> bool {
        self.carry
    }

    /// Targets that count, in all batches together.
    pub fn targets(&self) -> u64 {
        if self.store.rows().is_some() {
            let batches = self.iter().flatten();
            return batches.map(|batch| batch.valid as u64).sum();
        }
        (0..self.rows)
            .flat_map(|row| (0..self.batches).map(move |step| (row, step)))
            .map(|(row, step)| self.window(row, step).1 as u64)
            .sum()
    }

    /// UTF-8 bytes that these targets stand for: exact when all batches are read, in proportion to
    /// the targets when [`EvalSource::limited`] cut some off.
    pub fn target_bytes(&self) -> f64 {
        if self.store.rows().is_some() {
            // An answer counts as one.
            return self.targets() as f64;
        }
        self.store.target_bytes() as f64 * self.targets() as f64 / (self.store.len() - 1) as f64
    }

    /// All batches in order, or why one cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = Result<HostBatch, DataError>> + '_ {
        (0..self.batches).map(|step| self.make(step))
    }

    /// Start and number of targets of window `step` of `row`.
    fn window(&self, row: u64, step: u64) -> (u64, usize) {
        let start = (row * self.run() + step) * self.len;
        let targets = (self.store.len() - 1).saturating_sub(start).min(self.len);
        (start, targets as usize)
    }

    /// Windows in a row's run; does not change when the number of batches is limited.
    fn run(&self) -> u64 {
        (self.store.len() - 1)
            .div_ceil(self.len)
            .div_ceil(self.rows)
    }

    fn make(&self, step: u64) -> Result<HostBatch, DataError> {
        if let Some(task) = self.store.rows() {
            let first = step * self.rows;
            let rows = self.rows.min(task.rows() - first);
            return Ok(task.batch(first, rows as usize));
        }
        let mut builder = BatchBuilder::new(&self.store, self.rows as usize, self.len as usize);
        for row in 0..self.rows {
            let (start, targets) = self.window(row, step);
            let carried = self.carry && step > 0;
            builder.row(start, targets, carried.then_some(row as usize))?;
        }
        Ok(builder.finish())
    }
}

impl BatchSource for EvalSource {
    fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        if step >= self.batches {
            return Err(DataError::NoSuchBatch {
                step,
                batches: self.batches,
            });
        }
        self.make(step)
    }

    fn steps_per_epoch(&self) -> u64 {
        self.batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::IGNORE_INDEX;

    /// A store whose tokens are their own positions.
    fn counting(tokens: u32) -> TokenStore {
        TokenStore::from_documents(&[(0..tokens).collect()])
    }

    /// How often each position was a target.
    fn coverage(source: &EvalSource, tokens: usize) -> Vec<u32> {
        let mut seen = vec![0; tokens];
        for batch in source.iter().map(Result::unwrap) {
            for (input, target) in batch.inputs.iter().zip(&batch.targets) {
                if *target != IGNORE_INDEX {
                    assert_eq!(*target, input + 1);
                    seen[*target as usize] += 1;
                }
            }
        }
        seen
    }

    #[test]
    fn every_target_counts_exactly_once() {
        for tokens in [9u32, 10, 16, 17, 18, 63, 64, 65, 100, 257] {
            for rows in [1, 2, 3, 8, 50] {
                for carry in [false, true] {
                    let source = EvalSource::new(counting(tokens), rows, 8, carry).unwrap();
                    let mut want = vec![1; tokens as usize];
                    want[0] = 0;
                    assert_eq!(
                        coverage(&source, tokens as usize),
                        want,
                        "{tokens} tokens, {rows} rows"
                    );
                    let valid: usize = source.iter().map(|batch| batch.unwrap().valid).sum();
                    assert_eq!(
                        (valid as u32, source.targets()),
                        (tokens - 1, u64::from(tokens) - 1)
                    );
                    assert!(source.rows() <= rows);
                    assert!((source.target_bytes() - f64::from(tokens - 1)).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn a_lost_window_would_be_caught() {
        let source = EvalSource::new(counting(100), 3, 8, false).unwrap();
        let cut = source.clone().limited(source.batches() - 1);
        assert!(coverage(&cut, 100).iter().skip(1).any(|count| *count == 0));
        assert!(cut.targets() < 99 && cut.target_bytes() < 99.0);
    }

    #[test]
    fn carried_rows_are_streams() {
        let source = EvalSource::new(counting(200), 3, 8, true).unwrap();
        let batches: Vec<HostBatch> = source.iter().map(Result::unwrap).collect();
        assert!(batches[0].carry.iter().all(Option::is_none));
        for pair in batches.windows(2) {
            for row in 0..source.rows() {
                let last = pair[0].inputs[row * 8 + 7];
                let starts_with_data = pair[1].targets[row * 8] != IGNORE_INDEX;
                assert_eq!(pair[1].carry[row], Some(row));
                assert!(
                    !starts_with_data || pair[1].inputs[row * 8] == last + 1,
                    "row {row}"
                );
            }
        }
        assert!(
            EvalSource::new(counting(200), 3, 8, false)
                .unwrap()
                .iter()
                .all(|batch| batch.unwrap().carry.iter().all(Option::is_none))
        );
    }

    #[test]
    fn limits_and_mistakes() {
        let source = EvalSource::new(counting(200), 3, 8, true).unwrap();
        let all = source.batches();
        assert_eq!(
            (
                source.clone().limited(0).batches(),
                source.clone().limited(2).batches()
            ),
            (all, 2)
        );
        assert_eq!(
            source.clone().limited(2).batch(1).unwrap(),
            source.batch(1).unwrap()
        );
        assert!(
            source
                .batch(all)
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
        let message = EvalSource::new(counting(8), 3, 8, true)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("8 tokens") && message.contains("needs 9"),
            "{message}"
        );
    }
}
