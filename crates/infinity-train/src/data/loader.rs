//! Training batches: four ways to take windows from one store, all of them pure functions.
//!
//! `R` rows, windows of `T` tokens, `L` tokens in the store. Batch `step` row `r` is
//!
//! ```text
//! random      start = hash(seed, step, r) mod (L − T)          with repetition, as nanoGPT does
//! shuffled    window i = step·R + r; epoch e = i div W, W = (L − 1) div T windows an epoch
//!             start = shift(seed, e) + T · order(seed, e)[i mod W]
//! contiguous  row r reads its own L/R tokens from front to back, then again
//! documents   windows start at documents' starts, long documents take several; a new order an epoch
//! (a task)    row step·R + r of the task, new ones for ever
//! ```

use super::batch::{BatchBuilder, BatchSource, HostBatch};
use super::config::{DataConfig, Packing};
use super::document_plan::DocumentPlans;
use super::error::DataError;
use super::initial_state::InitialState;
use super::permutation::{Permutation, below, mix};
use super::store::TokenStore;
use super::task::TaskRows;

/// Streams below which a step sees too little variety.
const FEW_STREAMS: usize = 8;

/// What every source of training batches knows.
#[derive(Clone, Debug)]
pub struct TrainSource {
    store: TokenStore,
    rows: usize,
    len: usize,
    seed: u64,
    stateful: bool,
    initial_state: InitialState,
    packing: PackingPlan,
}

#[derive(Clone, Debug)]
enum PackingPlan {
    Random,
    Shuffled,
    Contiguous,
    Documents(DocumentPlans),
    Rows(TaskRows),
}

impl TrainSource {
    /// Batches of `rows` windows from `store`, as `[data]` describes them; `seed` names their order.
    ///
    /// # Errors
    /// The store is too short for one window in every row, or cannot be read.
    pub fn new(
        store: TokenStore,
        config: &DataConfig,
        rows: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let len = config.training_window();
        let packing = match (store.rows(), config.packing) {
            (Some(task), _) => PackingPlan::Rows(task.with_seed(seed)),
            (None, Packing::Random) => PackingPlan::Random,
            (None, Packing::Shuffled) => PackingPlan::Shuffled,
            (None, Packing::Contiguous) => PackingPlan::Contiguous,
            (None, Packing::Documents) => {
                PackingPlan::Documents(DocumentPlans::new(&store, rows, len, seed)?)
            }
        };
        let source = Self {
            store,
            rows,
            len,
            seed,
            stateful: config.stateful,
            initial_state: config.initial_state,
            packing,
        };
        source.check()?;
        source.check_initial_state()?;
        Ok(source)
    }

    /// What a user should know of windows that are read side by side from few places.
    pub fn warning(&self) -> Option<String> {
        let few = matches!(self.packing, PackingPlan::Contiguous) && self.rows < FEW_STREAMS;
        few.then(|| {
            format!(
                "warning: `data.packing = \"contiguous\"` with {} rows learns from {} places of the text at a time, and neighbouring windows are much alike; more rows (training.per_device_train_batch_size), or `data.packing = \"shuffled\"`, learn more from as many tokens",
                self.rows, self.rows
            )
        })
    }

    fn check_initial_state(&self) -> Result<(), DataError> {
        if self.initial_state.other > 0.0 && self.rows < 2 {
            return super::config::bad(
                "data.initial_state.other",
                self.initial_state.other,
                &format!(
                    "needs another row to take a state from, and `training.per_device_train_batch_size` is {}",
                    self.rows
                ),
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<(), DataError> {
        let tokens = self.store.len();
        let enough = match self.packing {
            PackingPlan::Documents(ref plans) => plans.windows() > 0,
            PackingPlan::Contiguous => self.stream() >= self.len as u64,
            PackingPlan::Random | PackingPlan::Shuffled => tokens > self.len as u64,
            PackingPlan::Rows(_) => true,
        };
        if enough {
            return Ok(());
        }
        if tokens > self.len as u64 && matches!(self.packing, PackingPlan::Contiguous) {
            return super::config::bad(
                "training.per_device_train_batch_size × devices",
                self.rows,
                &format!(
                    "`data.packing = \"contiguous\"` gives every row its own part of the training split, and {tokens} tokens are fewer than {} windows of {}; use fewer rows, shorter windows, or `data.packing = \"random\"`",
                    self.rows, self.len
                ),
            );
        }
        Err(DataError::SplitTooShort {
            split: "training",
            more: "more text",
            tokens,
            window: self.len,
        })
    }

    /// Predicted tokens in a row's part of the store, for `contiguous`.
    fn stream(&self) -> u64 {
        self.store.len().saturating_sub(1) / self.rows as u64
    }

    /// Windows of an epoch, for `shuffled`.
    fn grid(&self) -> u64 {
        (self.store.len() - 1) / self.len as u64
    }

    fn random_start(&self, step: u64, row: usize) -> u64 {
        below(
            mix(&[self.seed, step, row as u64]),
            self.store.len() - self.len as u64,
        )
    }

    fn shuffled_start(&self, step: u64, row: usize) -> u64 {
        let window = step * self.rows as u64 + row as u64;
        let (epoch, place) = (window / self.grid(), window % self.grid());
        let slack = self.store.len() - 1 - self.grid() * self.len as u64;
        let shift = below(mix(&[self.seed, epoch, 0]), slack + 1);
        shift
            + Permutation::new(self.grid(), mix(&[self.seed, epoch, 1])).at(place) * self.len as u64
    }

    fn contiguous_start(&self, step: u64, row: usize) -> u64 {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        // The tokens that fill no window are others in every epoch.
        let slack = self.stream() - steps * self.len as u64;
        let shift = below(mix(&[self.seed, epoch]), slack + 1);
        row as u64 * self.stream() + shift + place * self.len as u64
    }
}

impl TrainSource {
    /// The row of the batch before that `row` of a window which continues starts from.
    fn initial_row(&self, step: u64, row: usize, others: &[usize]) -> Option<usize> {
        self.initial_state.draw(self.seed, step, row, others)
    }

    /// Rows that ended the batch before `step` without padding: no text looks like what padding
    /// leaves behind.
    fn whole_rows(&self, plans: &DocumentPlans, step: u64) -> Vec<usize> {
        if self.initial_state.other == 0.0 || step.is_multiple_of(plans.steps()) {
            return Vec::new();
        }
        let windows = plans.windows_of(step - 1).enumerate();
        windows
            .filter(|(_, window)| window.targets == self.len)
            .map(|(row, _)| row)
            .collect()
    }
}

impl BatchSource for TrainSource {
    fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        let mut builder = BatchBuilder::new(&self.store, self.rows, self.len);
        match &self.packing {
            PackingPlan::Rows(task) => {
                return Ok(task.batch(step * self.rows as u64, self.rows));
            }
            PackingPlan::Random => {
                for row in 0..self.rows {
                    builder.row(self.random_start(step, row), self.len, None)?;
                }
            }
            PackingPlan::Shuffled => {
                for row in 0..self.rows {
                    builder.row(self.shuffled_start(step, row), self.len, None)?;
                }
            }
            PackingPlan::Contiguous => {
                let continues = self.stateful && !step.is_multiple_of(self.steps_per_epoch());
                let rows: Vec<usize> = (0..self.rows).collect();
                for &row in &rows {
                    let carry = continues.then(|| self.initial_row(step, row, &rows));
                    builder.row(self.contiguous_start(step, row), self.len, carry.flatten())?;
                }
            }
            PackingPlan::Documents(plans) => {
                let whole = self.whole_rows(plans, step);
                for (row, window) in plans.windows_of(step).enumerate() {
                    let continues = self.stateful && window.continues;
                    let carry = continues.then(|| self.initial_row(step, row, &whole));
                    builder.row(window.start, window.targets, carry.flatten())?;
                }
            }
        }
        Ok(builder.finish())
    }

    fn steps_per_epoch(&self) -> u64 {
        let (rows, len) = (self.rows as u64, self.len as u64);
        match &self.packing {
            // Random windows have no epochs; this many tokens are as many as there are.
            PackingPlan::Random | PackingPlan::Shuffled => self.grid().div_ceil(rows),
            PackingPlan::Contiguous => self.stream() / len,
            PackingPlan::Documents(plans) => plans.steps(),
            PackingPlan::Rows(task) => task.rows().div_ceil(rows),
        }
        .max(1)
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

    fn source(
        store: TokenStore,
        packing: Packing,
        stateful: bool,
        rows: usize,
        len: usize,
    ) -> TrainSource {
        let config = DataConfig {
            packing,
            stateful,
            max_seq_length: len,
            ..DataConfig::default()
        };
        TrainSource::new(store, &config, rows, 7).unwrap()
    }

    fn starts(batch: &HostBatch) -> Vec<i32> {
        batch.inputs.iter().step_by(batch.len).copied().collect()
    }

    #[test]
    fn batches_are_pure_and_shifted_by_one() {
        let documents: Vec<Vec<u32>> = (1..40).map(|i| (0..i * 3).collect()).collect();
        for packing in [
            Packing::Random,
            Packing::Shuffled,
            Packing::Contiguous,
            Packing::Documents,
        ] {
            let source = source(TokenStore::from_documents(&documents), packing, false, 3, 8);
            let forward: Vec<HostBatch> =
                (0..200).map(|step| source.batch(step).unwrap()).collect();
            for step in (0..200).rev() {
                assert_eq!(
                    source.batch(step).unwrap(),
                    forward[step as usize],
                    "{packing:?}, step {step}"
                );
            }
            for batch in &forward {
                assert_eq!(
                    (batch.inputs.len(), batch.targets.len(), batch.carry.len()),
                    (24, 24, 3)
                );
                assert_eq!(
                    batch.valid,
                    batch
                        .targets
                        .iter()
                        .filter(|id| **id != IGNORE_INDEX)
                        .count()
                );
                assert!(
                    batch.carry.iter().all(Option::is_none),
                    "nothing is carried unless stateful"
                );
            }
        }
        for packing in [Packing::Random, Packing::Shuffled, Packing::Contiguous] {
            let batch = source(counting(1000), packing, false, 3, 8)
                .batch(5)
                .unwrap();
            let shifted: Vec<i32> = batch.inputs.iter().map(|id| id + 1).collect();
            assert_eq!(batch.targets, shifted, "{packing:?}");
        }
    }

    #[test]
    fn random_starts_reach_every_place() {
        let source = source(counting(20), Packing::Random, false, 4, 8);
        let mut seen: Vec<i32> = (0..500)
            .flat_map(|step| starts(&source.batch(step).unwrap()))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn a_shuffled_epoch_repeats_no_token() {
        let (rows, len) = (4, 8);
        let source = source(counting(8 * 64 + 5), Packing::Shuffled, false, rows, len);
        let steps = source.steps_per_epoch();
        assert_eq!(steps, 16);
        let epoch = |epoch: u64| {
            (0..steps)
                .flat_map(|step| source.batch(epoch * steps + step).unwrap().inputs)
                .collect::<Vec<_>>()
        };
        let mut first = epoch(0);
        let second = epoch(1);
        assert_ne!(first, second);
        first.sort_unstable();
        let from = first[0];
        assert_eq!(first, (from..from + 8 * 64).collect::<Vec<_>>());
    }

    #[test]
    fn contiguous_rows_go_on_where_they_stopped() {
        let (rows, len) = (3, 8);
        let source = source(
            counting(3 * 8 * 5 + 9),
            Packing::Contiguous,
            true,
            rows,
            len,
        );
        let steps = source.steps_per_epoch();
        assert_eq!(steps, 5);
        for step in 0..3 * steps {
            let (now, next) = (source.batch(step).unwrap(), source.batch(step + 1).unwrap());
            let last: Vec<i32> = starts(&now)
                .iter()
                .map(|start| start + len as i32)
                .collect();
            if next.carry[0].is_some() {
                assert_eq!(last, starts(&next), "step {step}");
            }
            let continues = (step + 1) % steps != 0;
            let own: Vec<Option<usize>> = (0..rows).map(|row| continues.then_some(row)).collect();
            assert_eq!(next.carry, own);
        }
    }

    #[test]
    fn few_streams_are_warned_of() {
        let warning = |packing, rows| source(counting(5000), packing, false, rows, 8).warning();
        let told = warning(Packing::Contiguous, 3).unwrap();
        assert!(
            told.contains("3 rows") && told.contains("shuffled"),
            "{told}"
        );
        assert_eq!(warning(Packing::Contiguous, FEW_STREAMS), None);
        assert_eq!(warning(Packing::Shuffled, 3), None);
    }

    #[test]
    fn too_little_text_names_both_numbers() {
        let config = |packing| DataConfig {
            packing,
            max_seq_length: 8,
            ..DataConfig::default()
        };
        let refused = |tokens, packing, rows| {
            TrainSource::new(counting(tokens), &config(packing), rows, 0)
                .unwrap_err()
                .to_string()
        };
        for packing in [Packing::Random, Packing::Shuffled, Packing::Contiguous] {
            let message = refused(8, packing, 1);
            assert!(
                message.contains("8 tokens") && message.contains("needs 9"),
                "{message}"
            );
            assert!(
                TrainSource::new(counting(9), &config(packing), 1, 0)
                    .unwrap()
                    .batch(3)
                    .is_ok()
            );
        }
        assert!(refused(30, Packing::Contiguous, 4).contains("per_device_train_batch_size"));
        assert!(refused(1, Packing::Documents, 4).contains("training split has 1 tokens"));
    }

    #[test]
    fn a_shift_of_two_would_be_caught() {
        let batch = source(counting(1000), Packing::Random, false, 3, 8)
            .batch(5)
            .unwrap();
        let broken: Vec<i32> = batch.targets.iter().map(|id| id + 1).collect();
        let shifted: Vec<i32> = batch.inputs.iter().map(|id| id + 1).collect();
        assert_ne!(broken, shifted);
    }
}
