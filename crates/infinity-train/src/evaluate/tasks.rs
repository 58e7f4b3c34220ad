//! What a memory holds: accuracy on made rows by distance, a needle in a text, the loss by position.
//!
//! Rows and texts are read in pieces with the state carried on, so memory does not grow with their
//! length; logits are made where an answer is asked for and nowhere else. Made rows are held out: no run
//! has learned from any of them.

use crate::data::needle::{self, CANDIDATES};
use crate::data::{DataConfig, DataError, IGNORE_INDEX, Kind, Part, TaskRow, TokenStore, draw};
use crate::error::TrainError;
use crate::evaluate::{Reader, at_least_one, finite, pieces, refuse, standard_error};
use burn::tensor::{Int, Tensor, TensorData};
use infinity_model::count::state_bytes;
use infinity_model::{InfinityModel, Tokenizer};
use std::collections::{BTreeMap, BTreeSet};
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

    fn means(&self) -> (f64, f64) {
        let n = self.answers.max(1) as f64;
        (self.right as f64 / n, self.loss / n)
    }
}

/// Counts of one seed by kind and bucket.
type Tally = BTreeMap<(Kind, u32), Sums>;

/// Where a bucket lies, of which the first holds `near` places.
fn bucket(near: u64, number: u32) -> Range<u64> {
    match number {
        0 => 0..near,
        n => near << (n - 1)..near << n,
    }
}

/// The bucket that a place lies in.
fn bucket_of(near: u64, place: u64) -> u32 {
    (place / near).checked_ilog2().map_or(0, |n| n + 1)
}

/// What all seeds say of one length, in buckets of which the first holds `near` places.
fn figures(
    model: &InfinityModel,
    length: usize,
    seeds: &[Tally],
    near: u64,
    has_accuracy: bool,
) -> Result<Vec<Figure>, TrainError> {
    let keys: BTreeSet<&(Kind, u32)> = seeds.iter().flat_map(BTreeMap::keys).collect();
    let figures = keys.into_iter().map(|key| {
        let (mut all, mut means) = (Sums::default(), Vec::new());
        for sums in seeds.iter().filter_map(|tally| tally.get(key)) {
            all.answers += sums.answers;
            all.right += sums.right;
            all.loss += sums.loss;
            let (accuracy, loss) = sums.means();
            means.push(if has_accuracy { accuracy } else { loss });
        }
        let (accuracy, loss) = all.means();
        finite(loss)?;
        let Range { start, end } = bucket(near, key.1);
        Ok(Figure {
            length,
            kind: match key.0 {
                Kind::Plain => None,
                Kind::Sticky => Some("sticky"),
                Kind::Volatile => Some("volatile"),
            },
            range: start..end.min(length as u64),
            answers: all.answers,
            accuracy: has_accuracy.then_some(accuracy),
            loss,
            standard_error: standard_error(&means),
            state_bytes: state_bytes(model.config(), 1, length as u64),
        })
    });
    figures.collect()
}

impl TaskOptions {
    /// A reader of every length, `times` over.
    fn reader<'a>(
        &self,
        model: &InfinityModel,
        times: u64,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Reader<'a>, TrainError> {
        at_least_one(&[
            ("context lengths", self.lengths.len()),
            ("seeds", self.seeds as usize),
            ("rows", self.rows),
            ("batch", self.batch),
            ("window", self.window),
        ])?;
        let tokens: u64 = self.lengths.iter().map(|length| *length as u64).sum();
        let all = tokens * times;
        Ok(Reader::new(model, self.loss_chunk, all, progress))
    }
}

impl Reader<'_> {
    /// Whether every answer of `rows` is right, and its loss: row after row in every piece.
    fn answers(&mut self, rows: &[TaskRow], window: usize, tally: &mut Tally) {
        let len = rows[0].inputs.len();
        let mut state = self.model.initial_state(rows.len());
        for (from, to) in pieces(0..len, window) {
            let inputs = rows.iter().flat_map(|row| &row.inputs[from..to]);
            let (hidden, next) = self.read(inputs.copied().collect(), rows.len(), state);
            state = next;
            self.tell(rows.len() * (to - from));
            let all = rows.iter().enumerate();
            let all =
                all.flat_map(|(i, row)| row.answers.iter().map(move |answer| (i, row, answer)));
            let asked = all.filter(|(_, _, answer)| (from..to).contains(&answer.at));
            let asked: Vec<_> = asked.collect();
            if asked.is_empty() {
                continue;
            }
            let [b, t, d] = hidden.dims();
            let places = asked
                .iter()
                .map(|(i, _, answer)| (i * t + answer.at - from) as i32);
            let places = TensorData::new(places.collect::<Vec<_>>(), [asked.len()]);
            let places = Tensor::<1, Int>::from_data(places, &hidden.device());
            let hidden = hidden.reshape([b * t, d]).select(0, places);
            let logits = self.model.logits(hidden.unsqueeze::<3>()).into_data();
            let logits: Vec<f32> = logits.iter::<f32>().collect();
            let vocabulary = logits.len() / asked.len();
            for (logits, (_, row, answer)) in logits.chunks(vocabulary).zip(asked) {
                let (right, loss) = judge(logits, row.targets[answer.at]);
                let bucket = bucket_of(NEAR, answer.distance as u64);
                let sums = tally.entry((answer.kind, bucket)).or_default();
                sums.add(right, loss);
            }
        }
    }
}

/// Whether `target` has the greatest of `logits`, alone, and its loss in nats.
fn judge(logits: &[f32], target: i32) -> (bool, f64) {
    let of_target = f64::from(logits[target as usize]);
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    let mut all = logits.iter().enumerate();
    let right = all.all(|(id, x)| id as i32 == target || f64::from(*x) < of_target);
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
    let mut reader = options.reader(model, options.rows as u64 * options.seeds, progress)?;
    let mut found = Vec::new();
    for &length in &options.lengths {
        let data = DataConfig {
            max_seq_length: length,
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
                reader.answers(&rows, options.window, &mut tally);
            }
            tally
        });
        let seeds: Vec<Tally> = seeds.collect();
        found.extend(figures(model, length, &seeds, NEAR, true)?);
    }
    Ok(found)
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
        let cannot = |reason: &str| refuse("question", format!("{question:?}"), reason);
        let Some(question) = needle::encoded(tokenizer, question) else {
            return cannot("the model's tokenizer cannot write it; give another one");
        };
        let Some(candidates) = needle::values(tokenizer) else {
            return cannot("the model's tokenizer can write neither digits nor letters behind it");
        };
        assert_eq!(candidates.len(), CANDIDATES);
        Ok(Needle {
            question,
            candidates,
        })
    }

    /// Tokens of the longest value.
    fn longest(&self) -> usize {
        self.candidates.iter().map(Vec::len).max().unwrap_or(0)
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
    let mut reader = options.reader(model, options.seeds, progress)?;
    if text.is_empty() {
        return refuse("text", 0, "has no tokens");
    }
    let least = 2 * needle.question.len() + needle.longest() + 1;
    if let Some(length) = options.lengths.iter().find(|length| **length < least) {
        let limit = format!("sentence and question alone take {least} tokens");
        return refuse("context lengths", length, limit);
    }
    let mut found = Vec::new();
    for &length in &options.lengths {
        let mut seeds = Vec::new();
        for seed in 1..=options.seeds {
            let mut sums = Sums::default();
            let (right, loss) = one_needle(&mut reader, text, needle, options, (length, seed))?;
            sums.add(right, loss);
            seeds.push(Tally::from([((Kind::Plain, 0), sums)]));
        }
        found.extend(figures(model, length, &seeds, length as u64, true)?);
    }
    Ok(found)
}

/// One haystack: whether the hidden value is the likeliest, and its loss among all values.
fn one_needle(
    reader: &mut Reader<'_>,
    text: &TokenStore,
    needle: &Needle,
    options: &TaskOptions,
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
    for piece in before.chunks(options.window) {
        state = reader.read(piece.to_vec(), 1, state).1;
        reader.tell(piece.len());
    }
    let longest = needle.longest();
    let mut losses = Vec::with_capacity(CANDIDATES);
    for values in needle.candidates.chunks(options.batch) {
        let padded = |value: &[i32], filler: i32| -> Vec<i32> {
            let padding = std::iter::repeat_n(filler, longest - value.len());
            value.iter().copied().chain(padding).collect()
        };
        let targets = values.iter().flat_map(|v| padded(v, IGNORE_INDEX));
        let targets: Vec<i32> = targets.collect();
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
    let mut reader = options.reader(model, options.seeds, progress)?;
    let (all, lengths) = (text.len(), &options.lengths);
    if let Some(length) = lengths.iter().find(|length| **length as u64 >= all) {
        let limit = format!("the text has {all} tokens, and one more than it is needed");
        return refuse("context lengths", length, limit);
    }
    let mut found = Vec::new();
    for &length in lengths {
        let seeds = 1..=options.seeds;
        let starts = seeds.map(|seed| draw(&[seed, length as u64], all - length as u64));
        let starts: Vec<u64> = starts.collect();
        let mut seeds = Vec::new();
        for starts in starts.chunks(options.batch) {
            let found = by_position(&mut reader, text, starts, length, options.window);
            seeds.extend(found?);
        }
        found.extend(figures(model, length, &seeds, 1, false)?);
    }
    Ok(found)
}

/// Streams of `length` targets from each of `starts`, side by side.
fn by_position(
    reader: &mut Reader<'_>,
    text: &TokenStore,
    starts: &[u64],
    length: usize,
    window: usize,
) -> Result<Vec<Tally>, DataError> {
    let mut tallies = vec![Tally::new(); starts.len()];
    let mut state = reader.model.initial_state(starts.len());
    for (from, to) in pieces(0..length, window) {
        let len = to - from;
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
                let bin = bucket_of(1, (from + i) as u64);
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
        for near in [1, NEAR] {
            let mut next = 0;
            for number in 0..16 {
                let Range { start, end } = bucket(near, number);
                assert_eq!(start, next);
                assert!((start..end).all(|at| bucket_of(near, at) == number));
                next = end;
            }
        }
        assert_eq!(
            [0, 1, 2, 3].map(|number| bucket(NEAR, number)),
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
