//! Large matrix products by all threads: those of the `gemm` crate, which Burn's matrix products on the CPU are too.
//!
//! Factors are read with the strides that they are stored with, and a product may be added to what is there, so a sum of
//! products is one pass. Every thread takes a stretch of rows: the crate's own sharing waits for all threads several times in a
//! product, and takes half as long again for a gradient of a small weight (LOG.md). The order in which a value is summed up
//! does not depend on the rows beside it: with one and with many threads the bits are the same.

use crate::cpu::product::Left;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Rows of a thread below which the crate shares a product, by columns too.
const LEAST_ROWS: usize = 64;
/// Multiplications below which one thread takes all of a product, as the crate would.
const LEAST_WORK: usize = 48 * 48 * 256;

/// `left · right`, `[m, k]` and `[k, n]`; zeros where `k` is 0.
/// Panics if a factor is smaller than the sizes say.
pub(crate) fn product([m, n, k]: [usize; 3], left: Left<'_>, right: Left<'_>) -> Vec<f32> {
    let mut out = Box::new_uninit_slice(m * n);
    match k {
        0 => {
            out.fill(MaybeUninit::new(0.0));
        }
        _ => multiply([m, n, k], left, right, &mut out, false),
    }
    // SAFETY: the product, or the zeros, were written to all of it.
    unsafe { out.assume_init() }.into_vec()
}

/// Adds `left · right`, `[m, k]` and `[k, n]`, to `out`.
/// Panics as [`product`].
pub(crate) fn add_product([m, n, k]: [usize; 3], left: Left<'_>, right: Left<'_>, out: &mut [f32]) {
    let (start, len) = (out.as_mut_ptr().cast::<MaybeUninit<f32>>(), out.len());
    // SAFETY: a number may be one that is perhaps unwritten, and `multiply` writes nothing but numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(start, len) };
    if k > 0 {
        multiply([m, n, k], left, right, out, true);
    }
}

/// Writes a product to `out`, rows of `n`, or adds it to the values that are there: `adds` wants all of them written.
fn multiply(
    [m, n, k]: [usize; 3],
    left: Left<'_>,
    right: Left<'_>,
    out: &mut [MaybeUninit<f32>],
    adds: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= m * n && k > 0);
    assert!((m - 1) * left.row + (k - 1) * left.col < left.data.len());
    assert!((k - 1) * right.row + (n - 1) * right.col < right.data.len());
    let threads = match m * n * k {
        0..LEAST_WORK => 1,
        _ => rayon::current_num_threads(),
    };
    let rows = m.div_ceil(threads).next_multiple_of(16).min(m);
    let last = m - (m - 1) / rows * rows;
    // Small results are summed up in another order: no stretch may be one where the whole is none.
    let alike = |rows: usize| rows > 1 && rows * n > 256 && (rows > 64 || n > 64);
    let (rows, shared) = match threads == 1 || (rows >= LEAST_ROWS && alike(last)) {
        true => (rows, gemm::Parallelism::None),
        false => (m, gemm::Parallelism::Rayon(0)),
    };
    let stride = |stride: usize| isize::try_from(stride).expect("no slice is longer");
    let kept = if adds { 1.0 } else { 0.0 };
    let stretch = |i: usize, out: &mut [MaybeUninit<f32>]| {
        let left_rows = &left.data[i * rows * left.row..];
        // SAFETY: the factors lie inside their slices, as was just seen of all rows, and the result of `rows` or what is left
        // of them is this stretch of it, which nothing else has. It is read only where `adds` says that it was written.
        unsafe {
            gemm::gemm(
                out.len() / n,
                n,
                k,
                out.as_mut_ptr().cast::<f32>(),
                1,
                stride(n),
                adds,
                left_rows.as_ptr(),
                stride(left.col),
                stride(left.row),
                right.data.as_ptr(),
                stride(right.col),
                stride(right.row),
                kept,
                1.0,
                false,
                false,
                false,
                shared,
            );
        }
    };
    let out = &mut out[..m * n];
    match rows < m {
        true => out
            .par_chunks_mut(rows * n)
            .enumerate()
            .for_each(|(i, out)| stretch(i, out)),
        false => stretch(0, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn random(seed: u64, len: usize) -> Vec<f32> {
        let values = Random(seed).values(len, -1.0, 1.0);
        values.into_iter().map(|x| x as f32).collect()
    }

    /// Factors stored both ways, sizes that fill no block.
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
        let views = factors.each_ref().map(|(k, (left, right))| {
            (
                [m, n, *k],
                Left::rows(left, *k),
                Left::transposed(right, *k),
            )
        });
        let each = views.map(|(size, left, right)| product(size, left, right));
        let mut got = each[0].clone();
        for (size, left, right) in &views[1..] {
            add_product(*size, *left, *right, &mut got);
        }
        for (at, got) in got.iter().enumerate() {
            let want: f32 = each.iter().map(|product| product[at]).sum();
            assert!((got - want).abs() < 1e-4, "{at}: {got} {want}");
        }
        assert!(
            got.iter()
                .zip(&each[0])
                .any(|(all, one)| (all - one).abs() > 0.1)
        );
    }

    /// Sizes below and above those from which a product is shared, by rows or by the crate.
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for [m, n, k] in [
            [150, 70, 60],
            [60, 70, 900],
            [128, 384, 1_536],
            [1_536, 66, 384],
            [128, 66, 1_536],
            [1_537, 128, 66],
            [400, 1_024, 700],
            [201, 3, 3_000],
            [161, 80, 300],
            [160, 50, 700],
        ] {
            let (left, right) = (random(3, m * k), random(4, k * n));
            for transposed in [false, true] {
                let left = match transposed {
                    false => Left::rows(&left, k),
                    true => Left::transposed(&left, m),
                };
                let with = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let run = || product([m, n, k], left, Left::rows(&right, n));
                    pool.expect("threads").install(run)
                };
                let one = with(1);
                assert!([2, 3, 5].iter().all(|n| with(*n) == one), "[{m}, {n}, {k}]");
            }
        }
    }

    #[test]
    fn sums_of_nothing_are_zeros() {
        let nothing = Left::rows(&[], 1);
        assert_eq!(product([2, 3, 0], nothing, nothing), [0.0; 6]);
        assert!(product([0, 3, 4], nothing, Left::rows(&[1.0; 12], 3)).is_empty());
    }
}
