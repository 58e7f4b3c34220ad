//! Matrix products of some dozen rows, on slices that are in cache.
//!
//! Nothing is packed: the left factor is read value by value with any strides, so a transposed one
//! costs nothing, and the right factor and the result have rows of whole lanes. At these sizes
//! (16 to 128) the packing of a general matrix product costs more than it gains.

use crate::cpu::simd::{LANES, Lanes, lanes, lanes_mut, leveled, multiply_add};

/// Rows of lanes as accumulators from which on the registers hold twice as many: those of AVX-512 do.
const WIDE: usize = 8;

/// A matrix of any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a, T = f32> {
    pub(crate) data: &'a [T],
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one column to the next.
    pub(crate) col: usize,
}

impl<'a, T> Left<'a, T> {
    /// Rows of `stride`.
    pub(crate) fn rows(data: &'a [T], stride: usize) -> Self {
        Left {
            data,
            row: stride,
            col: 1,
        }
    }

    /// The transpose of rows of `stride`.
    pub(crate) fn transposed(data: &'a [T], stride: usize) -> Self {
        Left {
            data,
            row: 1,
            col: stride,
        }
    }

    /// The transpose.
    pub(crate) fn turned(self) -> Self {
        Left {
            data: self.data,
            row: self.col,
            col: self.row,
        }
    }
}

/// A matrix in groups of [`LANES`] columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a> {
    data: &'a [f32],
    /// From one row to the next.
    row: usize,
}

impl<'a> Right<'a> {
    /// Rows of `stride`.
    pub(crate) fn rows(data: &'a [f32], stride: usize) -> Self {
        Right { data, row: stride }
    }
}

/// Which part of the product is not zero or not wanted. Zeros of a triangle have to be there
/// within the lanes around the diagonal; beyond them nothing is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything.
    Whole,
    /// The left factor is zero above the diagonal.
    LeftLower,
    /// The left factor is zero below the diagonal.
    LeftUpper,
    /// Only the result on and below the diagonal is wanted.
    OutLower,
}

/// What the product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep<'a> {
    /// Nothing; the result is overwritten without being read.
    Nothing,
    /// The values the result held, multiplied.
    Times(f32),
    /// Other values, laid out like the result, multiplied.
    Other(f32, &'a [f32]),
}

/// `out = keep · out + diag(scale) · left · right`.
pub(crate) struct Product<'a> {
    /// Rows, columns (whole lanes) and the length of the sums.
    pub(crate) size: [usize; 3],
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    pub(crate) part: Part,
    pub(crate) keep: Keep<'a>,
    /// One factor for each row.
    pub(crate) scale: Option<&'a [f32]>,
}

leveled!(
    /// Computes `product` into rows of `stride`.
    /// Panics if a matrix is smaller than the sizes say, or rows are not whole lanes.
    fn multiply<const FMA: bool, const ROWS: usize>(
        product: &Product<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        product.check(out, stride);
        let m = product.size[0];
        // Zeros of a triangle are there within the lanes around the diagonal: no block crosses them.
        let group = match product.part {
            Part::Whole => m,
            _ => LANES,
        };
        let mut from = 0;
        while from < m {
            let to = m.min(from + group);
            row_blocks::<FMA, ROWS>(product, out, stride, from..to);
            from = to;
        }
    }
);

/// `rows` in blocks as equal as can be: a last one of a row or two would leave most registers idle.
#[inline(always)]
fn row_blocks<const FMA: bool, const ROWS: usize>(
    product: &Product<'_>,
    out: &mut [f32],
    stride: usize,
    rows: std::ops::Range<usize>,
) {
    let mut i = rows.start;
    for left in (1..=rows.len().div_ceil(ROWS)).rev() {
        let block = (rows.end - i).div_ceil(left);
        match block {
            1 => row_block::<FMA, ROWS, 1>(product, out, stride, i),
            2 => row_block::<FMA, ROWS, 2>(product, out, stride, i),
            3 => row_block::<FMA, ROWS, 3>(product, out, stride, i),
            4 => row_block::<FMA, ROWS, 4>(product, out, stride, i),
            5 if ROWS > 4 => row_block::<FMA, ROWS, 5>(product, out, stride, i),
            6 if ROWS > 4 => row_block::<FMA, ROWS, 6>(product, out, stride, i),
            7 if ROWS > 6 => row_block::<FMA, ROWS, 7>(product, out, stride, i),
            8 if ROWS > 6 => row_block::<FMA, ROWS, 8>(product, out, stride, i),
            _ => unreachable!("blocks have 1 to ROWS rows, and ROWS is at most 8"),
        }
        i += block;
    }
}

impl Product<'_> {
    /// Everything that `tile` relies on.
    #[inline(always)]
    fn check(&self, out: &[f32], stride: usize) {
        let ([m, n, k], Left { data, row, col }) = (self.size, self.left);
        assert!(n % LANES == 0, "{n} columns are not whole lanes");
        if m == 0 || n == 0 {
            return;
        }
        assert!((m - 1) * stride + n <= out.len());
        assert!(self.scale.is_none_or(|scale| m <= scale.len()));
        if let Keep::Other(_, other) = self.keep {
            assert!((m - 1) * stride + n <= other.len());
        }
        if k > 0 {
            assert!((m - 1) * row + (k - 1) * col < data.len());
            let Right { data, row } = self.right;
            assert!((k - 1) * row + n <= data.len());
        }
    }
}

/// `R` rows of the result from row `i` on, two groups of columns at a time where there are registers
/// for them: every value of the left factor is loaded once for both.
#[inline(always)]
fn row_block<const FMA: bool, const ROWS: usize, const R: usize>(
    product: &Product<'_>,
    out: &mut [f32],
    stride: usize,
    i: usize,
) {
    let [_, n, k] = product.size;
    let (mut from, mut to, mut columns) = (0, k, n);
    match product.part {
        Part::Whole => {}
        Part::LeftLower => to = k.min(i + R),
        Part::LeftUpper => from = i.min(k),
        Part::OutLower => columns = n.min((i + R).next_multiple_of(LANES)),
    }
    let mut j = 0;
    while j < columns {
        if ROWS >= WIDE && columns - j >= 2 * LANES {
            // SAFETY: `check` has seen that rows up to `m`, columns up to `n` and sums up to `k` are
            // inside the slices; `i + R <= m`, the groups end at `n` and `to <= k`.
            let sums = unsafe { tile::<FMA, R, 2>(product, i, j, from..to) };
            finish::<FMA, R, 2>(product, &sums, out, stride, i, j);
            j += 2 * LANES;
        } else {
            // SAFETY: as above.
            let sums = unsafe { tile::<FMA, R, 1>(product, i, j, from..to) };
            finish::<FMA, R, 1>(product, &sums, out, stride, i, j);
            j += LANES;
        }
    }
}

/// Writes a tile of sums. In loops, not by `for_each`: a closure that is not inlined is compiled
/// without the vector instructions of the function around it.
#[inline(always)]
fn finish<const FMA: bool, const R: usize, const G: usize>(
    product: &Product<'_>,
    sums: &[[Lanes; G]; R],
    out: &mut [f32],
    stride: usize,
    i: usize,
    j: usize,
) {
    for (r, groups) in sums.iter().enumerate() {
        for (g, sums) in groups.iter().enumerate() {
            let at = (i + r) * stride + j + g * LANES;
            let mut row = *sums;
            if let Some(scale) = product.scale {
                let factor = scale[i + r];
                for x in &mut row {
                    *x *= factor;
                }
            }
            match product.keep {
                Keep::Nothing => {}
                Keep::Times(keep) => row = add::<FMA>(&row, keep, lanes(out, at)),
                Keep::Other(keep, other) => row = add::<FMA>(&row, keep, lanes(other, at)),
            }
            *lanes_mut(out, at) = row;
        }
    }
}

/// `sums + keep · kept`.
#[inline(always)]
fn add<const FMA: bool>(sums: &Lanes, keep: f32, kept: &Lanes) -> Lanes {
    let mut out = [0f32; LANES];
    for l in 0..LANES {
        out[l] = multiply_add::<FMA>(keep, kept[l], sums[l]);
    }
    out
}

/// The sums over `range` for `R` rows from `i` and `G` groups of columns from column `j`.
///
/// # Safety
///
/// Rows `i..i + R`, columns `j..j + G · LANES` and `range` must lie inside both factors.
#[inline(always)]
unsafe fn tile<const FMA: bool, const R: usize, const G: usize>(
    product: &Product<'_>,
    i: usize,
    j: usize,
    range: std::ops::Range<usize>,
) -> [[Lanes; G]; R] {
    let Left { data, row, col } = product.left;
    let right = product.right;
    let mut sums = [[[0f32; LANES]; G]; R];
    for p in range {
        let mut groups = [[0f32; LANES]; G];
        for (g, group) in groups.iter_mut().enumerate() {
            let at = p * right.row + j + g * LANES;
            // SAFETY: the caller's promise; an array of f32 has the alignment of f32.
            *group = unsafe { *right.data.as_ptr().add(at).cast::<Lanes>() };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let value = unsafe { *data.as_ptr().add((i + r) * row + p * col) };
            for (sums, group) in sums.iter_mut().zip(&groups) {
                for l in 0..LANES {
                    sums[l] = multiply_add::<FMA>(value, group[l], sums[l]);
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, padded};
    use crate::testing::Random;

    fn random(random: &mut Random, len: usize) -> Vec<f32> {
        random
            .values(len, -1.0, 1.0)
            .into_iter()
            .map(|x| x as f32)
            .collect()
    }

    /// Every size, stride, part and level against three loops in f64.
    #[test]
    fn products_match_three_loops() {
        let mut seed = Random(3);
        for (m, n, k) in [
            (1, 1, 1),
            (5, 16, 3),
            (23, 40, 17),
            (64, 64, 64),
            (8, 7, 0),
            (33, 33, 33),
        ] {
            for part in [
                Part::Whole,
                Part::LeftLower,
                Part::LeftUpper,
                Part::OutLower,
            ] {
                for transposed in [false, true] {
                    let wide = padded(n);
                    let mut left = random(&mut seed, m.max(1) * k.max(1));
                    let (row, col) = if transposed { (1, m) } else { (k, 1) };
                    for (i, p) in (0..m).flat_map(|i| (0..k).map(move |p| (i, p))) {
                        let zero = match part {
                            Part::LeftLower => p > i,
                            Part::LeftUpper => p < i,
                            _ => false,
                        };
                        if zero {
                            left[i * row + p * col] = 0.0;
                        }
                    }
                    let right = random(&mut seed, k * wide);
                    let scale = random(&mut seed, m);
                    let before = random(&mut seed, m * wide);
                    for level in Level::available() {
                        let mut out = before.clone();
                        let product = Product {
                            size: [m, wide, k],
                            left: Left {
                                data: &left,
                                row,
                                col,
                            },
                            right: Right::rows(&right, wide),
                            part,
                            keep: Keep::Times(0.5),
                            scale: Some(&scale),
                        };
                        multiply(level, &product, &mut out, wide);
                        let mut apart = vec![f32::NAN; m * wide];
                        let elsewhere = Product {
                            keep: Keep::Other(0.5, &before),
                            ..product
                        };
                        multiply(level, &elsewhere, &mut apart, wide);
                        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                            if part == Part::OutLower && j > i {
                                continue;
                            }
                            let sum: f64 = (0..k)
                                .map(|p| {
                                    left[i * row + p * col] as f64 * right[p * wide + j] as f64
                                })
                                .sum();
                            let want = 0.5 * before[i * wide + j] as f64 + scale[i] as f64 * sum;
                            let got = out[i * wide + j] as f64;
                            assert!((got - want).abs() < 1e-5, "{level:?} {part:?} [{i}, {j}]");
                            assert_eq!(got, apart[i * wide + j] as f64, "{level:?} {part:?}");
                        }
                    }
                }
            }
        }
    }
}
