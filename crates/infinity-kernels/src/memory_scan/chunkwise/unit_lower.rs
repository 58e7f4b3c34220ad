//! Inverse of unit lower triangular matrices, `(I + L)⁻¹`, for a batch of chunks.
//!
//! Forward substitution on 16×16 diagonal blocks, all of them at once; then blocks are merged
//! pairwise by
//!
//! ```text
//! [A 0]⁻¹   [ A⁻¹          0  ]
//! [B D]   = [−D⁻¹ B A⁻¹   D⁻¹ ]
//! ```
//!
//! Not by the product `(I − L)(I + L²)(I + L⁴)…`, whose terms reach 1e18 for repeated keys.

use super::array::Array;
use burn::backend::Backend;

/// Rows solved one by one before blocks are merged with matrix products.
const BLOCK: usize = 16;

/// `(I + L)⁻¹` `[X, C, C]` for strictly lower `L` `[X, C, C]`, any `C ≥ 1`.
pub(crate) fn inverse<B: Backend>(l: Array<B>) -> Array<B> {
    let [x, c, _] = l.dims();
    let blocks = c.div_ceil(BLOCK).next_power_of_two();
    let size = if blocks == 1 { c } else { blocks * BLOCK };
    let l = pad(l, size);
    let width = size / blocks;
    let mut parts = diagonal_inverses(&l, blocks, width);
    let mut step = width;
    while parts.len() > 1 {
        let pairs = parts.as_chunks().0.iter().enumerate();
        parts = pairs
            .map(|(pair, halves)| merge(&l, halves, 2 * pair * step, step))
            .collect();
        step *= 2;
    }
    let inverse = parts.remove(0);
    match size == c {
        true => inverse,
        false => inverse.narrow(1, 0, c).narrow(2, 0, c).reshape(&[x, c, c]),
    }
}

/// Zeros to the right of and below `L`, up to `size`.
fn pad<B: Backend>(l: Array<B>, size: usize) -> Array<B> {
    let [x, c, _] = l.dims();
    if c == size {
        return l;
    }
    let right = Array::zeros(&[x, c, size - c], &l);
    let below = Array::zeros(&[x, size - c, size], &l);
    Array::cat(vec![Array::cat(vec![l, right], 2), below], 1)
}

/// Inverses `[X, width, width]` of the diagonal blocks, by forward substitution.
///
/// The batch is moved to the last dim, so that every step is one long vector operation.
fn diagonal_inverses<B: Backend>(l: &Array<B>, blocks: usize, width: usize) -> Vec<Array<B>> {
    let [x, _, _] = l.dims();
    let block = |n| {
        let rows = l.clone().narrow(1, n * width, width);
        rows.narrow(2, n * width, width)
    };
    let diagonal = (0..blocks).map(block).collect();
    let batch = x * blocks;
    let l = Array::cat(diagonal, 0)
        .permute(&[1, 2, 0])
        .reshape(&[width, width, batch]);
    // Row i of the inverse is e_i − Σ_{j<i} L_ij · row j.
    let identity = |i: usize| {
        let values = (0..width).map(|j| if i == j { 1.0 } else { 0.0 }).collect();
        Array::from_values(values, &[1, width, 1], &l) + Array::zeros(&[1, width, batch], &l)
    };
    let mut inverse = identity(0);
    for i in 1..width {
        let factors = l
            .clone()
            .narrow(0, i, 1)
            .narrow(1, 0, i)
            .reshape(&[i, 1, batch]);
        let row = identity(i) - (inverse.clone() * factors).sum(0);
        inverse = Array::cat(vec![inverse, row], 0);
    }
    let inverse = inverse.permute(&[2, 0, 1]).reshape(&[batch, width, width]);
    (0..blocks)
        .map(|n| inverse.clone().narrow(0, n * x, x))
        .collect()
}

/// Inverse of the block of `2 · step` rows at `at`, from the inverses of its two diagonal halves.
fn merge<B: Backend>(
    l: &Array<B>,
    [upper, lower]: &[Array<B>; 2],
    at: usize,
    step: usize,
) -> Array<B> {
    let [x, _, _] = l.dims();
    let corner = l.clone().narrow(1, at + step, step).narrow(2, at, step);
    let corner = lower.clone().matmul(corner).matmul(upper.clone()).neg();
    let top = Array::cat(vec![upper.clone(), Array::zeros(&[x, step, step], l)], 2);
    Array::cat(vec![top, Array::cat(vec![corner, lower.clone()], 2)], 1)
}
