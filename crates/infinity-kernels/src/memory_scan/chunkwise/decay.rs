//! Decays inside a chunk.
//!
//! ```text
//! b_i  = Σ_{l≤i} g_l                       inclusive cumulative log decay
//! E_ij = exp(b_i − b_j) for i ≥ j, else 0  how much of a write at j is left at i
//! ```
//!
//! `g ≤ 0`, so every exponent that survives the mask is at most 0: nothing can overflow. The mask
//! is applied to the exponent, before `exp`.

use super::array::Array;
use burn::backend::Backend;

/// Added to an exponent that must come out as zero. Finite, because WGSL may assume no infinities.
const MASKED: f32 = -1e30;

/// `[1, C, C]` with one where `keep(i, j)`, else zero.
fn triangle<B: Backend>(
    c: usize,
    like: &Array<B>,
    keep: impl Fn(usize, usize) -> bool,
) -> Array<B> {
    let values = (0..c * c)
        .map(|at| if keep(at / c, at % c) { 1.0 } else { 0.0 })
        .collect();
    Array::from_values(values, &[1, c, c], like)
}

/// Ones on and below the diagonal.
pub(crate) fn lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle(c, like, |i, j| j <= i)
}

/// Ones below the diagonal.
pub(crate) fn strictly_lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle(c, like, |i, j| j < i)
}

/// Inclusive cumulative sum over the last dim of `[X, S, C]`.
pub(crate) fn cumulative<B: Backend>(g: Array<B>) -> Array<B> {
    let [.., c] = g.dims::<3>();
    let ones = triangle(c, &g, |i, j| i <= j);
    g.matmul(ones)
}

/// Inclusive cumulative sum from the end, over the last dim of `[X, S, C]`.
pub(crate) fn cumulative_from_end<B: Backend>(g: Array<B>) -> Array<B> {
    let [.., c] = g.dims::<3>();
    let ones = lower(c, &g);
    g.matmul(ones)
}

/// `E` `[X, S, C, C]` from cumulative log decays `b` `[X, S, C]`.
pub(crate) fn within<B: Backend>(b: &Array<B>) -> Array<B> {
    let [x, s, c] = b.dims();
    let values = (0..c * c)
        .map(|at| if at % c <= at / c { 0.0 } else { MASKED })
        .collect();
    let mask = Array::from_values(values, &[1, 1, c, c], b);
    let rows = b.clone().reshape(&[x, s, c, 1]);
    let columns = b.clone().reshape(&[x, s, 1, c]);
    ((rows - columns) + mask).exp()
}
