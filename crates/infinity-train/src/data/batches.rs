//! Batches: windows of one store, by number; the same number always gives the same batch.
//!
//! Training has five ways to take windows. With `R` rows, windows of `T` tokens and `L` tokens in the
//! store, batch `step` row `r` is
//!
//! ```text
//! random      start = hash(seed, step, r) mod (L − T)          with repetition, as nanoGPT does
//! shuffled    window i = step·R + r; epoch e = i div W, W = (L − 1) div T windows an epoch
//!             start = shift(seed, e) + T · order(seed, e)[i mod W]
//! contiguous  row r reads its own L/R tokens from front to back, then again
//! documents   windows start at documents' starts, long documents take several; a new order an epoch
//! packed      documents one behind the other, as many targets as there are places; a new order an epoch
//! (a task)    row step·R + r of the task, new ones for ever
//! ```
//!
//! An evaluation takes every token as a target exactly once. `L` tokens have `L − 1` targets (nothing
//! precedes the first) in `W = ⌈(L − 1) / T⌉` windows. Rows take equal runs of consecutive windows, row
//! `r` the windows `r·S … (r + 1)·S − 1` with `S = ⌈W / R⌉`; batch `t` is the `t`-th window of every
//! run. With `carry`, each row's state flows from batch to batch, so only `R` windows begin without
//! memory; one row reads everything as one stream. Without, every window begins with an empty state.
//!
//! Threads prepare batches ahead of the step that needs them. Thread `w` of `n` makes the batches whose
//! number is `w` modulo `n`, and the loop takes them in order: how many threads there are changes when
//! a batch is ready, never what is in it.

use super::batch::{HostBatch, IGNORE_INDEX, valid};
use super::chat::SILENT;
use super::config::{DataConfig, InitialState, Packing};
use super::error::{DataError, bad};
use super::needle::Needles;
use super::plan::{DocumentPlans, Window};
use super::random::{Permutation, below, mix};
use super::store::TokenStore;
use infinity_kernels::borders::Borders;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Builder;

/// A batch of rows of `len` tokens. A row is pieces of documents, each of which predicts its tokens from the ones
/// before, and the row that its state comes from; `change` may change the tokens of a piece.
///
/// Fewer targets than `len` leave the rest of a row padded: its last input is repeated, so that padding is a token
/// every model knows, and its target is ignored.
fn read_rows(
    store: &TokenStore,
    len: usize,
    rows: &[(Vec<Window>, Option<usize>)],
    change: impl Fn(usize, &mut Vec<i32>),
) -> Result<HostBatch, DataError> {
    let mark = if store.text.marked { SILENT } else { 0 } as i32;
    let predicted = |id: &i32| if id & mark == 0 { *id } else { IGNORE_INDEX };
    let mut inputs = Vec::with_capacity(rows.len() * len);
    let mut targets = Vec::with_capacity(rows.len() * len);
    let (mut borders, mut tokens) = (Vec::new(), Vec::with_capacity(len + 1));
    for (row, (pieces, _)) in rows.iter().enumerate() {
        let begin = inputs.len();
        let mut starts = Vec::new();
        for piece in pieces.iter().filter(|piece| piece.targets > 0) {
            starts.push(inputs.len() - begin);
            tokens.clear();
            store.read_marked(piece.start, piece.targets + 1, &mut tokens)?;
            change(row, &mut tokens);
            inputs.extend(tokens[..piece.targets].iter().map(|id| id & !mark));
            targets.extend(tokens[1..].iter().map(predicted));
        }
        // The first is where the row begins, which its carry speaks of.
        borders.push(starts.into_iter().skip(1).collect());
        debug_assert!(inputs.len() <= begin + len, "a row too long");
        let filler = inputs[begin..].last().copied().unwrap_or(0);
        inputs.resize(begin + len, filler);
        targets.resize(begin + len, IGNORE_INDEX);
    }
    Ok(HostBatch {
        valid: valid(&targets),
        inputs,
        targets,
        rows: rows.len(),
        len,
        carry: rows.iter().map(|(_, carry)| *carry).collect(),
        borders: Borders::new(borders),
    })
}

/// Streams below which a step sees too little variety.
const FEW_STREAMS: usize = 8;

/// The batches of training.
#[derive(Clone, Debug)]
pub struct TrainSource {
    store: TokenStore,
    rows: usize,
    len: usize,
    seed: u64,
    stateful: bool,
    initial_state: InitialState,
    packing: Packing,
    /// Where windows keep to documents.
    plans: Option<DocumentPlans>,
    /// Batches that see the data once.
    steps: u64,
    needles: Option<Needles>,
}

impl TrainSource {
    /// Batches of `rows` windows from `store`, as `[data]` describes them; `seed` names their order.
    ///
    /// # Errors
    /// The store is too short for one window in every row, or cannot be read.
    pub fn new(
        mut store: TokenStore,
        config: &DataConfig,
        rows: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let initial_state = config.initial_state;
        if initial_state.other > 0.0 && rows < 2 {
            let reason = format!(
                "needs another row to take a state from, and `training.per_device_train_batch_size` is {rows}"
            );
            return bad("data.initial_state.other", initial_state.other, reason);
        }
        let len = config.training_window();
        let (targets, some, mut plans) = (store.len().saturating_sub(1), rows as u64, None);
        let steps = match (store.rows().copied(), config.packing) {
            (Some(task), _) => {
                store = TokenStore::of_rows(task.with_seed(seed));
                task.rows().div_ceil(some)
            }
            // Random windows have no epochs; this many tokens are as many as there are.
            (None, Packing::Random | Packing::Shuffled) => (targets / len as u64).div_ceil(some),
            (None, Packing::Contiguous) => targets / some / len as u64,
            (None, Packing::Documents | Packing::Packed) => {
                let packed = config.packing == Packing::Packed;
                let made = DocumentPlans::new(&store, packed, rows, len, seed)?;
                plans.insert(made).steps
            }
        };
        if steps == 0 {
            return Err(too_few(config.packing, store.len(), rows, len));
        }
        Ok(Self {
            store,
            rows,
            len,
            seed,
            stateful: config.stateful,
            initial_state,
            packing: config.packing,
            plans,
            steps,
            needles: None,
        })
    }

    /// The same with sentences hidden in windows of a text.
    pub fn hiding(self, needles: Option<Needles>) -> Self {
        Self { needles, ..self }
    }

    /// What a user should know of windows that are read side by side from few places.
    pub fn warning(&self) -> Option<String> {
        let rows = self.rows;
        let streams = self.packing == Packing::Contiguous && self.store.rows().is_none();
        (streams && rows < FEW_STREAMS).then(|| {
            format!(
                "warning: `data.packing = \"contiguous\"` with {rows} rows learns from {rows} places of the text at a time, and neighbouring windows are much alike; more rows (training.per_device_train_batch_size), or `data.packing = \"shuffled\"`, learn more from as many tokens"
            )
        })
    }

    /// What every row of batch `step` reads.
    fn windows(&self, step: u64) -> Vec<Vec<Window>> {
        let (seed, rows, len) = (self.seed, self.rows as u64, self.len as u64);
        let (epoch, place) = (step / self.steps, step % self.steps);
        let full = |start: &dyn Fn(u64) -> u64, continues| -> Vec<Vec<Window>> {
            let window = |row| Window {
                start: start(row),
                targets: self.len,
                continues,
            };
            (0..rows).map(|row| vec![window(row)]).collect()
        };
        let targets = self.store.len() - 1;
        match (&self.plans, self.packing) {
            (Some(plans), _) => plans.windows(step),
            (None, Packing::Random) => {
                let places = self.store.len() - len;
                full(&|row| below(mix(&[seed, step, row]), places), false)
            }
            (None, Packing::Shuffled) => {
                let grid = targets / len;
                let slack = targets - grid * len;
                let start = |row: u64| {
                    let (epoch, place) = ((step * rows + row) / grid, (step * rows + row) % grid);
                    let order = Permutation::new(grid, mix(&[seed, epoch, 1]));
                    below(mix(&[seed, epoch, 0]), slack + 1) + order.at(place) * len
                };
                full(&start, false)
            }
            (None, _) => {
                // The tokens that fill no window are others in every epoch.
                let stream = targets / rows;
                let slack = stream - self.steps * len;
                let first = below(mix(&[seed, epoch]), slack + 1) + place * len;
                full(&|row| row * stream + first, place > 0)
            }
        }
    }

    /// The row of the batch before `step` that each row starts from, if it goes on.
    fn carry(&self, step: u64, windows: &[Vec<Window>]) -> Vec<Option<usize>> {
        let goes_on = |pieces: &Vec<Window>| self.stateful && pieces[0].continues;
        // Rows that ended without padding: no text looks like what padding leaves behind.
        let full = |(_, pieces): &(usize, Vec<Window>)| {
            pieces.iter().map(|piece| piece.targets).sum::<usize>() == self.len
        };
        let before = match self.initial_state.other > 0.0 && windows.iter().any(goes_on) {
            true => self.windows(step - 1),
            false => Vec::new(),
        };
        let others = before.into_iter().enumerate().filter(full);
        let others: Vec<usize> = others.map(|(row, _)| row).collect();
        let draw = |row| (self.initial_state).draw(self.seed, step, row, &others);
        let rows = windows.iter().enumerate();
        rows.map(|(row, pieces)| goes_on(pieces).then(|| draw(row))?)
            .collect()
    }

    /// The batch number `step`, counted from 0 over all epochs: the same on any thread and in any order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        if let Some(task) = self.store.rows() {
            return Ok(task.batch(step * self.rows as u64, self.rows));
        }
        // Windows of a stream share the numbers that are hidden in them, from a first one on, which begins with an
        // empty memory.
        let sharing = |row: usize| {
            let shares = self.stateful && self.needles.is_some();
            shares.then(|| Needles::sharing(self.seed, step % self.steps, row as u64))
        };
        let windows = self.windows(step);
        let carry = self.carry(step, &windows).into_iter().enumerate();
        let carry =
            carry.map(|(row, from)| from.filter(|_| sharing(row).is_none_or(|it| it.0 > 0)));
        let rows: Vec<_> = windows.into_iter().zip(carry).collect();
        read_rows(&self.store, self.len, &rows, |row, window| {
            if let Some(needles) = &self.needles {
                // All of such a window is learned.
                window.iter_mut().for_each(|id| *id &= !SILENT as i32);
                let shared = sharing(row);
                let index = shared.map_or(0, |(index, _)| index as u64);
                needles.hide(window, [self.seed, step - index, row as u64], shared);
            }
        })
    }

    /// How many batches see the data once; at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps
    }
}

/// That `tokens` do not fill a batch.
fn too_few(packing: Packing, tokens: u64, rows: usize, len: usize) -> DataError {
    let reason = match packing {
        Packing::Contiguous if tokens > len as u64 => format!(
            "`data.packing = \"contiguous\"` gives every row its own part of the training split, and {tokens} tokens are fewer than {rows} windows of {len}; use fewer rows, shorter windows, or `data.packing = \"random\"`"
        ),
        Packing::Packed if tokens > len as u64 => format!(
            "`data.packing = \"packed\"` fills every row of a batch, and the {tokens} tokens of the training split are too few for {rows} rows of {len}; use fewer rows, shorter windows, or `data.packing = \"documents\"`"
        ),
        _ => return DataError::too_short("training", "more text", tokens, len),
    };
    DataError::key(
        "training.per_device_train_batch_size × devices",
        rows,
        reason,
    )
}

/// The batches of an evaluation.
#[derive(Clone, Debug)]
pub struct EvalSource {
    store: TokenStore,
    rows: u64,
    len: u64,
    carry: bool,
    /// Windows in a row's run.
    run: u64,
    batches: u64,
}

impl EvalSource {
    /// Windows of `len` tokens, or rows of a task, `rows` at a time (fewer when there are fewer).
    ///
    /// # Errors
    /// The split is shorter than one window, or `carry` asks for what rows of a task do not have.
    pub fn new(store: TokenStore, rows: usize, len: usize, carry: bool) -> Result<Self, DataError> {
        let tokens = store.len();
        let (windows, len) = match store.rows() {
            Some(_) if carry => {
                let reason = "rows of a task do not follow each other";
                return bad("eval.carry_state", carry, reason);
            }
            Some(task) => (task.rows(), task.row_len() as u64),
            None if tokens <= len as u64 => {
                return Err(DataError::too_short("validation", "more text", tokens, len));
            }
            None => ((tokens - 1).div_ceil(len as u64), len as u64),
        };
        let most = windows.min(rows.max(1) as u64);
        let batches = windows.div_ceil(most);
        let rows = match store.rows() {
            Some(_) => most,
            // Runs that are rounded up can leave rows without any window.
            None => windows.div_ceil(batches),
        };
        Ok(Self {
            store,
            rows,
            len,
            carry,
            run: batches,
            batches,
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
        let windows = (0..self.batches).flat_map(|step| self.windows(step));
        windows.map(|window| window.targets as u64).sum()
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
        (0..self.batches).map(|step| self.batch(step))
    }

    /// The windows of batch `step`, one a row.
    fn windows(&self, step: u64) -> impl Iterator<Item = Window> {
        (0..self.rows).map(move |row| {
            let start = (row * self.run + step) * self.len;
            let left = (self.store.len() - 1).saturating_sub(start);
            Window {
                start,
                targets: left.min(self.len) as usize,
                continues: self.carry && step > 0,
            }
        })
    }

    /// The batch number `step`, from 0.
    ///
    /// # Errors
    /// There is no such batch, or it cannot be read.
    pub fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        let batches = self.batches;
        if step >= batches {
            let message = format!("batch {step} does not exist: there are {batches}");
            return Err(DataError::Unusable(message));
        }
        if let Some(task) = self.store.rows() {
            let first = step * self.rows;
            let rows = self.rows.min(task.rows() - first);
            return Ok(task.batch(first, rows as usize));
        }
        let windows = self.windows(step).enumerate();
        let rows = windows.map(|(row, window)| (vec![window], window.continues.then_some(row)));
        let rows: Vec<_> = rows.collect();
        read_rows(&self.store, self.len as usize, &rows, |_, _| {})
    }
}

/// Batches that one thread has ready before it waits.
const AHEAD: usize = 2;

type Made<T> = Result<T, DataError>;

/// Batches, or whatever is made of a number, in order.
pub struct Workers<T> {
    workers: Vec<Receiver<Made<T>>>,
    next: u64,
}

impl<T: Send + 'static> Workers<T> {
    /// `count` threads, at least one, that `make` the batches from number `first` on.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start(
        make: impl Fn(u64) -> Made<T> + Clone + Send + 'static,
        first: u64,
        count: usize,
    ) -> Result<Self, DataError> {
        let count = count.max(1);
        let start = |i: usize| {
            let (sender, batches) = sync_channel(AHEAD);
            let (make, from) = (make.clone(), first + i as u64);
            // Until nobody takes them, or one cannot be made.
            let work = move || {
                for number in (from..).step_by(count) {
                    let made = catch_unwind(AssertUnwindSafe(|| make(number)));
                    let made = made.unwrap_or_else(|panic| Err(died(&*panic)));
                    let over = made.is_err();
                    if sender.send(made).is_err() || over {
                        return;
                    }
                }
            };
            let thread = Builder::new().name(format!("batches-{i}")).spawn(work);
            thread.map(|_| batches).map_err(|error| {
                DataError::Unusable(format!(
                    "cannot start thread {} of the `data.num_workers = {count}` that prepare batches: {error}",
                    i + 1
                ))
            })
        };
        Ok(Workers {
            workers: (0..count).map(start).collect::<Result<_, DataError>>()?,
            next: 0,
        })
    }

    /// The next batch.
    ///
    /// # Errors
    /// The source's, or that the thread which should have made it has died.
    pub fn take(&mut self) -> Made<T> {
        let index = (self.next % self.workers.len() as u64) as usize;
        self.next += 1;
        let ended = || Err(died(&"it ended without saying why"));
        self.workers[index].recv().unwrap_or_else(|_| ended())
    }
}

/// Why there will be no more batches of a thread that panicked.
fn died(panic: &(dyn Any + Send)) -> DataError {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let reason = text.unwrap_or("it did not say why");
    DataError::Unusable(format!(
        "a thread that prepares batches (`data.num_workers`) died: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    mod batch {
        use super::super::*;

        #[test]
        fn targets_are_inputs_shifted_by_one_and_padding_is_ignored() {
            let store = TokenStore::from_documents(&[vec![10, 11, 12, 13, 14, 15]]);
            let row = |start, targets, carry| {
                let window = Window {
                    start,
                    targets,
                    continues: false,
                };
                (vec![window], carry)
            };
            let rows = [row(1, 4, Some(0)), row(3, 2, None), row(0, 0, Some(1))];
            let batch = read_rows(&store, 4, &rows, |_, _| {}).unwrap();
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

    mod loader {
        use super::super::*;
        use infinity_model::Tokenizer;

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
                Packing::Packed,
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
                let own: Vec<Option<usize>> =
                    (0..rows).map(|row| continues.then_some(row)).collect();
                assert_eq!(next.carry, own);
            }
        }

        #[test]
        fn windows_that_share_numbers_begin_with_an_empty_memory() {
            let (rows, len) = (3, 400);
            let store = TokenStore::from_documents(&[vec![u32::from(b'x'); 90_000]]);
            let plain = source(store, Packing::Contiguous, true, rows, len);
            let needles = Needles::new(&Tokenizer::bytes(), 1.0).unwrap();
            let source = plain.clone().hiding(needles);
            assert_eq!(source.steps_per_epoch(), 74);
            for step in 0..160 {
                let batch = source.batch(step).unwrap();
                assert_eq!(batch.inputs.len(), rows * len);
                assert_eq!(batch.valid, rows * len);
                for (row, carry) in batch.carry.iter().enumerate() {
                    let first = Needles::sharing(7, step % 74, row as u64).0 == 0;
                    assert_eq!(*carry, (!first).then_some(row), "step {step}, row {row}");
                }
            }
            let hidden = |source: &TrainSource| source.batch(33).unwrap().inputs;
            assert_eq!(hidden(&source), hidden(&source));
            assert_ne!(hidden(&source), hidden(&plain));
        }

        /// Every token is its position in its document, so a border is where an input is 0.
        #[test]
        fn packed_rows_have_no_padding_and_their_borders_are_where_documents_begin() {
            let documents: Vec<Vec<u32>> = (1..40).map(|i| (0..i * 3).collect()).collect();
            let store = TokenStore::from_documents(&documents);
            let source = source(store, Packing::Packed, true, 3, 32);
            let (mut crossed, mut carried) = (0, 0);
            for step in 0..2 * source.steps_per_epoch() {
                let batch = source.batch(step).unwrap();
                assert_eq!((batch.valid, batch.inputs.len()), (96, 96));
                let shifted: Vec<i32> = batch.inputs.iter().map(|id| id + 1).collect();
                assert_eq!(
                    batch.targets, shifted,
                    "every target is of its input's document"
                );
                for (row, inputs) in batch.inputs.chunks(32).enumerate() {
                    let pieces = batch.borders.pieces(row, 32);
                    let begins: Vec<usize> = pieces.skip(1).map(|p| p.tokens.start).collect();
                    let zeros = (1..32).filter(|at| inputs[*at] == 0);
                    assert_eq!(begins, zeros.collect::<Vec<_>>());
                    crossed += begins.len();
                    carried += usize::from(batch.carry[row].is_some());
                    assert!(batch.carry[row].is_none() || inputs[0] > 0);
                }
                assert_eq!(batch.part(1, 3).borders, batch.borders.rows(1, 3));
            }
            assert!(crossed > 50 && carried > 50, "{crossed} {carried}");
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
            assert!(refused(30, Packing::Packed, 4).contains("per_device_train_batch_size"));
            assert!(refused(8, Packing::Packed, 1).contains("needs 9"));
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

    mod eval_source {
        use super::super::*;

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

    mod workers {
        use super::super::*;

        /// Numbers, of which one cannot be made and one kills its thread.
        fn numbers(fails_at: u64, dies_at: u64) -> impl Fn(u64) -> Made<u64> + Clone {
            move |step| {
                assert!(step != dies_at, "the disk of batch {step} is gone");
                if step == fails_at {
                    return Err(DataError::Unusable(format!("no batch {step}")));
                }
                Ok(step)
            }
        }

        const NEVER: u64 = u64::MAX;

        fn take(workers: &mut Workers<u64>, n: usize) -> Vec<u64> {
            (0..n).map(|_| workers.take().unwrap()).collect()
        }

        #[test]
        fn any_number_of_threads_gives_the_same_batches() {
            for count in [1, 2, 5] {
                let mut workers = Workers::start(numbers(NEVER, NEVER), 7, count).unwrap();
                assert_eq!(
                    take(&mut workers, 20),
                    (7..27).collect::<Vec<_>>(),
                    "{count}"
                );
            }
        }

        #[test]
        fn an_id_that_no_token_has_is_an_error() {
            use crate::data::{DataConfig, Packing, TokenStore, TrainSource};
            let store = TokenStore::from_documents(&[vec![1, 2, 300, 4, 5, 6, 7, 8, 9]]);
            let config = DataConfig {
                max_seq_length: 8,
                packing: Packing::Shuffled,
                ..DataConfig::default()
            };
            let source = TrainSource::new(store, &config, 1, 0).unwrap();
            let make = |size: usize| source.batch(0).and_then(|batch| batch.within(size));
            make(301).unwrap();
            let error = make(300).unwrap_err().to_string();
            assert!(
                error.contains("300") && error.contains("data.cache_dir"),
                "{error}"
            );
        }

        #[test]
        fn an_error_arrives_with_its_batch_and_a_dead_thread_is_said() {
            let mut workers = Workers::start(numbers(4, NEVER), 0, 2).unwrap();
            take(&mut workers, 4);
            let error = workers.take().unwrap_err();
            assert_eq!(error.to_string(), "no batch 4");

            let mut workers = Workers::start(numbers(NEVER, 3), 0, 2).unwrap();
            take(&mut workers, 3);
            let error = workers.take().unwrap_err().to_string();
            assert!(
                error.contains("data.num_workers") && error.contains("batch 3"),
                "{error}"
            );
        }
    }
}
