//! Rows that get a token in one step of the model.

use std::time::Instant;

use infinity_model::generate::{ids, numbers};
use infinity_model::replay::Replay;
use infinity_model::{GenerateError, InfinityModel, ModelState};

use crate::error::EngineError;
use crate::metrics::Metrics;
use crate::row::{Need, Row};

/// Rows of one step: as many as a row has the same bits among, whoever they are.
pub(crate) const DECODE_ROWS: usize = 32;

/// Steps of the same rows after which one is recorded: about as many as recording takes.
const STEADY: usize = 16;

/// Some rows and the state of all of them.
pub(crate) struct Batch {
    rows: Vec<Row>,
    /// Empty while a recorded step has it.
    state: ModelState,
    recorded: Option<Replay>,
    /// Steps since rows came or left.
    steady: usize,
}

/// A state that is somewhere else.
const ELSEWHERE: ModelState = ModelState {
    layers: Vec::new(),
    position: Vec::new(),
};

/// A row that left its batch, and how.
pub(crate) type Leaving = (Row, Result<(), EngineError>);

/// Rows that may be in a batch of `model`. Caches that grow differ in length, and beside the longest every
/// other would take as much memory, so there each row is alone.
pub(crate) fn most_rows(model: &InfinityModel) -> usize {
    match model.config().grows_by() {
        Some(_) => 1,
        None => DECODE_ROWS,
    }
}

impl Batch {
    /// A batch of `rows`, which have states of their own.
    pub(crate) fn new(mut rows: Vec<Row>) -> Self {
        let states = rows.iter_mut().flat_map(|row| row.state.take());
        Self {
            state: ModelState::cat(states.collect()),
            rows,
            recorded: None,
            steady: 0,
        }
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes further rows in.
    pub(crate) fn join(&mut self, rows: Vec<Row>) {
        self.unsettle();
        let mut states = vec![self.state.clone()];
        self.rows.extend(rows);
        states.extend(self.rows.iter_mut().flat_map(|row| row.state.take()));
        self.state = ModelState::cat(states);
    }

    /// Takes out the rows that `leaves` says, each with its state.
    pub(crate) fn leave(&mut self, mut leaves: impl FnMut(&mut Row) -> bool) -> Vec<Row> {
        let leaving: Vec<bool> = self.rows.iter_mut().map(&mut leaves).collect();
        if !leaving.contains(&true) {
            return Vec::new();
        }
        self.unsettle();
        let (mut left, mut stay, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (i, mut row) in self.rows.drain(..).enumerate() {
            if leaving[i] {
                row.state = Some(self.state.clone().gather_rows(&[Some(i)]));
                left.push(row);
            } else {
                kept.push(Some(i));
                stay.push(row);
            }
        }
        self.rows = stay;
        if !kept.is_empty() {
            self.state = self.state.clone().gather_rows(&kept);
        }
        left
    }

    /// Rows come or leave: a recorded step, which is for those that are here, gives their state back.
    fn unsettle(&mut self) {
        if let Some(replay) = self.recorded.take() {
            self.state = replay.state();
        }
        self.steady = 0;
    }

    /// Records the step of rows that have been together for a while and will be for another.
    fn record(&mut self, model: &InfinityModel) {
        let stays = |row: &Row| row.need() == Need::Decoding && row.left() >= Replay::WORTH;
        if self.steady == STEADY && self.rows.iter().all(stays) {
            self.recorded = Replay::new(model, &self.state);
            if self.recorded.is_some() {
                self.state = ELSEWHERE;
            }
        }
        self.steady += 1;
    }

    /// Reads every row's newest token, and gives the rows that have what they need, or failed.
    pub(crate) fn step(&mut self, model: &InfinityModel, metrics: &Metrics) -> Vec<Leaving> {
        let start = Instant::now();
        let tokens: Vec<u32> = self.rows.iter().map(|row| row.wants()[0]).collect();
        self.record(model);
        let logits = match &mut self.recorded {
            Some(replay) => {
                metrics.recorded.add(1);
                replay.step(&tokens)
            }
            None => {
                let state = std::mem::replace(&mut self.state, ELSEWHERE);
                let (logits, state) = model.decode_step(ids(model, &tokens), state);
                self.state = state;
                logits
            }
        };
        let taken: Result<Vec<_>, GenerateError> = numbers(logits).map(|logits| {
            let each = logits.chunks(model.config().vocab_size);
            let rows = self.rows.iter_mut().zip(each);
            rows.map(|(row, logits)| row.take_step(logits)).collect()
        });
        let mut taken = match taken {
            Ok(taken) => taken.into_iter(),
            Err(error) => {
                let error = EngineError::from(error);
                vec![Err(error); self.rows.len()].into_iter()
            }
        };
        let mut failed = Vec::new();
        let left = self.leave(|row| {
            let taken = taken.next().unwrap_or(Ok(()));
            let leaves = taken.is_err() || row.need() == Need::Nothing || row.is_behind();
            failed.extend(leaves.then_some(taken));
            leaves
        });
        metrics.step.add(start.elapsed());
        left.into_iter().zip(failed).collect()
    }
}
