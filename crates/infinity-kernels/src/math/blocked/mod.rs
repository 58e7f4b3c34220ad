//! Matrix products of many rows, by all threads, in blocks that stay in cache.
//!
//! The right factor is cut into panels of [`LANES`](super::simd::LANES) columns, each packed so that its
//! rows follow one another. A strip of rows of the left factor stays in a first-level cache while every
//! panel passes by; [`multiply`](super::product::multiply) does the rest. Which thread takes what
//! depends on the machine, the order in which a value is summed up on the sizes alone: two machines with
//! different numbers of cores get the same bits.
//!
//! | file | threads share |
//! |---|---|
//! | `rows.rs` | the rows of results |
//! | `sums.rs` | the terms of long sums, or columns |
//! | `factors.rs` | (strips and panels) |

mod factors;
mod rows;
mod sums;
#[cfg(test)]
mod tests;

use crate::math::product::Left;
use crate::math::unwritten::unwritten;
use factors::Factors;
use rows::Sum;

/// Pieces a thread should find, so that one that is held up does not hold up all.
const PIECES_PER_THREAD: usize = 3;

/// A right factor and its number of columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) data: Left<'a>,
    pub(crate) n: usize,
}

/// `left · right` for every right factor; `left` is `[m, k]`, a result has rows of its `n`.
///
/// # Panics
///
/// If a factor is smaller than the sizes say.
pub(crate) fn products(
    [m, k]: [usize; 2],
    left: Left<'_>,
    rights: &[Columns<'_>],
) -> Vec<Vec<f32>> {
    let all = |is: fn([usize; 3]) -> bool| rights.iter().all(|right| is([m, right.n, k]));
    if all(is_by_rows) {
        // SAFETY: `by_rows` writes all of it.
        let result = |right: &Columns| unsafe { unwritten(m * right.n) };
        let mut results: Vec<Vec<f32>> = rights.iter().map(result).collect();
        let outs = results.iter_mut().map(Vec::as_mut_slice);
        by_rows([m, k], left, rights, outs.collect());
        return results;
    }
    let factors: Vec<Factors> = rights
        .iter()
        .map(|right| Factors::new([m, right.n, k], left, right.data))
        .collect();
    if all(is_by_sums) {
        return sums::by_sums(&factors);
    }
    if let [factors] = &factors[..] {
        return vec![sums::by_columns(factors)];
    }
    let each = rights.iter();
    each.flat_map(|right| products([m, k], left, &[*right]))
        .collect()
}

/// [`products`] into `outs`.
///
/// # Panics
///
/// If a factor or a result is smaller than the sizes say.
pub(crate) fn products_into(
    [m, k]: [usize; 2],
    left: Left<'_>,
    rights: &[Columns<'_>],
    outs: Vec<&mut [f32]>,
) {
    if rights.iter().all(|right| is_by_rows([m, right.n, k])) {
        return by_rows([m, k], left, rights, outs);
    }
    for (out, result) in outs.into_iter().zip(products([m, k], left, rights)) {
        out[..result.len()].copy_from_slice(&result);
    }
}

/// [`products`] of which every thread takes some rows.
fn by_rows([m, k]: [usize; 2], left: Left<'_>, rights: &[Columns<'_>], outs: Vec<&mut [f32]>) {
    let sums = rights.iter().zip(outs).map(|(right, out)| Sum {
        columns: right.n,
        terms: vec![Factors::new([m, right.n, k], left, right.data)],
        out: &mut out[..m * right.n],
    });
    rows::add_up(m, sums.collect());
}

/// Whether threads share a product by rows: where its sums are no longer than it has rows.
fn is_by_rows([m, n, k]: [usize; 3]) -> bool {
    m == 0 || n == 0 || k <= m
}

/// Whether threads share the sums of a product that is not by rows.
fn is_by_sums([m, n, k]: [usize; 3]) -> bool {
    !is_by_rows([m, n, k]) && k > sums::SHARED_DEPTH && m * n <= sums::COPIED
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
    let terms = terms
        .iter()
        .map(|term| Factors::new([m, n, term.k], term.left, term.right));
    rows::add_up(
        m,
        vec![Sum {
            columns: n,
            terms: terms.collect(),
            out: &mut out,
        }],
    );
    out
}

/// How much of `whole` a thread takes at a time, at most `limit`.
fn piece(whole: usize, limit: usize) -> usize {
    let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
    whole.div_ceil(pieces).clamp(1, limit)
}
