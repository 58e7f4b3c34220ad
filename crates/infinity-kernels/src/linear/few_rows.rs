//! A projection of few rows on the CPU: weights read once, by all threads.
//!
//! Pieces depend on the sizes alone and their sums are added in order: two runs, and two machines
//! with different numbers of cores, add in the same order.

use crate::math::flex_values::{Primitive, single, slice, tensor};
use crate::math::simd::{Level, dot, leveled, multiply_add};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::Shape;
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

/// `x · weight` for `x` `[B, T, D]`.
pub(crate) fn forward(x: Primitive, weight: Primitive) -> Primitive {
    let (dtype, [b, t, width]) = (x.dtype(), x.shape().dims());
    let [_, out] = weight.shape().dims::<2>();
    let x = single(x);
    let transposed = Flex::float_swap_dims(weight.clone(), 0, 1);
    let y = match transposed.as_slice::<f32>() {
        Some(weight) if width > 1 => by_outputs(slice(&x), width, weight, out),
        _ => by_inputs(slice(&x), width, slice(&single(weight)), out),
    };
    tensor(y, Shape::from([b, t, out]), dtype)
}

/// For weights `[width, out]`.
fn by_inputs(x: &[f32], width: usize, weight: &[f32], out: usize) -> Vec<f32> {
    let (level, rows) = (Level::detect(), x.len() / width);
    let piece = (PIECE / out).max(1);
    let inputs = |from: usize, weights| Inputs {
        x,
        width,
        from,
        weights,
        out,
    };
    let mut partial = vec![0f32; width.div_ceil(piece) * rows * out];
    if width <= piece {
        add_inputs(level, inputs(0, weight), &mut partial);
        return partial;
    }
    partial
        .par_chunks_mut(rows * out)
        .zip(weight.par_chunks(piece * out))
        .enumerate()
        .for_each(|(i, (y, weights))| add_inputs(level, inputs(i * piece, weights), y));
    let (y, others) = partial.split_at_mut(rows * out);
    for other in others.chunks_exact(rows * out) {
        y.iter_mut().zip(other).for_each(|(y, other)| *y += other);
    }
    partial.truncate(rows * out);
    partial
}

/// For weights stored `[out, width]`.
fn by_outputs(x: &[f32], width: usize, weight: &[f32], out: usize) -> Vec<f32> {
    let (level, rows) = (Level::detect(), x.len() / width);
    let piece = (PIECE / width).max(1);
    let mut y = vec![0f32; out * rows];
    if out <= piece {
        outputs(level, x, width, weight, &mut y);
    } else {
        y.par_chunks_mut(piece * rows)
            .zip(weight.par_chunks(piece * width))
            .for_each(|(y, weight)| outputs(level, x, width, weight, y));
    }
    if rows == 1 {
        return y;
    }
    let of_row = |row: usize| y[row..].iter().step_by(rows).copied();
    (0..rows).flat_map(of_row).collect()
}
