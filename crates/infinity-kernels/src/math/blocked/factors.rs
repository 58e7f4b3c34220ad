//! The two factors of a product in blocks: strips of the left one, panels of the right one.

use crate::math::product::{Keep, Left, Part, Product, Right, groups_at_once, multiply};
use crate::math::simd::{LANES, Level};
use crate::math::transpose::transpose;
use std::ops::Range;

/// Length of the sums that are taken at a time: a packed panel of it is 16 KiB, half of a first-level
/// cache.
pub(super) const DEPTH: usize = 256;
/// Rows of the left factor that meet all panels before the next: at most 24 KiB with [`DEPTH`]; a
/// multiple of all the numbers of rows that fit into registers.
pub(super) const STRIP: usize = 24;

/// Panels of a right factor, `rows` rows of [`LANES`] values each, from their row `first` on.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub(super) packed: &'a [f32],
    pub(super) rows: usize,
    pub(super) first: usize,
}

impl<'a> Panels<'a> {
    fn from(self, panel: usize) -> Right<'a> {
        let from = (panel * self.rows + self.first) * LANES;
        Right::panels(&self.packed[from..], self.rows)
    }
}

/// `left · right`, `[m, k]` and `[k, n]`.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) size: [usize; 3],
    left: Left<'a>,
    right: Left<'a>,
    level: Level,
}

impl<'f> Factors<'f> {
    pub(super) fn new(size: [usize; 3], left: Left<'f>, right: Left<'f>) -> Self {
        Factors {
            size,
            left,
            right,
            level: Level::detect(),
        }
    }

    /// Panels of the right factor.
    pub(super) fn panels(&self) -> usize {
        self.size[1].div_ceil(LANES)
    }

    /// Rows of the left factor and a stretch of its columns: as they are where the stretch lies in one
    /// piece, otherwise turned so, in `turned`. (Values of a stretch that lie a power of two apart
    /// share a few places of a cache.)
    pub(super) fn left_strip<'a>(
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
    pub(super) fn strip(
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
    pub(super) fn pack(&self, panel: usize, depth: Range<usize>, packed: &mut [f32]) {
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
pub(super) fn depths(range: Range<usize>, depth: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(depth)
        .map(move |from| from..end.min(from + depth))
}
