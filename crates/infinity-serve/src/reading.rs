//! A piece of a prompt on its way through the layers, one layer at a time, so that others need not
//! wait for the whole piece. The bits are those of reading it at once.

use std::collections::VecDeque;

use infinity_kernels::in_pool;
use infinity_model::burn::tensor::Tensor;
use infinity_model::generate::{ids, numbers};
use infinity_model::layer::{Layer, Pass, Stream};
use infinity_model::{Borders, GenerateError, InfinityModel, LayerState, ModelState};

/// Positions whose logits are computed at once, where a prompt's own are asked for.
const SCORED: usize = 64;

/// Some tokens of one text between two layers.
#[derive(Debug)]
pub(crate) struct Piece {
    pass: Pass,
    stream: Stream,
    tokens: usize,
    before: std::vec::IntoIter<LayerState>,
    after: Vec<LayerState>,
    position: Vec<u64>,
    /// The normed output, once it is through all layers.
    hidden: Option<Tensor<3>>,
    /// Positions whose logits are wanted: all, or the last alone.
    every: bool,
    logits: Vec<f32>,
    scored: usize,
}

impl Piece {
    /// Begins to read `tokens` after `state`, of one row; with `every`, the logits after each of them
    /// are wanted, else those after the last.
    pub(crate) fn new(
        model: &InfinityModel,
        tokens: &[u32],
        state: ModelState,
        every: bool,
    ) -> Self {
        let borders = Borders::default();
        let position = state.position_after(tokens.len(), &borders);
        Self {
            pass: model.pass(&state.position, tokens.len(), &borders),
            stream: model.embed(ids(model, tokens).unsqueeze()).into(),
            tokens: tokens.len(),
            after: Vec::with_capacity(state.layers.len()),
            before: state.layers.into_iter(),
            position,
            hidden: None,
            every,
            logits: Vec::new(),
            scored: 0,
        }
    }

    /// Goes through one more layer; false once there is nothing left to do.
    pub(crate) fn advance(&mut self, model: &InfinityModel) -> Result<bool, GenerateError> {
        if let Some(state) = self.before.next() {
            let block = &model.blocks()[self.after.len()];
            let stream = self.stream.clone();
            let (stream, state) = in_pool(&model.device(), || {
                block.forward_in(stream, &self.pass, state)
            });
            self.stream = stream;
            self.after.push(state);
            return Ok(true);
        }
        let normed = || model.final_norm(self.stream.x.clone());
        let hidden = self.hidden.get_or_insert_with(normed).clone();
        // The last logits are always computed alone: what is drawn from them must not depend on
        // whether the others were asked for.
        let last = self.tokens - 1;
        let (start, length) = match self.every && self.scored < last {
            true => (self.scored, SCORED.min(last - self.scored)),
            false if self.scored <= last => (last, 1),
            false => return Ok(false),
        };
        let hidden = hidden.narrow(1, start, length);
        let logits = in_pool(&model.device(), || model.logits(hidden));
        self.logits.extend(numbers(logits)?);
        self.scored = start + length;
        Ok(self.scored <= last)
    }

    /// The state after it, and the logits that were wanted, one position after the other.
    pub(crate) fn finish(self) -> (ModelState, Vec<f32>) {
        let (layers, position) = (self.after, self.position);
        (ModelState { layers, position }, self.logits)
    }
}

/// Takes those out that nobody reads any more; the piece on its way is the first one's, and goes with
/// it. Each is asked once, since a client may go at any moment.
pub(crate) fn take_left<T, P>(
    reading: &mut VecDeque<T>,
    piece: &mut Option<P>,
    mut is_left: impl FnMut(&T) -> bool,
) -> Vec<T> {
    let mut left = Vec::new();
    for i in (0..reading.len()).rev() {
        if is_left(&reading[i]) {
            if i == 0 {
                *piece = None;
            }
            left.extend(reading.remove(i));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_never_left_to_another_row() {
        // Row 7 goes away at the k-th time that anything is asked, whoever that is.
        for k in 0..8 {
            let (mut reading, mut piece) = (VecDeque::from([7, 8, 9]), Some("of row 7"));
            let mut asked = 0;
            let left = take_left(&mut reading, &mut piece, |&row| {
                asked += 1;
                row == 9 || (row == 7 && asked > k)
            });
            assert_eq!(piece.is_some(), reading[0] == 7, "{k}: {reading:?}");
            assert_eq!(left.contains(&7), reading[0] != 7);
            assert!(left.contains(&9) && reading.contains(&8));
        }
    }
}
