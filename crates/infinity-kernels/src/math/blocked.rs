//! Matrix products of many rows, by all threads, in blocks that stay in cache.
//!
//! The right factor is cut into panels of [`LANES`] columns, each packed so that its rows follow one
//! another. [`STRIP`] rows of the left factor stay in a first-level cache while every panel passes by;
//! [`multiply`] does the rest. Which thread takes what depends on the machine, the order in which a
//! value is summed up on the sizes alone: two machines with different numbers of cores get the same
//! bits.

use crate::math::product::{Keep, Left, Part, Product, Right, groups_at_once, multiply};
use crate::math::simd::{LANES, Level};
use crate::math::transpose::transpose;
use crate::math::unwritten::unwritten;
use rayon::prelude::*;
use std::ops::Range;

/// Length of the sums that are taken at a time: a packed panel of it is 16 KiB, half of a first-level
/// cache.
const DEPTH: usize = 256;
/// Rows of the left factor that meet all panels before the next: at most 24 KiB with [`DEPTH`]; a
/// multiple of all the numbers of rows that fit into registers.
const STRIP: usize = 24;
/// Length of the sums that a thread takes where the sums are shared.
const SHARED_DEPTH: usize = 256;
/// A result of more values is not summed up in several copies.
const COPIED: usize = 1 << 17;
/// Rows of the result that a thread takes at a time, at most.
const ROWS: usize = 5 * STRIP;
/// Panels that a thread takes at a time, at most.
const PANELS: usize = 32;
/// Pieces a thread should find, so that one that is held up does not hold up all.
const PIECES_PER_THREAD: usize = 3;

/// `left · right` for `size = [rows, columns, length of the sums]`, in rows of `columns`.
///
/// # Panics
///
/// If a factor is smaller than the sizes say.
pub(crate) fn product([m, n, k]: [usize; 3], left: Left<'_>, right: Left<'_>) -> Vec<f32> {
    let term = Term { left, right, k };
    if is_by_rows([m, n, k]) {
        return sum_of_products([m, n], &[term]);
    }
    let factors = Factors::new([m, n], term);
    match k > SHARED_DEPTH && m * n <= COPIED {
        true => factors.by_sums(),
        false => factors.by_columns(),
    }
}

/// Whether threads share a product by rows: where its sums are no longer than it has rows.
fn is_by_rows([m, n, k]: [usize; 3]) -> bool {
    m == 0 || n == 0 || k <= m
}

/// [`product`] into `out`.
///
/// # Panics
///
/// If a factor or `out` is smaller than the sizes say.
pub(crate) fn product_into(
    [m, n, k]: [usize; 3],
    left: Left<'_>,
    right: Left<'_>,
    out: &mut [f32],
) {
    match is_by_rows([m, n, k]) {
        true => add_up([m, n], &[Term { left, right, k }], &mut out[..m * n]),
        false => out[..m * n].copy_from_slice(&product([m, n, k], left, right)),
    }
}

/// A product that is part of a sum: factors and the length of its own sums.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) right: Left<'a>,
    pub(crate) k: usize,
}

/// `Σ left · right` over `terms`, `[m, n]`. Every thread takes some rows of the result; right factors
/// are packed once for all.
///
/// # Panics
///
/// If a factor is smaller than the sizes say.
pub(crate) fn sum_of_products([m, n]: [usize; 2], terms: &[Term<'_>]) -> Vec<f32> {
    // SAFETY: `add_up` writes all of it.
    let mut out = unsafe { unwritten(m * n) };
    add_up([m, n], terms, &mut out);
    out
}

/// Writes [`sum_of_products`] to `out`, which is read nowhere before.
fn add_up([m, n]: [usize; 2], terms: &[Term<'_>], out: &mut [f32]) {
    let terms: Vec<Term> = terms.iter().filter(|term| term.k > 0).copied().collect();
    if m == 0 || n == 0 || terms.is_empty() {
        return out.fill(0.0);
    }
    let panels = n.div_ceil(LANES);
    let terms: Vec<(Factors, Vec<f32>)> = terms
        .into_iter()
        .map(|term| Factors::new([m, n], term))
        .map(|factors| {
            let k = factors.size[2];
            // SAFETY: `pack` writes every value of a panel.
            let mut packed = unsafe { unwritten(panels * k * LANES) };
            packed
                .par_chunks_mut(k * LANES)
                .enumerate()
                .for_each(|(panel, packed)| factors.pack(panel, 0..k, packed));
            (factors, packed)
        })
        .collect();
    let rows = piece(m, ROWS).next_multiple_of(STRIP);
    // The strips cover all rows and the panels all columns, and `strip` writes before it adds.
    out.par_chunks_mut(rows * n)
        .enumerate()
        .for_each(|(i, out)| {
            let mut turned = Vec::new();
            let mut first = true;
            for (factors, packed) in &terms {
                let k = factors.size[2];
                for depth in depths(0..k, DEPTH) {
                    let panels = Panels {
                        packed,
                        rows: k,
                        first: depth.start,
                    };
                    for (strip, out) in out.chunks_mut(STRIP * n).enumerate() {
                        let from = i * rows + strip * STRIP;
                        let rows = out.len() / n;
                        let left = factors.left_strip(from, rows, depth.clone(), &mut turned);
                        factors.strip(left, panels, depth.len(), first, out, n);
                    }
                    first = false;
                }
            }
        });
}

/// Panels of a right factor, `rows` rows of [`LANES`] values each, from their row `first` on.
#[derive(Clone, Copy)]
struct Panels<'a> {
    packed: &'a [f32],
    rows: usize,
    first: usize,
}

impl<'a> Panels<'a> {
    fn from(self, panel: usize) -> Right<'a> {
        let from = (panel * self.rows + self.first) * LANES;
        Right::panels(&self.packed[from..], self.rows)
    }
}

#[derive(Clone, Copy)]
struct Factors<'a> {
    size: [usize; 3],
    left: Left<'a>,
    right: Left<'a>,
    level: Level,
}

impl<'f> Factors<'f> {
    fn new([m, n]: [usize; 2], Term { left, right, k }: Term<'f>) -> Self {
        Factors {
            size: [m, n, k],
            left,
            right,
            level: Level::detect(),
        }
    }

    /// Every thread takes some of the terms of every sum, into a copy of the result of its own.
    fn by_sums(&self) -> Vec<f32> {
        let [m, n, k] = self.size;
        let wide = n.next_multiple_of(LANES);
        let shares: Vec<Range<usize>> = depths(0..k, SHARED_DEPTH).collect();
        let copies: Vec<Vec<f32>> = shares
            .into_par_iter()
            .map(|share| self.columns(0..wide / LANES, share))
            .collect();
        let (sum, others) = copies.split_first().expect("at least one share");
        // SAFETY: every value is written before it is added to.
        let mut out = unsafe { unwritten(m * n) };
        let rows = (COPIED / 32 / n).max(1);
        out.par_chunks_mut(rows * n)
            .enumerate()
            .for_each(|(i, out)| {
                let first = i * rows;
                for (row, out) in out.chunks_exact_mut(n).enumerate() {
                    let at = (first + row) * wide..(first + row) * wide + n;
                    out.copy_from_slice(&sum[at.clone()]);
                    for other in others {
                        for (out, x) in out.iter_mut().zip(&other[at.clone()]) {
                            *out += x;
                        }
                    }
                }
            });
        out
    }

    /// Every thread takes some columns of the result, for sums so long that packing the right factor
    /// ahead would be a pass over memory of its own.
    fn by_columns(&self) -> Vec<f32> {
        let [m, n, k] = self.size;
        let panels = n.div_ceil(LANES);
        let width = piece(panels, PANELS);
        let pieces: Vec<Vec<f32>> = (0..panels.div_ceil(width))
            .into_par_iter()
            .map(|i| self.columns(i * width..panels.min((i + 1) * width), 0..k))
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

    /// Some panels of the result, summed over `range`: rows of as many lanes as there are panels.
    fn columns(&self, panels: Range<usize>, range: Range<usize>) -> Vec<f32> {
        let m = self.size[0];
        let stride = panels.len() * LANES;
        // SAFETY: as in `by_rows`.
        let mut out = unsafe { unwritten(m * stride) };
        // SAFETY: `pack` writes what is read of it.
        let mut packed = unsafe { unwritten(stride * DEPTH.min(range.len())) };
        let mut turned = Vec::new();
        for depth in depths(range.clone(), DEPTH) {
            let len = depth.len() * LANES;
            for (panel, packed) in panels.clone().zip(packed.chunks_exact_mut(len)) {
                self.pack(panel, depth.clone(), packed);
            }
            let packed = Panels {
                packed: &packed,
                rows: depth.len(),
                first: 0,
            };
            let first = depth.start == range.start;
            for (strip, out) in out.chunks_mut(STRIP * stride).enumerate() {
                let rows = out.len() / stride;
                let left = self.left_strip(strip * STRIP, rows, depth.clone(), &mut turned);
                self.strip(left, packed, depth.len(), first, out, stride);
            }
        }
        out
    }

    /// Rows of the left factor and a stretch of its columns: as they are where the stretch lies in one
    /// piece, otherwise turned so, in `turned`. (Values of a stretch that lie a power of two apart
    /// share a few places of a cache.)
    fn left_strip<'a>(
        &'a self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        turned: &'a mut Vec<f32>,
    ) -> Left<'a> {
        let Left { data, row, col } = self.left;
        if col == 1 || row != 1 {
            let data = &data[first * row + depth.start * col..];
            return Left { data, row, col };
        }
        turned.clear();
        for p in depth {
            let values = &data[p * col + first..][..rows];
            match values.first_chunk::<STRIP>() {
                // Of a known length: the compiler copies it without a call.
                Some(values) => turned.extend_from_slice(values),
                None => turned.extend_from_slice(values),
            }
        }
        Left::transposed(turned, rows)
    }

    /// Adds to `out`, rows of `stride`, or writes where nothing is there yet, the product of a strip of
    /// rows with all panels, as far as `out` has columns.
    fn strip(
        &self,
        left: Left<'_>,
        panels: Panels<'_>,
        depth: usize,
        first: bool,
        out: &mut [f32],
        stride: usize,
    ) {
        let rows = out.len() / stride;
        let keep = match first {
            true => Keep::Nothing,
            false => Keep::Times(1.0),
        };
        let product = |panel: usize, columns: usize| Product {
            size: [rows, columns, depth],
            left,
            right: panels.from(panel),
            part: Part::Whole,
            keep,
            scale: None,
        };
        let (whole, at_once) = (stride / LANES, groups_at_once(self.level));
        for panel in (0..whole).step_by(at_once) {
            let columns = at_once.min(whole - panel) * LANES;
            let out = &mut out[panel * LANES..];
            multiply(self.level, &product(panel, columns), out, stride);
        }
        let (from, width) = (whole * LANES, stride % LANES);
        if width == 0 {
            return;
        }
        let mut lanes = [0f32; STRIP * LANES];
        for (lanes, out) in lanes.chunks_exact_mut(LANES).zip(out.chunks_exact(stride)) {
            lanes[..width].copy_from_slice(&out[from..]);
        }
        multiply(self.level, &product(whole, LANES), &mut lanes, LANES);
        for (lanes, out) in lanes.chunks_exact(LANES).zip(out.chunks_exact_mut(stride)) {
            out[from..].copy_from_slice(&lanes[..width]);
        }
    }

    /// Rows `depth` of one panel of the right factor, columns that it does not have as zeros.
    fn pack(&self, panel: usize, depth: Range<usize>, packed: &mut [f32]) {
        let Left { data, row, col } = self.right;
        let first = panel * LANES;
        let width = LANES.min(self.size[1] - first);
        if col == 1 && width == LANES {
            for (p, packed) in depth.zip(packed.as_chunks_mut::<LANES>().0) {
                packed.copy_from_slice(&data[p * row + first..][..LANES]);
            }
            return;
        }
        if row == 1 {
            let columns = &data[first * col + depth.start..];
            transpose(
                self.level,
                [width, depth.len()],
                columns,
                col,
                packed,
                LANES,
            );
            return;
        }
        for (p, packed) in depth.zip(packed.as_chunks_mut::<LANES>().0) {
            packed.fill(0.0);
            for (j, to) in packed[..width].iter_mut().enumerate() {
                *to = data[p * row + (first + j) * col];
            }
        }
    }
}

/// `range` in stretches of at most `depth`.
fn depths(range: Range<usize>, depth: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(depth)
        .map(move |from| from..end.min(from + depth))
}

/// How much of `whole` a thread takes at a time, at most `limit`.
fn piece(whole: usize, limit: usize) -> usize {
    let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
    whole.div_ceil(pieces).clamp(1, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn random(seed: u64, len: usize) -> Vec<f32> {
        let values = Random(seed).values(len, -1.0, 1.0);
        values.into_iter().map(|x| x as f32).collect()
    }

    /// Both ways to share the work, factors stored both ways, sizes that fill no block.
    #[test]
    fn products_match_three_loops() {
        for [m, n, k] in [
            [1, 1, 1],
            [9, 33, 5],
            [300, 40, 130],
            [150, 17, 150],
            [20, 130, 900],
            [700, 5, 500],
            [50, 70, 1_300],
            [400, 400, 900],
        ] {
            let (left, right) = (random(1, m * k), random(2, k * n));
            for stored in 0..4 {
                let left = match stored & 1 {
                    0 => Left::rows(&left, k),
                    _ => Left::transposed(&left, m),
                };
                let right = match stored & 2 {
                    0 => Left::rows(&right, n),
                    _ => Left::transposed(&right, k),
                };
                let got = product([m, n, k], left, right);
                for (at, got) in got.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let of = |p: usize| {
                        let left = left.data[i * left.row + p * left.col];
                        f64::from(left) * f64::from(right.data[p * right.row + j * right.col])
                    };
                    let want: f64 = (0..k).map(of).sum();
                    let error = (f64::from(*got) - want).abs();
                    assert!(error < 1e-4, "[{m}, {n}, {k}] {stored} [{i}, {j}]: {error}");
                }
            }
        }
    }

    #[test]
    fn a_sum_of_products_is_the_sum() {
        let [m, n] = [70, 50];
        let of = |k: usize| (random(k as u64, m * k), random(k as u64 + 1, k * n));
        let factors = [130, 0, 300].map(|k| (k, of(k)));
        let terms = factors.each_ref().map(|(k, (left, right))| Term {
            left: Left::rows(left, *k),
            right: Left::transposed(right, *k),
            k: *k,
        });
        let got = sum_of_products([m, n], &terms);
        let each = terms.map(|Term { left, right, k }| product([m, n, k], left, right));
        for (at, got) in got.iter().enumerate() {
            let want: f32 = each.iter().map(|product| product[at]).sum();
            assert!((got - want).abs() < 1e-4, "{at}: {got} {want}");
        }
        let one = sum_of_products([m, n], &terms[..1]);
        assert!(
            got.iter()
                .zip(&one)
                .any(|(all, one)| (all - one).abs() > 0.1)
        );
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for [m, n, k] in [[150, 70, 60], [60, 70, 900]] {
            let (left, right) = (random(3, m * k), random(4, k * n));
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let run = || product([m, n, k], Left::rows(&left, k), Left::rows(&right, n));
                pool.expect("threads").install(run)
            };
            assert_eq!(with(1), with(5), "[{m}, {n}, {k}]");
        }
    }

    #[test]
    fn sums_of_nothing_are_zeros() {
        let nothing = Left::rows(&[], 1);
        assert_eq!(product([2, 3, 0], nothing, nothing), [0.0; 6]);
        assert!(product([0, 3, 4], nothing, Left::rows(&[1.0; 12], 3)).is_empty());
    }
}
