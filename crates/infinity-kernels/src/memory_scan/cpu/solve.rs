//! The triangular solve of a chunk, in place, by forward substitution on blocks of [`LANES`] rows.
//!
//! Not by a product of powers of `L`: for repeated keys those reach 1e18 and cancel.

use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::{LANES, Level, lanes, lanes_mut, leveled, multiply_add};

/// The system: `−L` `[c, c]` with rows of `stride`, right-hand sides with rows of `width` (whole
/// lanes).
#[derive(Clone, Copy, Debug)]
pub(super) struct System<'a> {
    pub(super) minus_l: &'a [f32],
    pub(super) stride: usize,
    pub(super) c: usize,
    pub(super) width: usize,
}

/// `x ← (I + L)⁻¹ x`.
pub(super) fn solve(level: Level, system: System<'_>, x: &mut [f32]) {
    let System {
        minus_l,
        stride,
        c,
        width,
    } = system;
    for from in (0..c).step_by(LANES) {
        let to = c.min(from + LANES);
        let (known, block) = x.split_at_mut(from * width);
        let product = Product {
            size: [to - from, width, from],
            left: Left::rows(&minus_l[from * stride..], stride),
            right: Right::rows(known, width),
            part: Part::Whole,
            keep: Keep::Times(1.0),
            scale: None,
        };
        multiply(level, &product, block, width);
        let corner = Left::rows(&minus_l[from * stride + from..], stride);
        substitute(
            level,
            corner,
            to - from,
            &mut block[..(to - from) * width],
            width,
        );
    }
}

/// `x ← (I + L)⁻ᵀ x`.
pub(super) fn solve_transposed(level: Level, system: System<'_>, x: &mut [f32]) {
    let System {
        minus_l,
        stride,
        c,
        width,
    } = system;
    for from in (0..c).step_by(LANES).rev() {
        let to = c.min(from + LANES);
        let (block, known) = x[from * width..c * width].split_at_mut((to - from) * width);
        if to < c {
            let product = Product {
                size: [to - from, width, c - to],
                left: Left::transposed(&minus_l[to * stride + from..], stride),
                right: Right::rows(known, width),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: None,
            };
            multiply(level, &product, block, width);
        }
        let corner = Left::transposed(&minus_l[from * stride + from..], stride);
        substitute_back(level, corner, to - from, block, width);
    }
}

leveled!(
    /// Rows from the first to the last: `x_i += Σ_{j<i} l_ij x_j`.
    fn substitute(l: Left<'_>, rows: usize, x: &mut [f32], width: usize) = substitute_body
);

#[inline(always)]
fn substitute_body<const FMA: bool, const ROWS: usize>(
    l: Left<'_>,
    rows: usize,
    x: &mut [f32],
    width: usize,
) {
    for i in 1..rows {
        add_rows::<FMA>(l, i, 0..i, x, width);
    }
}

leveled!(
    /// Rows from the last to the first: `x_i += Σ_{j>i} l_ij x_j`.
    fn substitute_back(l: Left<'_>, rows: usize, x: &mut [f32], width: usize) = substitute_back_body
);

#[inline(always)]
fn substitute_back_body<const FMA: bool, const ROWS: usize>(
    l: Left<'_>,
    rows: usize,
    x: &mut [f32],
    width: usize,
) {
    for i in (0..rows.saturating_sub(1)).rev() {
        add_rows::<FMA>(l, i, i + 1..rows, x, width);
    }
}

/// `x_i += Σ_j l_ij x_j` for `j` in `range`.
#[inline(always)]
fn add_rows<const FMA: bool>(
    l: Left<'_>,
    i: usize,
    range: std::ops::Range<usize>,
    x: &mut [f32],
    width: usize,
) {
    for at in (0..width).step_by(LANES) {
        let mut sums = *lanes(x, i * width + at);
        for j in range.clone() {
            let factor = l.data[i * l.row + j * l.col];
            let row = lanes(x, j * width + at);
            for lane in 0..LANES {
                sums[lane] = multiply_add::<FMA>(factor, row[lane], sums[lane]);
            }
        }
        *lanes_mut(x, i * width + at) = sums;
    }
}
