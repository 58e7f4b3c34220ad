//! Threads share rows: every one takes some rows of all results.

use super::factors::{DEPTH, Factors, Panels, STRIP, depths};
use super::piece;
use crate::math::simd::LANES;
use crate::math::unwritten::unwritten;
use rayon::prelude::*;

/// Rows of the results that a thread takes at a time, at most.
const ROWS: usize = 3 * STRIP;

/// A result: the sum of some products.
pub(super) struct Sum<'a> {
    pub(super) columns: usize,
    pub(super) terms: Vec<Factors<'a>>,
    /// Rows of `columns`, read nowhere before they are written.
    pub(super) out: &'a mut [f32],
}

/// A term whose right factor is packed.
type Packed<'a> = (Factors<'a>, Vec<f32>);

/// Writes every sum, of `m` rows each.
pub(super) fn add_up(m: usize, sums: Vec<Sum<'_>>) {
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
    let mut sums: Vec<Vec<Packed>> = sums
        .iter()
        .map(|sum| {
            let terms = sum.terms.iter().filter(|term| term.size[2] > 0);
            terms
                .map(|term| {
                    // SAFETY: `pack` writes every value of a panel, and below every panel is packed.
                    let packed = unsafe { unwritten(term.panels() * term.size[2] * LANES) };
                    (*term, packed)
                })
                .collect()
        })
        .collect();
    let panels = sums.iter_mut().flatten().flat_map(|(term, packed)| {
        let term = *term;
        let panels = packed.chunks_mut(term.size[2] * LANES).enumerate();
        panels.map(move |(i, panel)| (term, i, panel))
    });
    let panels: Vec<_> = panels.collect();
    panels
        .into_par_iter()
        .for_each(|(term, i, panel)| term.pack(i, 0..term.size[2], panel));
    sums
}

/// Some rows of a sum, from row `first` on.
fn add_up_rows(
    terms: &[Packed<'_>],
    columns: usize,
    first: usize,
    out: &mut [f32],
    turned: &mut Vec<f32>,
) {
    if terms.is_empty() {
        return out.fill(0.0);
    }
    // The strips cover all rows and the panels all columns, and `strip` writes before it adds.
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
