//! What a memory holds: accuracy on made rows by distance, a needle in a text, the loss by position.
//!
//! Rows and texts are read in pieces with the state carried on, so memory does not grow with their
//! length; logits are made where an answer is asked for and nowhere else. Made rows are held out: no run
//! has learned from any of them.

use crate::data::needle::{self, CANDIDATES};
use crate::data::{DataConfig, DataError, IGNORE_INDEX, Kind, Part, TaskRow, TokenStore, draw};
use crate::error::TrainError;
use crate::evaluate::finite;
use crate::step::loss::token_losses;
use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use infinity_model::count::state_bytes;
use infinity_model::{InfinityModel, ModelState, Tokenizer};
use std::collections::BTreeMap;
use std::ops::Range;

/// Distances below this are one bucket; every further bucket is as wide as all before it together.
const NEAR: u64 = 32;
/// What is asked for where nothing else is said.
pub const QUESTION: &str = "\nThe secret number of the old house is";

/// How a task is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOptions {
    /// Tokens of a row or a text, each measured on its own.
    pub lengths: Vec<usize>,
    /// Independent samples of every length.
    pub seeds: u64,
    /// Made rows of every seed.
    pub rows: usize,
    /// Rows, and values of a needle, that are read together.
    pub batch: usize,
    /// Tokens read by one call of the model.
    pub window: usize,
    /// As `training.loss_chunk`.
    pub loss_chunk: usize,
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Tokens of a row or a text.
    pub length: usize,
    /// Which answers, where a task has two kinds: "sticky" or "volatile".
    pub kind: Option<&'static str>,
    /// Tokens between an answer and the question for it; of a text, positions.
    pub range: Range<u64>,
    /// Answers, or predicted tokens.
    pub answers: u64,
    /// The part that is right; none where tokens of a text are predicted.
    pub accuracy: Option<f64>,
    /// Mean loss in nats; of a needle, among its possible values.
    pub loss: f64,
    /// Standard error of the accuracy, or else of the loss, from seed to seed.
    pub standard_error: Option<f64>,
    /// Bytes of one row's state at the end.
    pub state_bytes: u64,
}

/// Counts of one seed in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    answers: u64,
    right: u64,
    loss: f64,
}

impl Sums {
    fn add(&mut self, right: bool, loss: f64) {
        self.answers += 1;
        self.right += u64::from(right);
        self.loss += loss;
    }

    fn mean(&self, of: f64) -> f64 {
        of / self.answers.max(1) as f64
    }
}

/// Counts of one seed by kind and bucket.
type Tally = BTreeMap<(Kind, u32), Sums>;

/// Where a bucket of distances lies.
fn distances(bucket: u32) -> Range<u64> {
    match bucket {
        0 => 0..NEAR,
        n => NEAR << (n - 1)..NEAR << n,
    }
}

fn bucket_of_distance(distance: u64) -> u32 {
    match distance / NEAR {
        0 => 0,
        n => n.ilog2() + 1,
    }
}

/// Where a bin of positions lies.
fn positions(bin: u32) -> Range<u64> {
    match bin {
        0 => 0..1,
        n => 1 << (n - 1)..1 << n,
    }
}

fn bin_of_position(position: u64) -> u32 {
    match position {
        0 => 0,
        n => n.ilog2() + 1,
    }
}

/// What is measured at one length, before it is told.
struct Measured<'a> {
    model: &'a InfinityModel,
    length: usize,
    seeds: Vec<Tally>,
}

impl Measured<'_> {
    fn figures(
        self,
        range: impl Fn(u32) -> Range<u64>,
        has_accuracy: bool,
    ) -> Result<Vec<Figure>, TrainError> {
        let keys: BTreeMap<(Kind, u32), ()> = self
            .seeds
            .iter()
            .flat_map(|tally| tally.keys().map(|key| (*key, ())))
            .collect();
        let figures = keys.into_keys().map(|key| {
            let of_seeds: Vec<Sums> = self
                .seeds
                .iter()
                .filter_map(|t| t.get(&key).copied())
                .collect();
            let mut all = Sums::default();
            for sums in &of_seeds {
                all.answers += sums.answers;
                all.right += sums.right;
                all.loss += sums.loss;
            }
            let loss = all.mean(all.loss);
            finite(loss)?;
            let means = of_seeds.iter().map(|sums| match has_accuracy {
                true => sums.mean(sums.right as f64),
                false => sums.mean(sums.loss),
            });
            let Range { start, end } = range(key.1);
            Ok(Figure {
                length: self.length,
                kind: match key.0 {
                    Kind::Plain => None,
                    Kind::Sticky => Some("sticky"),
                    Kind::Volatile => Some("volatile"),
                },
                range: start..end.min(self.length as u64),
                answers: all.answers,
                accuracy: has_accuracy.then(|| all.mean(all.right as f64)),
                loss,
                standard_error: standard_error(&means.collect::<Vec<_>>()),
                state_bytes: state_bytes(self.model.config(), 1, self.length as u64),
            })
        });
        figures.collect()
    }
}

/// Of a mean of several numbers; none of a single one.
fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (spread / (n - 1.0) / n).sqrt())
}

fn refuse<T>(key: &'static str, value: impl ToString, reason: String) -> Result<T, TrainError> {
    Err(TrainError::from(DataError::BadValue {
        key,
        value: value.to_string(),
        reason,
    }))
}

fn check(options: &TaskOptions) -> Result<(), TrainError> {
    for (key, value) in [
        ("context lengths", options.lengths.len()),
        ("seeds", options.seeds as usize),
        ("rows", options.rows),
        ("batch", options.batch),
        ("window", options.window),
    ] {
        if value == 0 {
            return refuse(key, value, "must be at least 1".to_owned());
        }
    }
    Ok(())
}

/// Reads with a model and counts what it read.
struct Reader<'a> {
    model: InfinityModel,
    options: &'a TaskOptions,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Reader<'a> {
    /// One that is to read every length `times` over.
    fn new(
        model: &InfinityModel,
        options: &'a TaskOptions,
        times: u64,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let lengths = options.lengths.iter().map(|length| *length as u64);
        Reader {
            model: model.clone().valid(),
            options,
            done: 0,
            total: lengths.sum::<u64>() * times,
            progress,
        }
    }
}

impl Reader<'_> {
    /// One call: the hidden vectors of `inputs`, row after row, and the next state.
    fn read(&self, inputs: Vec<i32>, rows: usize, state: ModelState) -> (Tensor<3>, ModelState) {
        let shape = [rows, inputs.len() / rows];
        let tokens =
            Tensor::<2, Int>::from_data(TensorData::new(inputs, shape), &self.model.device());
        self.model.forward_hidden(tokens, state)
    }

    /// Tells that `tokens` more have been read.
    fn tell(&mut self, tokens: usize) {
        self.done += tokens as u64;
        (self.progress)(self.done, self.total);
    }

    /// Loss of every one of `targets` behind `hidden`, 0 where it is ignored.
    fn losses(&self, hidden: Tensor<3>, targets: &[i32]) -> Vec<f32> {
        let (weight, formats) = (self.model.output_weight(), self.model.formats());
        token_losses(hidden, weight, targets, self.options.loss_chunk, formats)
    }

    /// Whether every answer of `rows` is right, and its loss: row after row in every piece.
    fn answers(&mut self, rows: &[TaskRow], tally: &mut Tally) {
        let len = rows[0].inputs.len();
        let mut state = self.model.initial_state(rows.len());
        for from in (0..len).step_by(self.options.window) {
            let to = len.min(from + self.options.window);
            let inputs = rows.iter().flat_map(|row| &row.inputs[from..to]);
            let (hidden, next) = self.read(inputs.copied().collect(), rows.len(), state);
            state = next;
            self.tell(rows.len() * (to - from));
            let asked: Vec<_> = rows
                .iter()
                .enumerate()
                .flat_map(|(i, row)| row.answers.iter().map(move |answer| (i, row, answer)))
                .filter(|(_, _, answer)| (from..to).contains(&answer.at))
                .collect();
            if asked.is_empty() {
                continue;
            }
            let places = asked
                .iter()
                .map(|(i, _, answer)| (i * (to - from) + answer.at - from) as i32);
            let places = TensorData::new(places.collect::<Vec<_>>(), [asked.len()]);
            let [b, t, d] = hidden.dims();
            let places = Tensor::<1, Int>::from_data(places, &hidden.device());
            let hidden = hidden.reshape([b * t, d]).select(0, places);
            let logits = self.model.logits(hidden.unsqueeze::<3>()).into_data();
            let logits: Vec<f32> = logits.iter::<f32>().collect();
            let vocabulary = logits.len() / asked.len();
            for (logits, (_, row, answer)) in logits.chunks(vocabulary).zip(asked) {
                let (right, loss) = judge(logits, row.targets[answer.at]);
                let bucket = bucket_of_distance(answer.distance as u64);
                tally
                    .entry((answer.kind, bucket))
                    .or_default()
                    .add(right, loss);
            }
        }
    }
}

/// Whether `target` has the greatest of `logits`, alone, and its loss in nats.
fn judge(logits: &[f32], target: i32) -> (bool, f64) {
    let of_target = f64::from(logits[target as usize]);
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    let others = logits
        .iter()
        .enumerate()
        .filter(|(id, _)| *id as i32 != target);
    let right = others.map(|(_, x)| f64::from(*x)).all(|x| x < of_target);
    (right, sum.ln() + f64::from(most) - of_target)
}

/// Measures `model` on the task of `data.source`, by the distance between answer and question. A row has as
/// many tokens as `options.lengths` says instead of `data.max_seq_length`.
///
/// # Errors
/// A size that cannot be, named; a vocabulary that is not the model's; a loss that is not finite.
pub fn evaluate_rows(
    model: &InfinityModel,
    data: &DataConfig,
    options: &TaskOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Figure>, TrainError> {
    check(options)?;
    let per_seed = options.rows as u64 * options.seeds;
    let mut reader = Reader::new(model, options, per_seed, progress);
    let mut figures = Vec::new();
    for length in &options.lengths {
        let data = DataConfig {
            max_seq_length: *length,
            ..data.clone()
        };
        let rows = data.task_rows(Part::HeldOut, 0)?;
        if rows.vocab_size() > model.config().vocab_size {
            let reason = format!(
                "its rows have {} kinds of tokens, and the model knows {}",
                rows.vocab_size(),
                model.config().vocab_size
            );
            return refuse("data.source", rows.task(), reason);
        }
        // Seed 0 is what runs validate on.
        let seeds = (1..=options.seeds).map(|seed| {
            let (rows, mut tally) = (rows.with_seed(seed), Tally::new());
            let numbers: Vec<u64> = (0..options.rows as u64).collect();
            for numbers in numbers.chunks(options.batch) {
                let rows: Vec<TaskRow> = numbers.iter().map(|n| rows.row(*n)).collect();
                reader.answers(&rows, &mut tally);
            }
            tally
        });
        let measured = Measured {
            model,
            length: *length,
            seeds: seeds.collect(),
        };
        figures.extend(measured.figures(distances, true)?);
    }
    Ok(figures)
}

/// A sentence with a value, hidden in a text, and the question for it.
#[derive(Clone, Debug)]
pub struct Needle {
    question: Vec<i32>,
    candidates: Vec<Vec<i32>>,
}

impl Needle {
    /// The sentence `question`, ended by one of 100 values: two digits, or two letters where `tokenizer` has
    /// no digits.
    ///
    /// # Errors
    /// The tokenizer cannot write the sentence.
    pub fn new(tokenizer: &Tokenizer, question: &str) -> Result<Self, TrainError> {
        let Some(question_ids) = needle::encoded(tokenizer, question) else {
            let reason = "the model's tokenizer cannot write it; give another one".to_owned();
            return refuse("question", format!("{question:?}"), reason);
        };
        let Some(candidates) = needle::values(tokenizer) else {
            let reason =
                "the model's tokenizer can write neither digits nor letters behind it".to_owned();
            return refuse("question", format!("{question:?}"), reason);
        };
        assert_eq!(candidates.len(), CANDIDATES);
        Ok(Needle {
            question: question_ids,
            candidates,
        })
    }

    /// Tokens of the shortest text that holds the sentence and the question.
    fn least(&self) -> usize {
        let longest = self.candidates.iter().map(Vec::len).max().unwrap_or(0);
        2 * self.question.len() + longest + 1
    }
}

/// Tokens of `text` from `start` on; behind its end it begins again.
fn around(text: &TokenStore, start: u64, count: usize) -> Result<Vec<i32>, DataError> {
    let mut tokens = Vec::with_capacity(count);
    let mut from = start % text.len();
    while tokens.len() < count {
        let take = (count - tokens.len()).min((text.len() - from) as usize);
        text.read(from, take, &mut tokens)?;
        from = 0;
    }
    Ok(tokens)
}

/// Hides `needle` at a random place of `options.lengths` tokens of `text` and asks for it: right where its
/// value is the likeliest of all. A shorter text is repeated.
///
/// # Errors
/// A length that has no room; a text that cannot be read; a loss that is not finite.
pub fn evaluate_needle(
    model: &InfinityModel,
    text: &TokenStore,
    needle: &Needle,
    options: &TaskOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Figure>, TrainError> {
    check(options)?;
    if text.is_empty() {
        return refuse("text", 0, "has no tokens".to_owned());
    }
    if let Some(length) = options
        .lengths
        .iter()
        .find(|length| **length < needle.least())
    {
        let limit = format!("sentence and question alone take {} tokens", needle.least());
        return refuse("context lengths", length, limit);
    }
    let mut reader = Reader::new(model, options, options.seeds, progress);
    let mut figures = Vec::new();
    for length in &options.lengths {
        let mut seeds = Vec::new();
        for seed in 1..=options.seeds {
            let mut sums = Sums::default();
            let (right, loss) = one_needle(&mut reader, text, needle, (*length, seed))?;
            sums.add(right, loss);
            seeds.push(Tally::from([((Kind::Plain, 0), sums)]));
        }
        let length = *length;
        let measured = Measured {
            model,
            length,
            seeds,
        };
        figures.extend(measured.figures(|_| 0..length as u64, true)?);
    }
    Ok(figures)
}

/// One haystack: whether the hidden value is the likeliest, and its loss among all values.
fn one_needle(
    reader: &mut Reader<'_>,
    text: &TokenStore,
    needle: &Needle,
    (length, seed): (usize, u64),
) -> Result<(bool, f64), DataError> {
    let random = |what, n: usize| draw(&[seed, length as u64, what], n as u64) as usize;
    let hidden = random(0, CANDIDATES);
    let (question, value) = (&needle.question, &needle.candidates[hidden]);
    let hay = length - 2 * question.len() - value.len();
    let depth = random(1, hay + 1);
    let mut tokens = around(text, draw(&[seed, length as u64, 2], text.len()), hay)?;
    tokens.splice(depth..depth, question.iter().chain(value).copied());
    tokens.extend(question);
    let mut state = reader.model.initial_state(1);
    // The last token is read with the values, because it predicts their first.
    let (last, before) = tokens.split_last().expect("a question has tokens");
    for piece in before.chunks(reader.options.window) {
        state = reader.read(piece.to_vec(), 1, state).1;
        reader.tell(piece.len());
    }
    let longest = needle.candidates.iter().map(Vec::len).max().unwrap_or(0);
    let mut losses = Vec::with_capacity(CANDIDATES);
    for values in needle.candidates.chunks(reader.options.batch) {
        let padded = |value: &[i32], filler: i32| -> Vec<i32> {
            let padding = std::iter::repeat_n(filler, longest - value.len());
            value.iter().copied().chain(padding).collect()
        };
        let targets: Vec<i32> = values
            .iter()
            .flat_map(|v| padded(v, IGNORE_INDEX))
            .collect();
        let inputs = values.iter().flat_map(|value| {
            let read = std::iter::once(*last).chain(padded(value, *last));
            read.take(longest).collect::<Vec<_>>()
        });
        let rows = state.clone().gather_rows(&vec![Some(0); values.len()]);
        let inputs: Vec<i32> = inputs.collect();
        let (hidden, _) = reader.read(inputs, values.len(), rows);
        let found = reader.losses(hidden, &targets);
        losses.extend(found.chunks(longest).map(|row| -row.iter().sum::<f32>()));
    }
    reader.tell(1);
    Ok(judge(&losses, hidden as i32))
}

/// The loss of the tokens of `text` by their position behind an empty state, in bins of powers of two, from
/// a random start for every seed.
///
/// # Errors
/// A length that the text does not have; a text that cannot be read; a loss that is not finite.
pub fn evaluate_positions(
    model: &InfinityModel,
    text: &TokenStore,
    options: &TaskOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Figure>, TrainError> {
    check(options)?;
    if let Some(length) = options
        .lengths
        .iter()
        .find(|length| **length as u64 >= text.len())
    {
        let limit = format!(
            "the text has {} tokens, and one more than it is needed",
            text.len()
        );
        return refuse("context lengths", length, limit);
    }
    let mut reader = Reader::new(model, options, options.seeds, progress);
    let mut figures = Vec::new();
    for length in &options.lengths {
        let last = text.len() - *length as u64;
        let starts: Vec<u64> = (1..=options.seeds)
            .map(|seed| draw(&[seed, *length as u64], last))
            .collect();
        let mut seeds = Vec::new();
        for starts in starts.chunks(options.batch) {
            seeds.extend(by_position(&mut reader, text, starts, *length)?);
        }
        let measured = Measured {
            model,
            length: *length,
            seeds,
        };
        figures.extend(measured.figures(positions, false)?);
    }
    Ok(figures)
}

/// Streams of `length` targets from each of `starts`, side by side.
fn by_position(
    reader: &mut Reader<'_>,
    text: &TokenStore,
    starts: &[u64],
    length: usize,
) -> Result<Vec<Tally>, DataError> {
    let mut tallies = vec![Tally::new(); starts.len()];
    let mut state = reader.model.initial_state(starts.len());
    for from in (0..length).step_by(reader.options.window) {
        let len = reader.options.window.min(length - from);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for start in starts {
            text.read(start + from as u64, len, &mut inputs)?;
            text.read(start + from as u64 + 1, len, &mut targets)?;
        }
        let (hidden, next) = reader.read(inputs, starts.len(), state);
        state = next;
        let losses = reader.losses(hidden, &targets);
        reader.tell(targets.len());
        for (tally, losses) in tallies.iter_mut().zip(losses.chunks(len)) {
            for (i, loss) in losses.iter().enumerate() {
                let bin = bin_of_position((from + i) as u64);
                let sums = tally.entry((Kind::Plain, bin)).or_default();
                sums.add(false, f64::from(*loss));
            }
        }
    }
    Ok(tallies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        for (range, of) in [
            (
                distances as fn(u32) -> Range<u64>,
                bucket_of_distance as fn(u64) -> u32,
            ),
            (positions, bin_of_position),
        ] {
            let mut next = 0;
            for bucket in 0..16 {
                let Range { start, end } = range(bucket);
                assert_eq!(start, next);
                assert!((start..end).all(|at| of(at) == bucket), "{bucket}");
                next = end;
            }
        }
        assert_eq!(
            [0, 1, 2, 3].map(distances),
            [0..32, 32..64, 64..128, 128..256]
        );
    }

    #[test]
    fn an_answer_is_right_where_it_is_the_likeliest_alone() {
        let (right, loss) = judge(&[0.0, 2.0, 1.0], 1);
        let expected = (0f64.exp() + 2f64.exp() + 1f64.exp()).ln() - 2.0;
        assert!(right && (loss - expected).abs() < 1e-9);
        assert!(!judge(&[0.0, 2.0, 1.0], 2).0);
        assert!(
            !judge(&[2.0, 2.0], 0).0,
            "a model that says one thing always is not right"
        );
        assert!(judge(&[f32::NAN, 1.0], 1).1.is_nan());
    }

    /// Runs learn from others like it.
    #[test]
    fn the_question_is_one_of_those_that_windows_hide() {
        assert_eq!(needle::question("old house"), QUESTION);
    }

    #[test]
    fn errors_are_from_seed_to_seed() {
        assert_eq!(standard_error(&[0.5]), None);
        assert!((standard_error(&[0.0, 1.0]).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_short_text_begins_again() {
        let text = TokenStore::from_documents(&[vec![1, 2, 3]]);
        assert_eq!(around(&text, 2, 6).unwrap(), [3, 1, 2, 3, 1, 2]);
    }
}
