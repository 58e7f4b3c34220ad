//! Matrix products of many rows, by all threads, in blocks that stay in cache.
//!
//! The right factor is cut into panels of [`LANES`] columns, each packed so that its rows follow one
//! another. A strip of rows of the left factor stays in a first-level cache while every panel passes by;
//! [`multiply`] does the rest. Threads share the rows of results, or where sums are longer than there are
//! rows, the terms of the sums or the columns. Which thread takes what depends on the machine, the order
//! in which a value is summed up on the sizes alone: two machines with different numbers of cores get the
//! same bits.

#[cfg(test)]
mod tests;

use crate::cpu::product::{Keep, Left, Part, Product, Right, groups_at_once, multiply};
use crate::cpu::results::zeroed;
use crate::cpu::simd::{LANES, Level};
use crate::cpu::transpose::transpose;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Length of the sums that are taken at a time: a packed panel of it is 16 KiB, half of a first-level
/// cache.
const DEPTH: usize = 256;
/// Rows of the left factor that meet all panels before the next: at most 24 KiB with [`DEPTH`]; a
/// multiple of all the numbers of rows that fit into registers.
const STRIP: usize = 24;
/// Rows of the results that a thread takes at a time, at most.
const ROWS: usize = 3 * STRIP;
/// Length of the sums that a thread takes where the sums are shared, at least.
const SHARED_DEPTH: usize = 192;
/// Copies of a result, at most: longer sums are taken in longer pieces.
const COPIES: usize = 32;
/// A result of more values is not summed up in several copies.
const COPIED: usize = 1 << 17;
/// Values of results that a thread adds up at a time, about.
const ADDED: usize = COPIED / 32;
/// Panels that a thread takes at a time, at most.
const PANELS: usize = 32;
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
        let room = |right: &Columns| Box::new_uninit_slice(m * right.n);
        let mut results: Vec<Box<[MaybeUninit<f32>]>> = rights.iter().map(room).collect();
        let outs = results.iter_mut().map(|result| &mut result[..]);
        by_rows([m, k], left, rights, outs.collect());
        // SAFETY: `by_rows` writes all of it.
        let written = |result: Box<[MaybeUninit<f32>]>| unsafe { result.assume_init() }.into_vec();
        return results.into_iter().map(written).collect();
    }
    let factors: Vec<Factors> = rights
        .iter()
        .map(|right| Factors::new([m, right.n, k], left, right.data))
        .collect();
    if all(is_by_sums) {
        return by_sums(&factors);
    }
    if let [factors] = &factors[..] {
        return vec![by_columns(factors)];
    }
    let each = rights.iter();
    each.flat_map(|right| products([m, k], left, &[*right]))
        .collect()
}

/// Writes [`products`] to all of `outs`. Every thread takes some rows.
fn by_rows(
    [m, k]: [usize; 2],
    left: Left<'_>,
    rights: &[Columns<'_>],
    outs: Vec<&mut [MaybeUninit<f32>]>,
) {
    let sums = rights.iter().zip(outs).map(|(right, out)| Sum {
        columns: right.n,
        terms: vec![Factors::new([m, right.n, k], left, right.data)],
        out,
    });
    add_up(m, sums.collect());
}

/// Whether threads share a product by rows: where its sums are no longer than it has rows.
fn is_by_rows([m, n, k]: [usize; 3]) -> bool {
    m == 0 || n == 0 || k <= m
}

/// Whether threads share the sums of a product that is not by rows.
fn is_by_sums([m, n, k]: [usize; 3]) -> bool {
    !is_by_rows([m, n, k]) && k > SHARED_DEPTH && m * n <= COPIED
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
    let mut out = Box::new_uninit_slice(m * n);
    let terms = terms
        .iter()
        .map(|term| Factors::new([m, n, term.k], term.left, term.right));
    let sum = Sum {
        columns: n,
        terms: terms.collect(),
        out: &mut out,
    };
    add_up(m, vec![sum]);
    // SAFETY: `add_up` writes all of it.
    unsafe { out.assume_init() }.into_vec()
}

/// How much of `whole` a thread takes at a time, at most `limit`.
fn piece(whole: usize, limit: usize) -> usize {
    let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
    whole.div_ceil(pieces).clamp(1, limit)
}

/// A result: the sum of some products.
struct Sum<'a> {
    columns: usize,
    terms: Vec<Factors<'a>>,
    /// Rows of `columns`.
    out: &'a mut [MaybeUninit<f32>],
}

/// A term and the place of its packed right factor.
type Packed<'a, Value = f32> = (Factors<'a>, Box<[Value]>);

/// Writes all of every sum, of `m` rows each.
fn add_up(m: usize, sums: Vec<Sum<'_>>) {
    let terms = packed(&sums);
    let rows = piece(m, ROWS).next_multiple_of(STRIP);
    let mut pieces: Vec<Vec<_>> = (0..m.div_ceil(rows)).map(|_| Vec::new()).collect();
    for (terms, Sum { columns, out, .. }) in terms.iter().zip(sums) {
        if columns == 0 {
            continue;
        }
        let pieces = pieces.iter_mut().zip(out.chunks_mut(rows * columns));
        pieces.for_each(|(piece, out)| piece.push((terms, columns, out)));
    }
    pieces.into_par_iter().enumerate().for_each(|(i, piece)| {
        let mut turned = Vec::new();
        for (terms, columns, out) in piece {
            add_up_rows(terms, columns, i * rows, out, &mut turned);
        }
    });
}

/// Packs all right factors, at a time. Terms of no length are left out.
fn packed<'f>(sums: &[Sum<'f>]) -> Vec<Vec<Packed<'f>>> {
    let room = |term: &Factors<'f>| {
        let len = term.panels() * term.size[2] * LANES;
        (*term, Box::new_uninit_slice(len))
    };
    let terms = |sum: &Sum<'f>| {
        let terms = sum.terms.iter().filter(|term| term.size[2] > 0);
        terms.map(room).collect()
    };
    let mut sums: Vec<Vec<Packed<MaybeUninit<f32>>>> = sums.iter().map(terms).collect();
    let panels = sums.iter_mut().flatten().flat_map(|(term, packed)| {
        let term = *term;
        let panels = packed.chunks_mut(term.size[2] * LANES).enumerate();
        panels.map(move |(i, panel)| (term, i, panel))
    });
    let panels: Vec<_> = panels.collect();
    panels.into_par_iter().for_each(|(term, i, panel)| {
        term.pack(i, 0..term.size[2], zeroed(panel));
    });
    let sums = sums.into_iter().map(|terms| {
        // SAFETY: all panels of a term are its memory, and each was filled.
        let terms = terms
            .into_iter()
            .map(|(term, packed)| (term, unsafe { packed.assume_init() }));
        terms.collect()
    });
    sums.collect()
}

/// Writes some rows of a sum, from row `first` on.
fn add_up_rows(
    terms: &[Packed<'_>],
    columns: usize,
    first: usize,
    out: &mut [MaybeUninit<f32>],
    turned: &mut Vec<f32>,
) {
    let out = zeroed(out);
    let mut is_first = true;
    for (factors, packed) in terms {
        let k = factors.size[2];
        for depth in depths(0..k, DEPTH) {
            let panels = Panels {
                packed,
                rows: k,
                first: depth.start,
            };
            for (i, out) in out.chunks_mut(STRIP * columns).enumerate() {
                let rows = out.len() / columns;
                let left = factors.left_strip(first + i * STRIP, rows, depth.clone(), turned);
                factors.strip(left, panels, depth.len(), is_first, out, columns);
            }
            is_first = false;
        }
    }
}

/// Products of one left factor with some right ones. Every thread takes some of the terms of every sum,
/// into copies of the results of its own.
fn by_sums(products: &[Factors<'_>]) -> Vec<Vec<f32>> {
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
    let room = |product: &Factors| Box::new_uninit_slice(m * product.size[1]);
    let mut results: Vec<Box<[MaybeUninit<f32>]>> = products.iter().map(room).collect();
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
            let out = out.write_copy_of_slice(&copies[0][at.clone()]);
            for other in &copies[1..] {
                for (out, x) in out.iter_mut().zip(&other[at.clone()]) {
                    *out += x;
                }
            }
        }
    });
    // SAFETY: the rows of the pieces are all of every result, and each was written.
    let written = |result: Box<[MaybeUninit<f32>]>| unsafe { result.assume_init() }.into_vec();
    results.into_iter().map(written).collect()
}

/// A product. Every thread takes some columns of it, for sums so long that packing the right factor
/// ahead would be a pass over memory of its own.
fn by_columns(product: &Factors<'_>) -> Vec<f32> {
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
    let mut out = vec![0f32; m * stride];
    let mut packed = vec![0f32; stride * DEPTH.min(range.len())];
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

/// `left · right`, `[m, k]` and `[k, n]`.
#[derive(Clone, Copy)]
struct Factors<'a> {
    size: [usize; 3],
    left: Left<'a>,
    right: Left<'a>,
    level: Level,
}

impl<'f> Factors<'f> {
    fn new(size: [usize; 3], left: Left<'f>, right: Left<'f>) -> Self {
        Factors {
            size,
            left,
            right,
            level: Level::detect(),
        }
    }

    /// Panels of the right factor.
    fn panels(&self) -> usize {
        self.size[1].div_ceil(LANES)
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
        if !first {
            for (lanes, out) in lanes.chunks_exact_mut(LANES).zip(out.chunks_exact(stride)) {
                lanes[..width].copy_from_slice(&out[from..]);
            }
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
