//! Tasks that show what a memory holds: rows made from a number, with answers that stand in them.
//!
//! ```text
//! recall   k₁ v₁ … k_P v_P  q …          target of a q: the value behind that key
//! sticky   s₁ v₁ … s_P v_P  (k v | ? q)…  as many other keys are written over and over; ? asks for either
//! parity   0 1 1 0 …                     target of every bit: the parity of all bits so far
//! copy     x₁ … x_n | x₁ … x_{n−1}        targets behind |: x₁ … x_n
//! ```
//!
//! Only answers carry loss. Recall is MQAR (Arora et al., arXiv:2312.04927). A row is a pure function
//! of (seed, row number) and of nothing else: a resumed run goes on exactly where it stopped.
//! Training and held-out rows are parted by a hash of what stands in them, so that no row is ever both,
//! whatever the seeds.

use super::batch::{HostBatch, IGNORE_INDEX};
use super::error::{DataError, bad, within};
use super::random::{Chance, below, mix};
use crate::section::section;
use std::fmt;

/// Rows that count as one epoch. Rows of later epochs are new ones too.
const EPOCH: u64 = 1 << 17;
/// One row in so many is held out.
const HELD_OUT: u64 = 8;
/// Bits of chance that a row needs at least: a thousand epochs of distinct rows.
const LEAST_BITS: f64 = 27.0;
/// Rows beyond which a validation is no longer a sample.
const MOST_ROWS: usize = 1 << 20;
/// Kinds of tokens that a task may have.
const MOST_KINDS: usize = 1 << 16;

/// What a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The value behind a key, out of many pairs that were written once.
    Recall,
    /// The same where some keys were written once, long ago, and others are overwritten all the time.
    Sticky,
    /// Whether the number of ones so far is odd.
    Parity,
    /// Everything before the mark, again.
    Copy,
}

/// The word for it in configurations and on the command line.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

section! {
    /// `[data.task]`: sizes of a task, for `data.source` = "recall", "sticky", "parity" and "copy". A row has
    /// `data.max_seq_length` tokens.
    #[derive(Copy)]
    TaskConfig {
        /// recall: pairs of a row, 40 if unset; sticky: keys written once, and as many volatile ones, 8 if
        /// unset.
        pairs: Option<usize> = None;
        /// recall: queries of a row. Unset: 48, or as many as there is room for. Where they leave room,
        /// fillers stand between them.
        queries: Option<usize> = None;
        /// recall and sticky: different keys there are.
        keys: usize = 64;
        /// Different values there are; for copy, symbols.
        values: usize = 64;
        /// Rows that are held out for validation.
        validation_rows: usize = 512;
    }
}

/// Which rows: those to learn from, or those held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// Held out: never among the training rows of any seed.
    HeldOut,
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The only kind that the task has.
    Plain,
    /// A key that was written once.
    Sticky,
    /// A key that is overwritten all the time.
    Volatile,
}

/// A target that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Position of the token after which it is asked for.
    pub at: usize,
    /// Tokens from the one that holds the answer to the one that asks for it; for parity, the bits that
    /// count, less one.
    pub distance: usize,
    /// What it is about.
    pub kind: Kind,
}

/// One row of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskRow {
    /// Token ids.
    pub inputs: Vec<i32>,
    /// The answer asked for after each input, or [`IGNORE_INDEX`].
    pub targets: Vec<i32>,
    /// The targets that count, by position.
    pub answers: Vec<Answer>,
}

/// All rows of a task, none of them in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRows {
    task: Task,
    part: Part,
    seed: u64,
    len: usize,
    pairs: usize,
    queries: usize,
    keys: usize,
    values: usize,
    rows: u64,
}

impl TaskRows {
    /// The rows of `task`, each of `len` tokens, with the sizes of `config`.
    ///
    /// # Errors
    /// A size that cannot be, with its key and its limit.
    pub fn new(
        task: Task,
        config: &TaskConfig,
        len: usize,
        part: Part,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (keys, values, held_out) = (config.keys, config.values, config.validation_rows);
        within("data.task.keys", keys, 2..=MOST_KINDS)?;
        within("data.task.values", values, 2..=MOST_KINDS)?;
        within("data.task.validation_rows", held_out, 1..=MOST_ROWS)?;
        if let (Task::Parity | Task::Copy, Some(pairs)) = (task, config.pairs) {
            let reason = format!("`data.source = \"{task}\"` has no pairs");
            return bad("data.task.pairs", pairs, reason);
        }
        let pairs = config.pairs.unwrap_or(match task {
            Task::Recall => 40,
            Task::Sticky => 8,
            Task::Parity | Task::Copy => 0,
        });
        let most = keys / if task == Task::Sticky { 2 } else { 1 };
        if pairs > most || config.pairs == Some(0) {
            let limit = format!(
                "must be from 1 to {most}: a row's keys differ, and `data.task.keys` is {keys}"
            );
            return bad("data.task.pairs", pairs, limit);
        }
        let room = len.saturating_sub(2 * pairs);
        let least = 2 * pairs + if task == Task::Recall { 1 } else { 2 };
        if len < least {
            let limit =
                format!("a row of `data.source = \"{task}\"` has at least {least} tokens here");
            return bad("data.max_seq_length", len, limit);
        }
        let queries = match (task, config.queries) {
            (Task::Recall, queries) => queries.unwrap_or(room.min(48)),
            (_, None) => 0,
            (_, Some(queries)) => {
                let reason = format!("`data.source = \"{task}\"` asks wherever there is room");
                return bad("data.task.queries", queries, reason);
            }
        };
        if task == Task::Recall && !(1..=room).contains(&queries) {
            let limit = format!(
                "must be from 1 to {room}: so many of `data.max_seq_length = {len}` tokens are left \
                 behind {pairs} pairs"
            );
            return bad("data.task.queries", queries, limit);
        }
        let rows = TaskRows {
            task,
            part,
            seed,
            len,
            pairs,
            queries,
            keys,
            values: if task == Task::Parity { 2 } else { values },
            rows: match part {
                Part::Train => EPOCH,
                Part::HeldOut => held_out as u64,
            },
        };
        if rows.bits() < LEAST_BITS {
            let reason = format!(
                "rows of {len} tokens would soon repeat: at most 2^{:.1} are different, and 2^{LEAST_BITS} are \
                 needed",
                rows.bits()
            );
            return bad("data.source", task, reason);
        }
        Ok(rows)
    }

    /// Binary logarithm of a number of different rows that there are at least.
    fn bits(&self) -> f64 {
        let free = match self.task {
            Task::Recall | Task::Sticky => self.pairs,
            Task::Parity => self.len,
            Task::Copy => self.len.div_ceil(2),
        };
        free as f64 * (self.values as f64).log2()
    }

    /// The same task with other random numbers.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Tokens of a row.
    pub fn row_len(&self) -> usize {
        self.len
    }

    /// Rows of an epoch, or of all that is held out.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Kinds of tokens: values, keys, the filler and the mark.
    pub fn vocab_size(&self) -> usize {
        match self.task {
            Task::Parity => 2,
            Task::Copy => self.values + 2,
            Task::Recall | Task::Sticky => self.values + self.keys + 2,
        }
    }

    fn key(&self, key: usize) -> i32 {
        (self.values + key) as i32
    }

    /// Stands where nothing is said.
    fn filler(&self) -> i32 {
        self.vocab_size() as i32 - 2
    }

    /// Parts what is said from what is asked.
    fn mark(&self) -> i32 {
        self.vocab_size() as i32 - 1
    }

    /// What the rows are, in words that differ wherever rows do.
    pub fn describe(&self) -> String {
        let Self { task, len, .. } = self;
        match task {
            Task::Recall => format!(
                "recall: {} pairs, {} queries, {len} tokens, {} keys, {} values",
                self.pairs, self.queries, self.keys, self.values
            ),
            Task::Sticky => format!(
                "sticky: {0} keys written once and {0} volatile ones, {len} tokens, {1} keys, {2} values",
                self.pairs, self.keys, self.values
            ),
            Task::Parity => format!("parity: {len} bits"),
            Task::Copy => format!("copy: {len} tokens, {} symbols", self.values),
        }
    }

    /// Row number `n`.
    pub fn row(&self, n: u64) -> TaskRow {
        let wanted = self.part == Part::HeldOut;
        // Of `HELD_OUT` rows one is held out: what is made is made again until it is on the right side,
        // which takes as many tries on average and never nearly as many as there are numbers.
        (0..u64::MAX)
            .map(|attempt| self.draw(mix(&[self.seed, self.part as u64, n, attempt])))
            .find(|row| held_out(&row.inputs) == wanted)
            .expect("a task has rows on both sides")
    }

    fn draw(&self, key: u64) -> TaskRow {
        let (mut row, mut chance) = (TaskRow::default(), Chance::new(key));
        let write = match self.task {
            Task::Recall => Self::recall,
            Task::Sticky => Self::sticky,
            Task::Parity => Self::parity,
            Task::Copy => Self::copy,
        };
        write(self, &mut row, &mut chance);
        row
    }

    /// A key with a new value; where the value stands, and the value.
    fn write(&self, row: &mut TaskRow, chance: &mut Chance, key: usize) -> (usize, i32) {
        let value = chance.below(self.values) as i32;
        row.say(self.key(key));
        row.say(value);
        (row.inputs.len() - 1, value)
    }

    fn recall(&self, row: &mut TaskRow, chance: &mut Chance) {
        let keys = chance.distinct(self.pairs, self.keys);
        let written = keys.iter().map(|key| self.write(row, chance, *key));
        let held: Vec<(usize, i32)> = written.collect();
        let (mut room, mut queries) = (self.len - 2 * self.pairs, self.queries);
        while room > 0 {
            if chance.below(room) < queries {
                let pair = chance.below(self.pairs);
                let (from, value) = held[pair];
                row.ask(self.key(keys[pair]), value, from, Kind::Plain);
                queries -= 1;
            } else {
                row.say(self.filler());
            }
            room -= 1;
        }
    }

    fn sticky(&self, row: &mut TaskRow, chance: &mut Chance) {
        let keys = chance.distinct(2 * self.pairs, self.keys);
        let (sticky, volatile) = keys.split_at(self.pairs);
        let mut held: Vec<Option<(usize, i32)>> = vec![None; 2 * self.pairs];
        for (held, key) in held.iter_mut().zip(sticky) {
            *held = Some(self.write(row, chance, *key));
        }
        while self.len - row.inputs.len() >= 2 {
            if chance.below(2) == 0 {
                let place = chance.below(self.pairs);
                held[self.pairs + place] = Some(self.write(row, chance, volatile[place]));
                continue;
            }
            let live: Vec<usize> = (self.pairs..2 * self.pairs)
                .filter(|place| held[*place].is_some())
                .collect();
            let (place, kind) = match chance.below(2) {
                0 if !live.is_empty() => (live[chance.below(live.len())], Kind::Volatile),
                _ => (chance.below(self.pairs), Kind::Sticky),
            };
            let (from, value) = held[place].expect("written before");
            row.say(self.mark());
            row.ask(self.key(keys[place]), value, from, kind);
        }
        if row.inputs.len() < self.len {
            row.say(self.filler());
        }
    }

    fn parity(&self, row: &mut TaskRow, chance: &mut Chance) {
        let mut parity = 0;
        for _ in 0..self.len {
            let bit = chance.below(2) as i32;
            parity ^= bit;
            row.ask(bit, parity, 0, Kind::Plain);
        }
    }

    fn copy(&self, row: &mut TaskRow, chance: &mut Chance) {
        let n = self.len.div_ceil(2);
        let symbols: Vec<i32> = (0..n).map(|_| chance.below(self.values) as i32).collect();
        symbols.iter().for_each(|symbol| row.say(*symbol));
        for i in 0..self.len - n {
            let input = if i == 0 { self.mark() } else { symbols[i - 1] };
            row.ask(input, symbols[i], i, Kind::Plain);
        }
    }

    /// The rows from `first` on as a batch of `rows`.
    pub fn batch(&self, first: u64, rows: usize) -> HostBatch {
        let mut batch = HostBatch {
            rows,
            len: self.len,
            carry: vec![None; rows],
            ..HostBatch::default()
        };
        for row in (first..first + rows as u64).map(|n| self.row(n)) {
            batch.valid += row.answers.len();
            batch.inputs.extend(row.inputs);
            batch.targets.extend(row.targets);
        }
        batch
    }
}

impl TaskRow {
    /// A token that nothing is asked after.
    fn say(&mut self, input: i32) {
        self.inputs.push(input);
        self.targets.push(IGNORE_INDEX);
    }

    /// A token after which the `answer` is asked for that the token at `from` holds.
    fn ask(&mut self, input: i32, answer: i32, from: usize, kind: Kind) {
        let at = self.inputs.len();
        self.answers.push(Answer {
            at,
            distance: at - from,
            kind,
        });
        self.inputs.push(input);
        self.targets.push(answer);
    }
}

/// A number below `n` that `parts` name.
pub(crate) fn draw(parts: &[u64], n: u64) -> u64 {
    below(mix(parts), n)
}

/// Which side a row is on.
fn held_out(inputs: &[i32]) -> bool {
    let ids = inputs.iter().map(|id| *id as u64);
    let hash = ids.fold(0x7a5c, |hash, id| mix(&[hash, id]));
    hash.is_multiple_of(HELD_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        DataConfig, DataSource, EvalSource, Packing, TokenizerConfig, TrainSource, prepare,
    };
    use std::collections::HashSet;

    fn data(source: DataSource, len: usize) -> DataConfig {
        DataConfig {
            source,
            max_seq_length: len,
            ..DataConfig::default()
        }
    }

    const ALL: [(DataSource, usize); 4] = [
        (DataSource::Recall, 128),
        (DataSource::Sticky, 192),
        (DataSource::Parity, 64),
        (DataSource::Copy, 41),
    ];

    fn rows(source: DataSource, len: usize, part: Part, seed: u64) -> TaskRows {
        data(source, len).task_rows(part, seed).unwrap()
    }

    /// What is wrong with a row, if anything: every answer that a token holds is held by the token that is
    /// `distance` before the one that asks, and nothing else counts.
    fn fault(rows: &TaskRows, row: &TaskRow) -> Option<String> {
        let len = rows.row_len();
        if row.inputs.len() != len || row.targets.len() != len {
            return Some("length".to_owned());
        }
        if row
            .inputs
            .iter()
            .any(|id| *id < 0 || *id as usize >= rows.vocab_size())
        {
            return Some("an id outside of the vocabulary".to_owned());
        }
        let counted: Vec<usize> = (0..len)
            .filter(|at| row.targets[*at] != IGNORE_INDEX)
            .collect();
        if counted
            != row
                .answers
                .iter()
                .map(|answer| answer.at)
                .collect::<Vec<_>>()
        {
            return Some("targets that are no answers".to_owned());
        }
        for answer in &row.answers {
            let (from, target) = (answer.at - answer.distance, row.targets[answer.at]);
            let right = match rows.task() {
                Task::Parity => {
                    row.inputs[..=answer.at].iter().sum::<i32>() % 2 == target && from == 0
                }
                Task::Copy => row.inputs[from] == target,
                Task::Recall | Task::Sticky => {
                    // The last value behind this key, and that key right before it.
                    let key = row.inputs[answer.at];
                    let written =
                        |at: &usize| row.inputs[*at] == key && row.targets[*at] == IGNORE_INDEX;
                    let last = (0..answer.at).rev().find(written);
                    row.inputs[from] == target && last == Some(from - 1)
                }
            };
            if !right {
                return Some(format!("{answer:?}"));
            }
        }
        None
    }

    #[test]
    fn every_answer_is_in_its_row_at_the_distance_that_is_said() {
        for (source, len) in ALL {
            for part in [Part::Train, Part::HeldOut] {
                let rows = rows(source, len, part, 5);
                for n in 0..200 {
                    let row = rows.row(n);
                    assert_eq!(fault(&rows, &row), None, "{source:?}, row {n}");
                    assert_eq!(row, rows.row(n), "pure");
                }
            }
        }
    }

    #[test]
    fn a_wrong_answer_or_distance_is_seen() {
        for (source, len) in ALL {
            let rows = rows(source, len, Part::Train, 5);
            let row = rows.row(3);
            let at = row.answers[row.answers.len() / 2].at;
            let mut wrong = row.clone();
            wrong.targets[at] ^= 1;
            assert!(fault(&rows, &wrong).is_some(), "{source:?}: another answer");
            let mut off = row.clone();
            let last = off.answers.len() - 1;
            off.answers[last].distance -= 1;
            let seen = fault(&rows, &off).is_some();
            // Two neighbours of a copied text may be the same symbol.
            assert!(
                seen || source == DataSource::Copy,
                "{source:?}: another distance"
            );
        }
    }

    #[test]
    fn recall_has_the_sizes_of_its_preset() {
        let rows = rows(DataSource::Recall, 128, Part::Train, 1);
        let mut buckets = [0usize; 3];
        for n in 0..100 {
            let row = rows.row(n);
            assert_eq!(row.answers.len(), 48);
            assert_eq!(row.answers[0].at, 80, "pairs first");
            let keys: HashSet<i32> = row.inputs[..80].iter().step_by(2).copied().collect();
            assert_eq!(keys.len(), 40, "no key twice");
            for answer in &row.answers {
                buckets[[32, 64]
                    .iter()
                    .filter(|edge| answer.distance >= **edge)
                    .count()] += 1;
            }
        }
        assert!(buckets.iter().all(|count| *count > 300), "{buckets:?}");
        let mut wide = data(DataSource::Recall, 1024);
        wide.task.queries = Some(10);
        let row = wide.task_rows(Part::Train, 1).unwrap().row(0);
        assert_eq!(row.answers.len(), 10);
        assert!(row.answers.iter().any(|answer| answer.distance > 400));
    }

    #[test]
    fn sticky_asks_for_both_kinds_and_overwrites_one_of_them() {
        let rows = rows(DataSource::Sticky, 192, Part::Train, 1);
        let (mut sticky, mut volatile, mut far) = (0, 0, 0);
        for n in 0..50 {
            for answer in rows.row(n).answers {
                match answer.kind {
                    Kind::Sticky => {
                        sticky += 1;
                        far += usize::from(answer.distance > 96);
                        assert!(answer.at - answer.distance < 16, "written at the start");
                    }
                    _ => volatile += 1,
                }
            }
        }
        assert!(
            sticky > 800 && volatile > 800 && far > 300,
            "{sticky} {volatile} {far}"
        );
    }

    #[test]
    fn rows_are_distinct_and_no_row_is_both_learned_and_held_out() {
        for (source, len) in ALL {
            let mut seen = HashSet::new();
            for seed in [0, 1] {
                let train = rows(source, len, Part::Train, seed);
                seen.extend((0..2_000).map(|n| train.row(n).inputs));
            }
            assert_eq!(seen.len(), 4_000, "{source:?}");
            let held = rows(source, len, Part::HeldOut, 0);
            assert!((0..500).all(|n| !seen.contains(&held.row(n).inputs)));
            assert!((0..500).all(|n| held_out(&held.row(n).inputs)));
        }
    }

    #[test]
    fn a_hundred_thousand_rows_are_different() {
        let rows = rows(DataSource::Recall, 128, Part::Train, 3);
        let hash = |n| {
            rows.row(n)
                .inputs
                .iter()
                .fold(1, |h, id| mix(&[h, *id as u64]))
        };
        let seen: HashSet<u64> = (0..100_000).map(hash).collect();
        assert_eq!(seen.len(), 100_000);
    }

    #[test]
    fn a_run_takes_new_rows_at_every_step_and_validates_on_the_same() {
        let config = data(DataSource::Copy, 41);
        let prepared = prepare(&config, &TokenizerConfig::default(), &mut |_| ()).unwrap();
        assert_eq!(
            prepared.tokenizer.vocab_size(),
            64 + 2 + 1,
            "and the end of text"
        );
        let train = |seed| TrainSource::new(prepared.train.clone(), &config, 6, seed).unwrap();
        let source = train(7);
        let batches: Vec<HostBatch> = (0..20).map(|n| source.batch(n).unwrap()).collect();
        let distinct: HashSet<&[i32]> = batches.iter().flat_map(|b| b.inputs.chunks(41)).collect();
        assert_eq!(distinct.len(), 120);
        for n in (0..20).rev() {
            let batch = train(7).batch(n).unwrap();
            assert_eq!(batch, batches[n as usize]);
            let counted = batch
                .targets
                .iter()
                .filter(|id| **id != IGNORE_INDEX)
                .count();
            assert_eq!((counted, batch.valid), (120, 120));
        }
        assert_ne!(train(8).batch(0).unwrap(), batches[0]);
        assert_eq!(source.steps_per_epoch(), EPOCH.div_ceil(6));
        let valid = EvalSource::new(prepared.valid.clone(), 100, 41, false).unwrap();
        let seen: usize = valid.iter().map(|batch| batch.unwrap().rows).sum();
        assert_eq!((seen, valid.batches(), valid.targets()), (512, 6, 512 * 20));
        assert!(EvalSource::new(prepared.valid, 100, 41, true).is_err());
    }

    #[test]
    fn what_cannot_be_names_its_key() {
        let refused = |edit: &dyn Fn(&mut DataConfig)| {
            let mut config = data(DataSource::Recall, 128);
            edit(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (message, words) in [
            (
                refused(&|c| c.task.pairs = Some(65)),
                ["data.task.pairs", "64"],
            ),
            (
                refused(&|c| c.task.pairs = Some(0)),
                ["data.task.pairs", "from 1"],
            ),
            (
                refused(&|c| c.task.queries = Some(49)),
                ["data.task.queries", "48"],
            ),
            (refused(&|c| c.task.keys = 1), ["data.task.keys", "from 2"]),
            (
                refused(&|c| c.task.validation_rows = 0),
                ["validation_rows", "from 1"],
            ),
            (
                refused(&|c| c.max_seq_length = 80),
                ["data.max_seq_length", "81"],
            ),
            (
                refused(&|c| c.train_file = "a.txt".into()),
                ["data.train_file", "recall"],
            ),
            (refused(&|c| c.stateful = true), ["data.stateful", "recall"]),
            (
                refused(&|c| c.packing = Packing::Shuffled),
                ["data.packing", "shuffled"],
            ),
            (
                refused(&|c| {
                    c.source = DataSource::Parity;
                    c.max_seq_length = 12;
                }),
                ["parity", "2^12.0"],
            ),
            (
                refused(&|c| {
                    c.source = DataSource::Sticky;
                    c.task.pairs = Some(33);
                }),
                ["data.task.pairs", "32"],
            ),
            (
                refused(&|c| {
                    c.source = DataSource::Copy;
                    c.task.pairs = Some(3);
                }),
                ["data.task.pairs", "copy"],
            ),
        ] {
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        let tokenizer = TokenizerConfig {
            train_bpe: 512,
            ..TokenizerConfig::default()
        };
        let message = prepare(&data(DataSource::Recall, 128), &tokenizer, &mut |_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("tokenizer"), "{message}");
    }
}
