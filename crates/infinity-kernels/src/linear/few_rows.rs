//! A projection of few rows on the CPU: weights read once, by all threads.
//!
//! Pieces depend on the sizes alone and their sums are added in order: two runs, and two machines
//! with different numbers of cores, add in the same order.

use super::weight::Weight;
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, slice};
use rayon::prelude::*;

/// Weights a thread takes at a time: 256 KiB, long enough to read at full speed.
const PIECE: usize = 1 << 16;

/// Some inputs of every row, and the weights they meet `[inputs, out]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[rows, width]`.
    x: &'a [f32],
    width: usize,
    /// The first of these inputs.
    from: usize,
    weights: &'a [f32],
    out: usize,
}

/// Adds `x · weights` to `y` `[rows, out]`, four inputs at a time.
#[inline(always)]
fn add_inputs_loop<const FMA: bool, const ROWS: usize>(inputs: Inputs<'_>, y: &mut [f32]) {
    let Inputs {
        x,
        width,
        from,
        weights,
        out,
    } = inputs;
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(out)) {
        let x = &x[from..from + weights.len() / out];
        let (fours, rest) = x.as_chunks::<4>();
        let (weights, last) = weights.split_at(fours.len() * 4 * out);
        for (x, weights) in fours.iter().zip(weights.chunks_exact(4 * out)) {
            let (a, weights) = weights.split_at(out);
            let (b, weights) = weights.split_at(out);
            let (c, d) = weights.split_at(out);
            for ((((y, a), b), c), d) in y.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let sum = multiply_add::<FMA>(x[0], *a, *y);
                let sum = multiply_add::<FMA>(x[1], *b, sum);
                let sum = multiply_add::<FMA>(x[2], *c, sum);
                *y = multiply_add::<FMA>(x[3], *d, sum);
            }
        }
        for (x, weights) in rest.iter().zip(last.chunks_exact(out)) {
            for (y, w) in y.iter_mut().zip(weights) {
                *y = multiply_add::<FMA>(*x, *w, *y);
            }
        }
    }
}
leveled!(fn add_inputs(inputs: Inputs<'_>, y: &mut [f32]) = add_inputs_loop);

/// Writes `x · weights` for weights `[outputs, width]` into `y` `[outputs, rows]`.
#[inline(always)]
fn outputs_loop<const FMA: bool, const ROWS: usize>(
    x: &[f32],
    width: usize,
    weights: &[f32],
    y: &mut [f32],
) {
    let rows = x.len() / width;
    for (weights, y) in weights.chunks_exact(width).zip(y.chunks_exact_mut(rows)) {
        for (x, y) in x.chunks_exact(width).zip(y) {
            *y = dot::<FMA>(x, weights);
        }
    }
}
leveled!(
    fn outputs(x: &[f32], width: usize, weights: &[f32], y: &mut [f32]) = outputs_loop
);

/// `x · weight` for every weight, all of them shared among the threads at once: `x` `[B, T, D]`, in
/// one piece.
pub(crate) fn projections(x: &Primitive, weights: &[Primitive]) -> Vec<Vec<f32>> {
    let x = slice(x);
    let weights: Vec<Pieces> = weights.iter().map(Pieces::new).collect();
    let pieces: Vec<(&Pieces, usize)> = weights
        .iter()
        .flat_map(|weight| (0..weight.pieces()).map(move |piece| (weight, piece)))
        .collect();
    let run = |(weight, piece): &(&Pieces, usize)| weight.run(x, *piece);
    let results: Vec<Vec<f32>> = match pieces.len() <= 1 {
        true => pieces.iter().map(run).collect(),
        false => pieces.par_iter().map(run).collect(),
    };
    let mut results = results.into_iter();
    let whole = |weight: &Pieces| weight.together(results.by_ref().take(weight.pieces()), x);
    weights.iter().map(whole).collect()
}

/// A weight in pieces for the threads.
struct Pieces {
    weight: Weight,
    /// Outputs of a piece where the weight is stored by them, inputs otherwise.
    each: usize,
}

impl Pieces {
    fn new(weight: &Primitive) -> Self {
        let weight = Weight::new(weight.clone());
        let each = (PIECE / weight.stored_row()).max(1);
        Pieces { weight, each }
    }

    fn pieces(&self) -> usize {
        self.weight.stored_rows().div_ceil(self.each)
    }

    /// Piece `i`: its outputs `[outputs, rows]`, or all outputs `[rows, out]` of its inputs.
    fn run(&self, x: &[f32], i: usize) -> Vec<f32> {
        let Weight { width, out, .. } = self.weight;
        let (level, rows, from) = (Level::detect(), x.len() / width, i * self.each);
        let row = self.weight.stored_row();
        let weights = &slice(&self.weight.data)[from * row..];
        let weights = &weights[..weights.len().min(self.each * row)];
        if self.weight.by_columns {
            let mut y = vec![0f32; weights.len() / width * rows];
            outputs(level, x, width, weights, &mut y);
            return y;
        }
        let mut y = vec![0f32; rows * out];
        let inputs = Inputs {
            x,
            width,
            from,
            weights,
            out,
        };
        add_inputs(level, inputs, &mut y);
        y
    }

    /// The whole result `[rows, out]` of all pieces, in their order.
    fn together(&self, mut pieces: impl Iterator<Item = Vec<f32>>, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.weight.width;
        if !self.weight.by_columns {
            let mut y = pieces.next().unwrap_or_default();
            for other in pieces {
                y.iter_mut().zip(&other).for_each(|(y, other)| *y += other);
            }
            return y;
        }
        let y: Vec<f32> = pieces.flatten().collect();
        if rows == 1 {
            return y;
        }
        let of_row = |row: usize| y[row..].iter().step_by(rows).copied();
        (0..rows).flat_map(of_row).collect()
    }
}
