//! From chunk to chunk: the states that come in correct the values, the errors are written into
//! them, and what backward needs of both is kept.

use super::chunk::{Chunk, HeadInputs, Sizes};
use super::rows::Place;
use super::rowwise::scale_rows;
use super::solve::solve;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::padded;
use std::mem::MaybeUninit;

impl Sizes {
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

    /// The errors of the chunk that starts at `from`, among all that is saved.
    fn saved_errors(&self, from: usize, c: usize) -> std::ops::Range<usize> {
        let at = self.borders_len() + from * padded(self.v);
        at..at + c * padded(self.v)
    }

    /// The states before group `group`, among all that is saved.
    ///
    /// # Panics
    ///
    /// For the first group: nothing is saved of it.
    fn saved_border(&self, group: usize) -> std::ops::Range<usize> {
        let len = self.state_len();
        (group - 1) * len..group * len
    }
}

impl Chunk {
    /// From values to prediction errors, given the states that come in. Nothing in additive mode.
    pub(super) fn correct(&mut self, states: &[f32]) {
        if !self.sizes.delta {
            return;
        }
        for s in 0..self.sizes.states {
            let product = Product {
                size: [self.c, self.v_wide, self.sizes.k],
                left: Left::rows(&self.k, self.k_wide),
                right: Right::rows(&states[self.sizes.state(s)], self.v_wide),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: Some(&self.weights.recalls[s * self.stride..]),
            };
            multiply(self.level, &product, &mut self.errors, self.v_wide);
        }
        let mut errors = std::mem::take(&mut self.errors);
        solve(self.level, self.system(), &mut errors);
        self.errors = errors;
    }

    /// `H_s ← e^(b_C) H_s + Kᵀ diag(u e^(b_C − b)) Dm`, from the states `before` if they are not
    /// in place; `rows` is scratch like the errors.
    pub(super) fn write(&self, before: Option<&[f32]>, states: &mut [f32], rows: &mut [f32]) {
        let Chunk {
            c,
            stride,
            k_wide,
            v_wide,
            level,
            sizes,
            ..
        } = *self;
        for s in 0..sizes.states {
            let weights = &self.weights.writes[s * stride..s * stride + c];
            scale_rows(level, weights, &self.errors, rows, v_wide);
            let product = Product {
                size: [sizes.k, v_wide, c],
                left: Left::transposed(&self.k, k_wide),
                right: Right::rows(rows, v_wide),
                part: Part::Whole,
                keep: match before {
                    None => Keep::Times(self.weights.whole[s]),
                    Some(before) => Keep::Other(self.weights.whole[s], &before[sizes.state(s)]),
                },
                scale: None,
            };
            multiply(level, &product, &mut states[sizes.state(s)], v_wide);
        }
    }

    /// Saves the states before chunk `n`, if a group of chunks starts there.
    pub(super) fn save_border(&self, n: usize, states: &[f32], saved: &mut [MaybeUninit<f32>]) {
        if n > 0 && n.is_multiple_of(self.sizes.group) && !saved.is_empty() {
            let border = self.sizes.saved_border(n / self.sizes.group);
            saved[border].write_copy_of_slice(states);
        }
    }

    /// Saves the errors of chunk `n`, which is loaded and corrected.
    pub(super) fn save_errors(&self, n: usize, saved: &mut [MaybeUninit<f32>]) {
        if self.sizes.delta && !saved.is_empty() {
            let range = self.sizes.saved_errors(n * self.sizes.chunk, self.c);
            saved[range].write_copy_of_slice(&self.errors[..self.c * self.v_wide]);
        }
    }

    /// Prediction errors of chunk `n`, whose size is loaded: saved ones, or values.
    pub(super) fn load_errors(&mut self, x: &HeadInputs<'_>, n: usize, saved: &[f32]) {
        if self.sizes.delta {
            let range = self.sizes.saved_errors(n * self.sizes.chunk, self.c);
            self.errors[..self.c * self.v_wide].copy_from_slice(&saved[range]);
        } else {
            self.load_values(x, n);
        }
    }

    /// States before every chunk of group `group` into `states`, one behind the other: the first
    /// as it was saved (or `first`, `[S, K, V]`), the others by writing again.
    pub(super) fn replay(
        &mut self,
        x: &HeadInputs<'_>,
        first: &[f32],
        group: usize,
        saved: &[f32],
        states: &mut [f32],
        rows: &mut [f32],
    ) {
        let (sizes, len) = (self.sizes, self.sizes.state_len());
        if group == 0 {
            widen(first, sizes.v, &mut states[..len], self.v_wide);
        } else {
            states[..len].copy_from_slice(&saved[sizes.saved_border(group)]);
        }
        let chunks = sizes.chunks_of(group);
        for (i, n) in chunks.clone().take(chunks.len() - 1).enumerate() {
            self.load_keys(x, n);
            self.load_errors(x, n, saved);
            let (before, after) = states[i * len..(i + 2) * len].split_at_mut(len);
            self.write(Some(before), after, rows);
        }
    }
}

/// States `[S, K, V]` → `[S, K, wide]`, filled up with zeros.
pub(super) fn widen(states: &[f32], v: usize, to: &mut [f32], wide: usize) {
    for (from, to) in states.chunks_exact(v).zip(to.chunks_exact_mut(wide)) {
        to[..v].copy_from_slice(from);
        to[v..].fill(0.0);
    }
}

/// The way back from [`widen`].
pub(super) fn narrow<P: Place>(states: &[f32], wide: usize, to: &mut [P], v: usize) {
    for (from, to) in states.chunks_exact(wide).zip(to.chunks_exact_mut(v)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = P::of(*from);
        }
    }
}
