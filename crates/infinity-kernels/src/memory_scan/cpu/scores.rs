//! The score matrices of a chunk, where all `S` states meet: their masks, the masks' gradients, and the
//! triangular solve.
//!
//! ```text
//! E_s,ij = exp(b_s,i − b_s,j) for j ≤ i     decay from j to i
//! M_ij   = Σ_s r_s,i u_s,j E_s,ij           what a read at i sees of a write at j
//! N_ij   = Σ_s p_s,i u_s,j E_s,ij           what the correction at i sees of it (j < i)
//! ```
//!
//! The solve is in place, by forward substitution on blocks of [`LANES`] rows. Not by a product of powers
//! of `L`: for repeated keys those reach 1e18 and cancel.

use super::layout::Layout;
use crate::cpu::exp::exp;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::{LANES, Lanes, lanes, lanes_mut, leveled, multiply_add, sum};

/// Gates of a chunk, one row of `stride` for each state, zero behind the last position.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    /// `b`, the cumulative log decay.
    pub(super) decay: Vec<f32>,
    /// `r`.
    pub(super) read: Vec<f32>,
    /// `u`.
    pub(super) write: Vec<f32>,
    /// `p`, zero in additive mode.
    pub(super) erase: Vec<f32>,
}

/// Matrices `[C, C]` of a chunk, rows of `stride`.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    /// `P = Q Kᵀ`.
    pub(super) products: Vec<f32>,
    /// `A = P . M`, zero above the diagonal.
    pub(super) attention: Vec<f32>,
    /// `K Kᵀ`.
    pub(super) keys: Vec<f32>,
    /// `−L = −(K Kᵀ) . N`, zero on and above the diagonal.
    pub(super) minus_l: Vec<f32>,
    /// `M` for backward.
    pub(super) read_mask: Vec<f32>,
    /// `N` for backward.
    pub(super) erase_mask: Vec<f32>,
    /// `E` of every state for backward.
    pub(super) within: Vec<f32>,
}

leveled!(
    /// `attention` and `minus_l` from `products` and `keys`, and for backward the masks and `E`.
    fn mask<const FMA: bool, const ROWS: usize>(x: Layout, gates: &Gates, scores: &mut Scores) {
        let save = !scores.within.is_empty();
        for i in 0..x.c {
            for j in (0..=i).step_by(LANES) {
                let (mut m, mut n) = ([0f32; LANES], [0f32; LANES]);
                for s in 0..x.sizes.states {
                    let at = s * x.stride;
                    let e = decays::<FMA>(&gates.decay[at..at + x.stride], i, j);
                    let (write, read, erase) = (
                        lanes(&gates.write, at + j),
                        gates.read[at + i],
                        gates.erase[at + i],
                    );
                    for l in 0..LANES {
                        let w = e[l] * write[l];
                        m[l] = multiply_add::<FMA>(read, w, m[l]);
                        n[l] = multiply_add::<FMA>(erase, w, n[l]);
                    }
                    if save {
                        *lanes_mut(&mut scores.within, (at + i) * x.stride + j) = e;
                    }
                }
                let at = i * x.stride + j;
                let product = lanes(&scores.products, at);
                *lanes_mut(&mut scores.attention, at) = below(i + 1, j, |l| product[l] * m[l]);
                if save {
                    *lanes_mut(&mut scores.read_mask, at) = m;
                }
                if x.sizes.delta {
                    let keys = lanes(&scores.keys, at);
                    *lanes_mut(&mut scores.minus_l, at) = below(i, j, |l| -keys[l] * n[l]);
                    if save {
                        *lanes_mut(&mut scores.erase_mask, at) = n;
                    }
                }
            }
        }
    }
);

/// `E_ij` for the lanes from `j` on: zero above the diagonal, by selection, so that what `exp`
/// makes of an exponent there does not matter.
#[inline(always)]
fn decays<const FMA: bool>(b: &[f32], i: usize, j: usize) -> Lanes {
    let (here, there) = (b[i], lanes(b, j));
    let mut e = [0f32; LANES];
    for l in 0..LANES {
        e[l] = exp::<FMA>(here - there[l]);
    }
    below(i + 1, j, |l| e[l])
}

/// `value` in the columns before `end`, zero from there on; the lanes start at column `j`.
#[inline(always)]
fn below(end: usize, j: usize, value: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0f32; LANES];
    let end = end as i32 - j as i32;
    for (l, out) in out.iter_mut().enumerate() {
        let x = value(l);
        *out = if (l as i32) < end { x } else { 0.0 };
    }
    out
}

leveled!(
    /// Gradients through the masks: of the gates, of `P` and of `K Kᵀ`. `d_scores` are `dA`, which becomes `dP`, zero above
    /// the diagonal, and `dX Dmᵀ = −dL`, not read in additive mode, which becomes `dG`, zero on and above it. `spare` has
    /// two rows.
    fn mask_grads<const FMA: bool, const ROWS: usize>(
        x: Layout,
        gates: &Gates,
        scores: &Scores,
        grads: &mut Gates,
        d_scores: [&mut [f32]; 2],
        spare: &mut [f32],
    ) {
        grads.write.fill(0.0);
        let [d_attention, d_errors] = d_scores;
        let (d_m, d_n) = spare.split_at_mut(x.stride);
        d_n.fill(0.0);
        for i in 0..x.c {
            for j in (0..=i).step_by(LANES) {
                let at = i * x.stride + j;
                let d_a = lanes_mut(d_attention, at);
                let (product, mask) = (lanes(&scores.products, at), lanes(&scores.read_mask, at));
                *lanes_mut(d_m, j) = below(i + 1, j, |l| d_a[l] * product[l]);
                *d_a = below(i + 1, j, |l| d_a[l] * mask[l]);
                if x.sizes.delta {
                    let minus_d_l = lanes_mut(d_errors, at);
                    let (keys, mask) = (lanes(&scores.keys, at), lanes(&scores.erase_mask, at));
                    *lanes_mut(d_n, j) = below(i, j, |l| -minus_d_l[l] * keys[l]);
                    *minus_d_l = below(i, j, |l| -minus_d_l[l] * mask[l]);
                }
            }
            for s in 0..x.sizes.states {
                let at = s * x.stride;
                let (read, erase) = (gates.read[at + i], gates.erase[at + i]);
                let (mut d_read, mut d_erase) = ([0f32; LANES], [0f32; LANES]);
                for j in (0..=i).step_by(LANES) {
                    let e = lanes(&scores.within, (at + i) * x.stride + j);
                    let (d_m, d_n) = (lanes(d_m, j), lanes(d_n, j));
                    let write = lanes(&gates.write, at + j);
                    let d_write = lanes_mut(&mut grads.write, at + j);
                    for l in 0..LANES {
                        let w = e[l] * write[l];
                        d_read[l] = multiply_add::<FMA>(d_m[l], w, d_read[l]);
                        d_erase[l] = multiply_add::<FMA>(d_n[l], w, d_erase[l]);
                        let both = multiply_add::<FMA>(d_m[l], read, d_n[l] * erase);
                        d_write[l] = multiply_add::<FMA>(both, e[l], d_write[l]);
                    }
                }
                grads.read[at + i] = sum(&d_read);
                grads.erase[at + i] = sum(&d_erase);
            }
        }
    }
);

leveled!(
    /// `exp` of every value.
    fn exponentials<const FMA: bool, const ROWS: usize>(values: &mut [f32]) {
        for x in values {
            *x = exp::<FMA>(*x);
        }
    }
);

/// `x ← (I + L)⁻¹ x`, rows `[C, V]`, or `back`, `x ← (I + L)⁻ᵀ x`: blocks from the first to the last, or from the last.
pub(super) fn solve(layout: Layout, minus_l: &[f32], back: bool, x: &mut [f32]) {
    let (c, stride, width) = (layout.c, layout.stride, layout.v_wide);
    let blocks = c.div_ceil(LANES);
    for n in 0..blocks {
        let from = LANES * if back { blocks - 1 - n } else { n };
        let to = c.min(from + LANES);
        // What meets the block's rows, from column `at` on.
        let left = |at: usize| match back {
            false => Left::rows(&minus_l[from * stride + at..], stride),
            true => Left::transposed(&minus_l[at * stride + from..], stride),
        };
        let (before, rest) = x.split_at_mut(from * width);
        let (block, behind) = rest.split_at_mut((to - from) * width);
        let (known, at, depth) = match back {
            false => (before, 0, from),
            true => (behind, to, c - to),
        };
        if to < c || !back {
            let product = Product {
                size: [to - from, width, depth],
                left: left(at),
                right: Right::rows(known, width),
                part: Part::Whole,
                keep: Keep::Times(1.0),
                scale: None,
            };
            multiply(layout.level, &product, block, width);
        }
        substitute(layout.level, left(from), to - from, back, block, width);
    }
}

leveled!(
    /// Rows from the first to the last: `x_i += Σ_{j<i} l_ij x_j`; or `back` from the last to the first:
    /// `x_i += Σ_{j>i} l_ij x_j`.
    fn substitute<const FMA: bool, const ROWS: usize>(
        l: Left<'_>,
        rows: usize,
        back: bool,
        x: &mut [f32],
        width: usize,
    ) {
        for i in 1..rows {
            let (i, range) = match back {
                false => (i, 0..i),
                true => (rows - 1 - i, rows - i..rows),
            };
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
    }
);
