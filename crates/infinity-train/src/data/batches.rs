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
use super::task::TaskRows;
use infinity_kernels::borders::Borders;
use std::iter::repeat_n;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Fills a batch row by row.
pub(super) struct BatchBuilder<'a> {
    store: &'a TokenStore,
    batch: HostBatch,
    borders: Vec<Vec<usize>>,
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
            borders: Borders::default(),
        };
        Self {
            store,
            batch,
            borders: Vec::with_capacity(rows),
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
        self.piece(start, targets)?;
        let batch = &mut self.batch;
        let padding = batch.len - targets;
        let last = batch.inputs.last().filter(|_| targets > 0);
        let filler = last.copied().unwrap_or(0);
        batch.inputs.extend(repeat_n(filler, padding));
        batch.targets.extend(repeat_n(IGNORE_INDEX, padding));
        self.end_row(carry, Vec::new());
        Ok(())
    }

    /// Adds a row of a window that is there already, with one token more than a row has.
    fn whole(&mut self, window: &[i32], carry: Option<usize>) {
        self.add(window);
        self.end_row(carry, Vec::new());
    }

    /// Adds a row of pieces of documents, which fill it.
    ///
    /// # Errors
    /// The store's.
    fn packed(&mut self, pieces: &[Window], carry: Option<usize>) -> Result<(), DataError> {
        let (mut borders, mut at) = (Vec::with_capacity(pieces.len()), 0);
        for piece in pieces {
            self.piece(piece.start, piece.targets)?;
            borders.push(at);
            at += piece.targets;
        }
        // The first is where the row begins, which its carry speaks of.
        borders.remove(0);
        self.end_row(carry, borders);
        Ok(())
    }

    /// Adds inputs and targets to the row that is made.
    fn piece(&mut self, start: u64, targets: usize) -> Result<(), DataError> {
        if targets > 0 {
            let mut window = Vec::with_capacity(targets + 1);
            self.store.read_marked(start, targets + 1, &mut window)?;
            self.add(&window);
        }
        Ok(())
    }

    /// Adds the tokens of a window but the last, and what follows each where it is predicted.
    fn add(&mut self, window: &[i32]) {
        let mark = if self.store.text.marked { SILENT } else { 0 } as i32;
        let predicted = |id: i32| if id & mark == 0 { id } else { IGNORE_INDEX };
        let (inputs, targets) = (&window[..window.len() - 1], &window[1..]);
        self.batch.inputs.extend(inputs.iter().map(|id| id & !mark));
        let targets = targets.iter().map(|id| predicted(*id));
        self.batch.targets.extend(targets);
    }

    fn end_row(&mut self, carry: Option<usize>, borders: Vec<usize>) {
        self.batch.carry.push(carry);
        self.borders.push(borders);
        debug_assert_eq!(self.batch.inputs.len(), self.borders.len() * self.batch.len);
    }

    pub(super) fn finish(self) -> HostBatch {
        debug_assert_eq!(self.batch.carry.len(), self.batch.rows);
        HostBatch {
            valid: valid(&self.batch.targets),
            borders: Borders::new(self.borders),
            ..self.batch
        }
    }
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
    packing: PackingPlan,
    needles: Option<Needles>,
}

#[derive(Clone, Debug)]
enum PackingPlan {
    Random,
    Shuffled,
    Contiguous,
    Documents(DocumentPlans),
    /// Windows of one target.
    Packed(DocumentPlans),
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
            (None, Packing::Packed) => {
                PackingPlan::Packed(DocumentPlans::new(&store, rows, 1, seed)?)
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
            needles: None,
        };
        source.check()?;
        Ok(source)
    }

    /// The same with sentences hidden in windows of a text.
    pub fn hiding(self, needles: Option<Needles>) -> Self {
        Self { needles, ..self }
    }

    /// A row of a window of the text as it is, or with what is hidden in it: of a stream among the windows that share
    /// numbers, which begin with an empty memory.
    fn plain(
        &self,
        builder: &mut BatchBuilder<'_>,
        start: u64,
        [step, row]: [u64; 2],
        carry: Option<usize>,
    ) -> Result<(), DataError> {
        let Some(needles) = &self.needles else {
            return builder.row(start, self.len, carry);
        };
        let mut window = Vec::with_capacity(self.len + 1);
        self.store.read(start, self.len + 1, &mut window)?;
        let shared = self
            .stateful
            .then(|| Needles::sharing(self.seed, step % self.steps_per_epoch(), row));
        let index = shared.map_or(0, |(index, _)| index);
        needles.hide(&mut window, [self.seed, step - index as u64, row], shared);
        builder.whole(&window, carry.filter(|_| index > 0));
        Ok(())
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

    fn check(&self) -> Result<(), DataError> {
        if self.initial_state.other > 0.0 && self.rows < 2 {
            let reason = format!(
                "needs another row to take a state from, and `training.per_device_train_batch_size` is {}",
                self.rows
            );
            return bad("data.initial_state.other", self.initial_state.other, reason);
        }
        let (tokens, rows, len) = (self.store.len(), self.rows, self.len);
        let enough = match self.packing {
            PackingPlan::Documents(ref plans) => plans.windows() > 0,
            PackingPlan::Packed(ref plans) => plans.windows() >= (rows * len) as u64,
            PackingPlan::Contiguous => self.stream() >= len as u64,
            PackingPlan::Random | PackingPlan::Shuffled => tokens > len as u64,
            PackingPlan::Rows(_) => true,
        };
        if enough {
            return Ok(());
        }
        let reason = match self.packing {
            PackingPlan::Contiguous if tokens > len as u64 => format!(
                "`data.packing = \"contiguous\"` gives every row its own part of the training split, and {tokens} tokens are fewer than {rows} windows of {len}; use fewer rows, shorter windows, or `data.packing = \"random\"`"
            ),
            PackingPlan::Packed(_) if tokens > len as u64 => format!(
                "`data.packing = \"packed\"` fills every row of a batch, and the {tokens} tokens of the training split are too few for {rows} rows of {len}; use fewer rows, shorter windows, or `data.packing = \"documents\"`"
            ),
            _ => return Err(DataError::too_short("training", "more text", tokens, len)),
        };
        let key = "training.per_device_train_batch_size × devices";
        bad(key, rows, reason)
    }

    /// Predicted tokens in a row's part of the store, for `contiguous`.
    fn stream(&self) -> u64 {
        self.store.len().saturating_sub(1) / self.rows as u64
    }

    /// Windows of an epoch, for `shuffled`.
    fn grid(&self) -> u64 {
        (self.store.len() - 1) / self.len as u64
    }

    fn random_start(&self, step: u64, row: u64) -> u64 {
        below(
            mix(&[self.seed, step, row]),
            self.store.len() - self.len as u64,
        )
    }

    fn shuffled_start(&self, step: u64, row: u64) -> u64 {
        let window = step * self.rows as u64 + row;
        let (epoch, place) = (window / self.grid(), window % self.grid());
        let slack = self.store.len() - 1 - self.grid() * self.len as u64;
        let shift = below(mix(&[self.seed, epoch, 0]), slack + 1);
        shift
            + Permutation::new(self.grid(), mix(&[self.seed, epoch, 1])).at(place) * self.len as u64
    }

    fn contiguous_start(&self, step: u64, row: u64) -> u64 {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        // The tokens that fill no window are others in every epoch.
        let slack = self.stream() - steps * self.len as u64;
        let shift = below(mix(&[self.seed, epoch]), slack + 1);
        row * self.stream() + shift + place * self.len as u64
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

    /// The batch number `step`, counted from 0 over all epochs: the same on any thread and in any order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        let mut builder = BatchBuilder::new(&self.store, self.rows, self.len);
        let rows: Vec<usize> = (0..self.rows).collect();
        // The row of the batch before that a row starts from, of those that it may take a state of.
        let carried = |continues: bool, row, others: &[usize]| {
            let state = &self.initial_state;
            let row =
                (self.stateful && continues).then(|| state.draw(self.seed, step, row, others));
            row.flatten()
        };
        match &self.packing {
            PackingPlan::Rows(task) => {
                return Ok(task.batch(step * self.rows as u64, self.rows));
            }
            PackingPlan::Random => {
                for row in 0..self.rows as u64 {
                    let start = self.random_start(step, row);
                    self.plain(&mut builder, start, [step, row], None)?;
                }
            }
            PackingPlan::Shuffled => {
                for row in 0..self.rows as u64 {
                    let start = self.shuffled_start(step, row);
                    self.plain(&mut builder, start, [step, row], None)?;
                }
            }
            PackingPlan::Contiguous => {
                let continues = !step.is_multiple_of(self.steps_per_epoch());
                for &row in &rows {
                    let carry = carried(continues, row, &rows);
                    let start = self.contiguous_start(step, row as u64);
                    self.plain(&mut builder, start, [step, row as u64], carry)?;
                }
            }
            PackingPlan::Documents(plans) => {
                let whole = self.whole_rows(plans, step);
                for (row, window) in plans.windows_of(step).enumerate() {
                    let carry = carried(window.continues, row, &whole);
                    builder.row(window.start, window.targets, carry)?;
                }
            }
            PackingPlan::Packed(plans) => {
                let pieces = plans.packed(step, self.len as u64, self.steps_per_epoch());
                for (row, pieces) in pieces.iter().enumerate() {
                    builder.packed(pieces, carried(pieces[0].continues, row, &rows))?;
                }
            }
        }
        Ok(builder.finish())
    }

    /// How many batches see the data once; at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        let (rows, len) = (self.rows as u64, self.len as u64);
        match &self.packing {
            // Random windows have no epochs; this many tokens are as many as there are.
            PackingPlan::Random | PackingPlan::Shuffled => self.grid().div_ceil(rows),
            PackingPlan::Contiguous => self.stream() / len,
            PackingPlan::Documents(plans) => plans.steps(),
            PackingPlan::Packed(plans) => plans.windows() / (rows * len),
            PackingPlan::Rows(task) => task.rows().div_ceil(rows),
        }
        .max(1)
    }
}

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
            return Err(DataError::too_short("validation", "more text", tokens, len));
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
            return bad("eval.carry_state", carry, reason);
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
        (0..self.batches).map(|step| self.batch(step))
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
        let mut builder = BatchBuilder::new(&self.store, self.rows as usize, self.len as usize);
        for row in 0..self.rows {
            let (start, targets) = self.window(row, step);
            let carried = self.carry && step > 0;
            builder.row(start, targets, carried.then_some(row as usize))?;
        }
        Ok(builder.finish())
    }
}

/// Batches that one thread has ready before it waits.
const AHEAD: usize = 2;

type Made<T> = Result<T, DataError>;

/// Batches, or whatever is made of a number, in order.
pub struct Workers<T> {
    workers: Vec<Worker<T>>,
    next: u64,
}

struct Worker<T> {
    batches: Receiver<Made<T>>,
    thread: Option<JoinHandle<()>>,
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
            let thread = Builder::new()
                .name(format!("batches-{i}"))
                .spawn(move || work(make, (from..).step_by(count), &sender));
            let thread = thread.map_err(|error| {
                DataError::Unusable(format!(
                    "cannot start thread {} of the `data.num_workers = {count}` that prepare batches: {error}",
                    i + 1
                ))
            })?;
            Ok(Worker {
                batches,
                thread: Some(thread),
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
        let worker = &mut self.workers[index];
        match worker.batches.recv() {
            Ok(made) => made,
            Err(_) => Err(worker.died()),
        }
    }
}

impl<T> Worker<T> {
    /// Why there will be no more batches.
    fn died(&mut self) -> DataError {
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let text = panic.and_then(|panic| {
            let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            literal.or_else(|| panic.downcast_ref::<String>().cloned())
        });
        let reason = text.unwrap_or_else(|| "it ended without saying why".to_owned());
        DataError::Unusable(format!(
            "a thread that prepares batches (`data.num_workers`) died: {reason}"
        ))
    }
}

/// Makes the batches of `numbers` until nobody takes them, or one cannot be made.
fn work<T>(
    make: impl Fn(u64) -> Made<T>,
    numbers: impl Iterator<Item = u64>,
    sender: &SyncSender<Made<T>>,
) {
    for number in numbers {
        let made = make(number);
        let over = made.is_err();
        if sender.send(made).is_err() || over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    mod batch {
        use super::super::*;

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
