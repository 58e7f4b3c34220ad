//! What both directions share: sizes, a head's keys packed, and scores of a block.

use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::rows::{Rows, gather, scale_rows};
use crate::cpu::simd::{Level, padded};
use crate::cpu::transpose::transpose;
use std::ops::Range;

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Keys of a block: with so many queries the scores fill half a first-level cache.
pub(super) const KEYS: usize = 64;

/// One head's rows.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
}

/// Sizes of a head: queries, keys, the most of these that a query sees, and the widths of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) t: usize,
    pub(crate) total: usize,
    pub(crate) window: usize,
    pub(crate) k: usize,
    pub(crate) v: usize,
}

impl Head<'_> {
    /// One document of it, by the places of its queries and keys.
    pub(super) fn part(&self, [queries, keys]: [Range<usize>; 2]) -> Self {
        Head {
            q: self.q.part(queries),
            k: self.k.part(keys.clone()),
            v: self.v.part(keys),
        }
    }
}

impl Sizes {
    /// Those of one document, by the places of its queries and keys.
    pub(super) fn of(self, [queries, keys]: &[Range<usize>; 2]) -> Self {
        Sizes {
            t: queries.len(),
            total: keys.len(),
            ..self
        }
    }

    /// `1 / √K`.
    pub(super) fn scale(&self) -> f32 {
        (self.k as f64).powf(-0.5) as f32
    }

    /// Blocks of keys.
    pub(super) fn key_blocks(&self) -> usize {
        self.total.div_ceil(KEYS)
    }

    /// Keys up to that of query `t`.
    #[inline(always)]
    pub(super) fn seen(&self, t: usize) -> usize {
        self.total - self.t + t + 1
    }

    /// Those of them that are too far back to be seen.
    #[inline(always)]
    pub(super) fn hidden(&self, t: usize) -> usize {
        self.seen(t).saturating_sub(self.window)
    }

    /// Blocks of queries: the first and how many.
    pub(super) fn query_blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let t = self.t;
        (0..t)
            .step_by(QUERIES)
            .map(move |from| (from, QUERIES.min(t - from)))
    }

    /// Blocks of keys that some of `m` queries from `first` on see: the first, and how many of it.
    pub(super) fn blocks_seen(
        &self,
        first: usize,
        m: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let (seen, hidden) = (self.seen(first + m - 1), self.hidden(first));
        (hidden / KEYS * KEYS..seen)
            .step_by(KEYS)
            .map(move |from| (from, KEYS.min(seen - from)))
    }
}

/// Rows `[total, width]` of a head, packed and in blocks of [`KEYS`] transposed.
pub(super) struct Turned {
    width: usize,
    /// `[total, padded(width)]`.
    pub(super) rows: Vec<f32>,
    /// `[blocks, width, KEYS]`.
    turned: Vec<f32>,
}

impl Turned {
    pub(super) fn new(sizes: &Sizes, width: usize) -> Self {
        Turned {
            width,
            rows: vec![0.0; sizes.total * padded(width)],
            turned: vec![0.0; sizes.key_blocks() * KEYS * width],
        }
    }

    pub(super) fn load(&mut self, level: Level, sizes: &Sizes, x: Rows<'_>) {
        let wide = padded(self.width);
        gather(level, x, 0, sizes.total, &mut self.rows, wide);
        let blocks = self.turned.chunks_exact_mut(KEYS * self.width);
        let rows = self.rows[..sizes.total * wide].chunks(KEYS * wide);
        for (rows, turned) in rows.zip(blocks) {
            let size = [rows.len() / wide, self.width];
            transpose(level, size, rows, wide, turned, KEYS);
        }
    }

    /// `out = x · rowsᵀ` for `m` rows `x` of whole lanes and `n` of these rows from `from` on, in rows of
    /// [`KEYS`]; what is beyond `n` up to whole lanes is anything.
    pub(super) fn scores(
        &self,
        level: Level,
        x: &[f32],
        m: usize,
        [from, n]: [usize; 2],
        out: &mut [f32],
    ) {
        let turned = &self.turned[from * self.width..][..KEYS * self.width];
        let product = Product {
            size: [m, padded(n), self.width],
            left: Left::rows(x, padded(self.width)),
            right: Right::rows(turned, KEYS),
            part: Part::Whole,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(level, &product, out, KEYS);
    }
}

/// `out += left · right` of `[m, k]` and `[k, n]`, rows of `n` (whole lanes).
pub(super) fn add_product(
    level: Level,
    [m, n, k]: [usize; 3],
    left: Left<'_>,
    right: &[f32],
    out: &mut [f32],
) {
    let product = Product {
        size: [m, n, k],
        left,
        right: Right::rows(right, n),
        part: Part::Whole,
        keep: Keep::Times(1.0),
        scale: None,
    };
    multiply(level, &product, out, n);
}

/// `m` rows of `x` from `from` on into `to`, rows of whole lanes, times `factor`.
pub(super) fn gather_scaled(
    level: Level,
    x: Rows<'_>,
    from: usize,
    m: usize,
    factor: f32,
    [rows, to]: [&mut [f32]; 2],
) {
    let wide = rows.len() / QUERIES;
    gather(level, x, from, m, rows, wide);
    scale_rows(level, &[factor; QUERIES][..m], rows, to, wide);
}
