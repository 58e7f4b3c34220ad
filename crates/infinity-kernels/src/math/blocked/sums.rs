//! Threads share what is not rows: the terms of long sums, or columns.

use super::factors::{DEPTH, Factors, Panels, STRIP, depths};
use super::piece;
use crate::math::simd::LANES;
use crate::math::unwritten::unwritten;
use rayon::prelude::*;
use std::ops::Range;

/// Length of the sums that a thread takes where the sums are shared, at least.
pub(super) const SHARED_DEPTH: usize = 192;
/// Copies of a result, at most: longer sums are taken in longer pieces.
const COPIES: usize = 32;
/// A result of more values is not summed up in several copies.
pub(super) const COPIED: usize = 1 << 17;
/// Values of results that a thread adds up at a time, about.
const ADDED: usize = COPIED / 32;
/// Panels that a thread takes at a time, at most.
const PANELS: usize = 32;

/// Products of one left factor with some right ones. Every thread takes some of the terms of every sum,
/// into copies of the results of its own.
pub(super) fn by_sums(products: &[Factors<'_>]) -> Vec<Vec<f32>> {
    let Some([m, _, k]) = products.first().map(|product| product.size) else {
        return Vec::new();
    };
    let whole: Vec<_> = products
        .iter()
        .map(|product| (*product, 0..product.panels()))
        .collect();
    let depth = k.div_ceil(COPIES).max(SHARED_DEPTH);
    let shares: Vec<Range<usize>> = depths(0..k, depth).collect();
    let copies: Vec<Vec<f32>> = shares
        .into_par_iter()
        .map(|share| columns(&whole, share))
        .collect();
    let stride = copies[0].len() / m;
    // SAFETY: every value is written before it is added to.
    let result = |product: &Factors| unsafe { unwritten(m * product.size[1]) };
    let mut results: Vec<Vec<f32>> = products.iter().map(result).collect();
    let mut pieces = Vec::new();
    let mut column = 0;
    for (product, out) in products.iter().zip(&mut results) {
        let n = product.size[1];
        let rows = (ADDED / n).max(1);
        let chunks = out.chunks_mut(rows * n).enumerate();
        pieces.extend(chunks.map(|(i, out)| (i * rows * stride + column, n, out)));
        column += product.panels() * LANES;
    }
    pieces.into_par_iter().for_each(|(from, n, out)| {
        for (row, out) in out.chunks_exact_mut(n).enumerate() {
            let at = from + row * stride..from + row * stride + n;
            out.copy_from_slice(&copies[0][at.clone()]);
            for other in &copies[1..] {
                for (out, x) in out.iter_mut().zip(&other[at.clone()]) {
                    *out += x;
                }
            }
        }
    });
    results
}

/// A product. Every thread takes some columns of it, for sums so long that packing the right factor
/// ahead would be a pass over memory of its own.
pub(super) fn by_columns(product: &Factors<'_>) -> Vec<f32> {
    let [m, n, k] = product.size;
    let panels = product.panels();
    let width = piece(panels, PANELS);
    let pieces: Vec<Vec<f32>> = (0..panels.div_ceil(width))
        .into_par_iter()
        .map(|i| columns(&[(*product, i * width..panels.min((i + 1) * width))], 0..k))
        .collect();
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for (i, piece) in pieces.iter().enumerate() {
            let stride = piece.len() / m;
            let columns = (n - i * width * LANES).min(stride);
            out.extend_from_slice(&piece[row * stride..][..columns]);
        }
    }
    out
}

/// Some panels of products of one left factor, side by side, summed over `range`: rows of as many lanes
/// as there are panels.
fn columns(products: &[(Factors<'_>, Range<usize>)], range: Range<usize>) -> Vec<f32> {
    let Some(&(factors, _)) = products.first() else {
        return Vec::new();
    };
    let all: Vec<(Factors, usize)> = products
        .iter()
        .flat_map(|(factors, panels)| panels.clone().map(|i| (*factors, i)))
        .collect();
    let (m, stride) = (factors.size[0], all.len() * LANES);
    // SAFETY: the strips cover all rows and the panels all columns, and `strip` writes before it adds.
    let mut out = unsafe { unwritten(m * stride) };
    // SAFETY: `pack` writes what is read of it.
    let mut packed = unsafe { unwritten(stride * DEPTH.min(range.len())) };
    let mut turned = Vec::new();
    for depth in depths(range.clone(), DEPTH) {
        let len = depth.len() * LANES;
        for ((factors, panel), packed) in all.iter().zip(packed.chunks_exact_mut(len)) {
            factors.pack(*panel, depth.clone(), packed);
        }
        let panels = Panels {
            packed: &packed,
            rows: depth.len(),
            first: 0,
        };
        let is_first = depth.start == range.start;
        for (strip, out) in out.chunks_mut(STRIP * stride).enumerate() {
            let rows = out.len() / stride;
            let left = factors.left_strip(strip * STRIP, rows, depth.clone(), &mut turned);
            factors.strip(left, panels, depth.len(), is_first, out, stride);
        }
    }
    out
}
