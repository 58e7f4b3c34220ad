//! How a head and its chunks lie in memory, and the products of what lies so.

use crate::borders::Piece;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::scale_rows;
use crate::cpu::simd::{Level, padded};
use crate::cpu::transpose::transpose;
use std::ops::Range;

/// Positions in a chunk. Work inside a chunk grows with it, and with one state that is most of the
/// work. Of 16, 32 and 64 on an AVX-512 machine 32 is the fastest, with one state and with four.
pub(super) const CHUNK: usize = 32;
/// Chunks from one saved state to the next. Between them backward writes again, which with saved
/// errors costs a tenth of its work; sixteen instead of four take 11 MB in 71 from a call of 8,192
/// tokens with S 4, K = V = 64, and one to two parts in a hundred of speed.
pub(super) const GROUP: usize = 16;

/// Sizes of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The first token.
    pub(super) start: usize,
    pub(super) t: usize,
    pub(super) states: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    pub(super) delta: bool,
}

impl Sizes {
    /// Those of one document alone.
    pub(super) fn of(self, piece: &Piece) -> Self {
        let (start, t) = (piece.tokens.start, piece.tokens.len());
        Sizes { start, t, ..self }
    }

    /// The first token of chunk `n`.
    pub(super) fn first(&self, n: usize) -> usize {
        self.start + n * CHUNK
    }

    pub(super) fn chunks(&self) -> usize {
        self.t.div_ceil(CHUNK)
    }

    /// Groups of chunks, each with one saved state.
    pub(super) fn groups(&self) -> usize {
        self.chunks().div_ceil(GROUP)
    }

    /// The chunks of one group.
    pub(super) fn chunks_of(&self, group: usize) -> Range<usize> {
        group * GROUP..self.chunks().min((group + 1) * GROUP)
    }

    /// Values in all states of a head, rows of whole lanes.
    pub(super) fn state_len(&self) -> usize {
        self.states * self.k * padded(self.v)
    }

    /// One state inside all states of a head.
    pub(super) fn state(&self, s: usize) -> Range<usize> {
        let len = self.k * padded(self.v);
        s * len..(s + 1) * len
    }

    /// Saved states: before every group of chunks but the first, which starts from an input.
    fn borders_len(&self) -> usize {
        self.groups().saturating_sub(1) * self.state_len()
    }

    /// What forward saves of one head: states at borders, then prediction errors `[T, V]`, rows of
    /// whole lanes. In additive mode the errors are the values, which backward has.
    pub(super) fn saved_len(&self) -> usize {
        let errors = if self.delta { self.t } else { 0 };
        self.borders_len() + errors * padded(self.v)
    }

    /// The errors of chunk `n` of `c` positions, among all that is saved.
    pub(super) fn saved_errors(&self, n: usize, c: usize) -> Range<usize> {
        let at = self.borders_len() + n * CHUNK * padded(self.v);
        at..at + c * padded(self.v)
    }

    /// The states before group `group`, among all that is saved.
    ///
    /// # Panics
    ///
    /// For the first group: nothing is saved of it.
    pub(super) fn saved_border(&self, group: usize) -> Range<usize> {
        let len = self.state_len();
        (group - 1) * len..group * len
    }
}

/// How a chunk lies in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) level: Level,
    pub(super) sizes: Sizes,
    /// Positions of the chunk that is loaded.
    pub(super) c: usize,
    /// From one row `[C]` to the next.
    pub(super) stride: usize,
    /// From one row `[K]` to the next.
    pub(super) k_wide: usize,
    /// From one row `[V]` to the next.
    pub(super) v_wide: usize,
}

/// Products of matrices that lie so.
impl Layout {
    /// Gates of state `s`, of every position.
    pub(super) fn gates(&self, s: usize) -> Range<usize> {
        s * self.stride..(s + 1) * self.stride
    }

    /// Gates of state `s`, of the positions that are loaded.
    pub(super) fn loaded(&self, s: usize) -> Range<usize> {
        s * self.stride..s * self.stride + self.c
    }

    /// Rows `[C, width]` of `wide` → `[width, C]`.
    pub(super) fn columns(&self, [width, wide]: [usize; 2], rows: &[f32], to: &mut [f32]) {
        transpose(self.level, [self.c, width], rows, wide, to, self.stride);
    }

    /// `out = rows · columns`, `depth` values of `wide` each: `[C, C]`, on and below the diagonal.
    pub(super) fn scores(
        &self,
        [depth, wide]: [usize; 2],
        rows: &[f32],
        columns: &[f32],
        out: &mut [f32],
    ) {
        let product = Product {
            size: [self.c, padded(self.c), depth],
            left: Left::rows(rows, wide),
            right: Right::rows(columns, self.stride),
            part: Part::OutLower,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(self.level, &product, out, self.stride);
    }

    /// `out = keep + triangle · rows`, rows of `wide`: a lower triangle `[C, C]`, or its transpose, of which `part` is
    /// not zero.
    pub(super) fn times(
        &self,
        part: Part,
        triangle: &[f32],
        rows: &[f32],
        wide: usize,
        keep: Keep<'_>,
        out: &mut [f32],
    ) {
        let product = Product {
            size: [self.c, wide, self.c],
            left: match part {
                Part::LeftUpper => Left::transposed(triangle, self.stride),
                _ => Left::rows(triangle, self.stride),
            },
            right: Right::rows(rows, wide),
            part,
            keep,
            scale: None,
        };
        multiply(self.level, &product, out, wide);
    }

    /// `out += Σ_s diag(weights_s) · rows · H_s`, rows `[C, K]`, out `[C, V]`.
    pub(super) fn ask_states(
        &self,
        rows: &[f32],
        weights: &[f32],
        states: &[f32],
        out: &mut [f32],
    ) {
        for s in 0..self.sizes.states {
            let product = Product {
                size: [self.c, self.v_wide, self.sizes.k],
                left: Left::rows(rows, self.k_wide),
                right: Right::rows(&states[self.sizes.state(s)], self.v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&weights[s * self.stride..]),
            };
            multiply(self.level, &product, out, self.v_wide);
        }
    }

    /// `state = keep + rowsᵀ · diag(weights) · values`, rows `[C, K]`; `scratch` is as large as `values`.
    pub(super) fn write_state(
        &self,
        keep: Keep<'_>,
        rows: &[f32],
        weights: &[f32],
        values: &[f32],
        scratch: &mut [f32],
        state: &mut [f32],
    ) {
        scale_rows(self.level, weights, values, scratch, self.v_wide);
        let product = Product {
            size: [self.sizes.k, self.v_wide, self.c],
            left: Left::transposed(rows, self.k_wide),
            right: Right::rows(scratch, self.v_wide),
            part: Part::Whole,
            keep,
            scale: None,
        };
        multiply(self.level, &product, state, self.v_wide);
    }
}
