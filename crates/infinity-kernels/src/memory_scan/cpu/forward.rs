//! Forward over the chunks of one head, on plain slices.

use super::carry::{narrow, widen};
use super::chunk::{Chunk, HeadInputs};
use super::rows::RowsMut;
use super::rowwise::scatter;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use std::mem::MaybeUninit;

/// Scratch of forward for one thread.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    chunk: Chunk,
    states: Vec<f32>,
    /// Outputs, then scaled errors `[C, V]`.
    rows: Vec<f32>,
}

impl Forward {
    pub(super) fn new(chunk: Chunk) -> Self {
        Forward {
            states: vec![0.0; chunk.sizes.state_len()],
            rows: chunk.errors.clone(),
            chunk,
        }
    }

    /// Runs one head from `state` `[S, K, V]` to `last`. Writes outputs, and into `saved`
    /// (unless it is empty) what backward needs besides the inputs.
    pub(super) fn run(
        &mut self,
        x: &HeadInputs<'_>,
        state: &[f32],
        o: &mut RowsMut<'_>,
        last: &mut [MaybeUninit<f32>],
        saved: &mut [MaybeUninit<f32>],
    ) {
        let sizes = self.chunk.sizes;
        widen(state, sizes.v, &mut self.states, self.chunk.v_wide);
        for n in 0..sizes.chunks() {
            self.chunk.save_border(n, &self.states, saved);
            self.chunk.load(x, n, false);
            self.chunk.load_values(x, n);
            self.chunk.correct(&self.states);
            self.chunk.save_errors(n, saved);
            self.read();
            let Chunk {
                level, c, v_wide, ..
            } = self.chunk;
            scatter(level, &self.rows, v_wide, c, o, n * sizes.chunk);
            self.chunk.write(None, &mut self.states, &mut self.rows);
        }
        narrow(&self.states, self.chunk.v_wide, last, sizes.v);
    }

    /// `O = A Dm + Σ_s diag(r e^b) Q H_s`.
    fn read(&mut self) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = self.chunk;
        let inside = Product {
            size: [c, v_wide, c],
            left: Left::rows(&self.chunk.scores.attention, stride),
            right: Right::rows(&self.chunk.errors, v_wide),
            part: Part::LeftLower,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(level, &inside, &mut self.rows, v_wide);
        for s in 0..sizes.states {
            let product = Product {
                size: [c, v_wide, sizes.k],
                left: Left::rows(&self.chunk.q, k_wide),
                right: Right::rows(&self.states[sizes.state(s)], v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&self.chunk.weights.reads[s * stride..]),
            };
            multiply(level, &product, &mut self.rows, v_wide);
        }
    }
}
