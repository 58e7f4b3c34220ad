//! Matrix products of many rows, by all threads, in blocks that stay in cache.
//!
//! The right factor is cut into panels of [`LANES`] columns, each packed so that its rows follow one
//! another; [`multiply`] does the rest. Which thread takes what depends on the machine, the order in
//! which a value is summed up on the sizes alone: two machines with different numbers of cores get
//! the same bits.

use crate::math::product::{Keep, Left, Part, Product, Right, multiply};
use crate::math::simd::{LANES, Level};
use crate::math::transpose::transpose;
use crate::math::unwritten::unwritten;
use rayon::prelude::*;
use std::ops::Range;

/// Length of the sums that are taken at a time: a packed panel of it is 24 KiB, within a first-level
/// cache.
const DEPTH: usize = 384;
/// Values of the left factor that every panel meets, 192 KiB of a second-level cache.
const LEFT: usize = 128 * DEPTH;
/// Pieces a thread should find, so that one that is held up does not hold up all.
const PIECES_PER_THREAD: usize = 3;

/// `left · right` for `size = [rows, columns, length of the sums]`, in rows of `columns`.
///
/// # Panics
///
/// If a factor is smaller than the sizes say.
pub(crate) fn product(size: [usize; 3], left: Left<'_>, right: Left<'_>) -> Vec<f32> {
    let [m, n, k] = size;
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    let factors = Factors {
        size,
        left,
        right,
        level: Level::detect(),
    };
    match k > m {
        true => factors.by_columns(),
        false => factors.by_rows(),
    }
}

#[derive(Clone, Copy)]
struct Factors<'a> {
    size: [usize; 3],
    left: Left<'a>,
    right: Left<'a>,
    level: Level,
}

impl Factors<'_> {
    /// Every thread takes some rows of the result; the right factor is packed once for all.
    fn by_rows(&self) -> Vec<f32> {
        let [m, n, k] = self.size;
        let panels = n.div_ceil(LANES);
        // SAFETY: `pack` writes every value of a panel.
        let mut packed = unsafe { unwritten(panels * k * LANES) };
        packed
            .par_chunks_mut(k * LANES)
            .enumerate()
            .for_each(|(panel, packed)| self.pack(panel, 0..k, packed));
        let rows = piece(m, LEFT / DEPTH).next_multiple_of(8);
        // SAFETY: the panels cover all columns, and `panel` writes before it adds.
        let mut out = unsafe { unwritten(m * n) };
        out.par_chunks_mut(rows * n)
            .enumerate()
            .for_each(|(i, out)| {
                for depth in depths(k, DEPTH) {
                    for (panel, packed) in packed.chunks_exact(k * LANES).enumerate() {
                        let packed = &packed[depth.start * LANES..depth.end * LANES];
                        self.panel(i * rows, panel, depth.clone(), packed, out, n);
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
        let width = piece(panels, 8);
        let depth = (LEFT / m).clamp(1, DEPTH);
        let pieces: Vec<Vec<f32>> = (0..panels.div_ceil(width))
            .into_par_iter()
            .map(|i| {
                let (first, last) = (i * width, panels.min((i + 1) * width));
                let stride = (last - first) * LANES;
                let mut out = vec![0f32; m * stride];
                let mut packed = [0f32; DEPTH * LANES];
                for depth in depths(k, depth) {
                    for panel in first..last {
                        let packed = &mut packed[..depth.len() * LANES];
                        self.pack(panel, depth.clone(), packed);
                        let out = &mut out[(panel - first) * LANES..];
                        self.whole_panel(0, depth.clone(), packed, out, stride, m);
                    }
                }
                out
            })
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

    /// Adds a packed panel's part to the rows of `out` that begin with row `first`.
    fn panel(
        &self,
        first: usize,
        panel: usize,
        depth: Range<usize>,
        packed: &[f32],
        out: &mut [f32],
        stride: usize,
    ) {
        let (rows, from) = (out.len() / stride, panel * LANES);
        let width = LANES.min(stride - from);
        if width == LANES {
            return self.whole_panel(first, depth, packed, &mut out[from..], stride, rows);
        }
        let begun = depth.start > 0;
        let mut lanes = vec![0f32; rows * LANES];
        if begun {
            for (lanes, out) in lanes.chunks_exact_mut(LANES).zip(out.chunks_exact(stride)) {
                lanes[..width].copy_from_slice(&out[from..]);
            }
        }
        self.whole_panel(first, depth, packed, &mut lanes, LANES, rows);
        for (lanes, out) in lanes.chunks_exact(LANES).zip(out.chunks_exact_mut(stride)) {
            out[from..].copy_from_slice(&lanes[..width]);
        }
    }

    /// The same for a panel whose lanes `out` has all of.
    fn whole_panel(
        &self,
        first: usize,
        depth: Range<usize>,
        packed: &[f32],
        out: &mut [f32],
        stride: usize,
        rows: usize,
    ) {
        let Left { data, row, col } = self.left;
        let product = Product {
            size: [rows, LANES, depth.len()],
            left: Left {
                data: &data[first * row + depth.start * col..],
                row,
                col,
            },
            right: Right {
                data: packed,
                stride: LANES,
            },
            part: Part::Whole,
            keep: match depth.start {
                0 => Keep::Nothing,
                _ => Keep::Times(1.0),
            },
            scale: None,
        };
        multiply(self.level, &product, out, stride);
    }
}

/// The sums in stretches of at most `depth`.
fn depths(k: usize, depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k)
        .step_by(depth)
        .map(move |from| from..k.min(from + depth))
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
