//! Borders between documents that stand in one row, one behind the other without padding.
//!
//! An operator that looks back starts again at a border, as if the row began there: it is never told so by
//! a number that only nearly forgets. What comes in reaches a row's first document alone, and what goes out
//! is left by its last. Operators that look at one token at a time need none of this.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;

/// Where new documents begin in the rows of a call; by default nowhere.
///
/// A row's positions rise. 0 is one too: then what comes in belongs to none of the row's documents.
///
/// ```
/// # use infinity_kernels::borders::Borders;
/// let borders = Borders::new(vec![vec![3], vec![]]);
/// let pieces: Vec<_> = borders.pieces(0, 5).map(|piece| (piece.tokens, piece.fresh)).collect();
/// assert_eq!(pieces, [(0..3, false), (3..5, true)]);
/// assert_eq!(borders.narrow(3, 5), Borders::new(vec![vec![0], vec![]]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Borders(Arc<[Vec<usize>]>);

/// A document, or the part of one that a row begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its place in the row.
    pub tokens: Range<usize>,
    /// It is the beginning of a document: nothing comes in.
    pub fresh: bool,
}

impl Borders {
    /// The positions in every row at which a document begins.
    ///
    /// # Panics
    ///
    /// If the positions of a row do not rise.
    #[track_caller]
    pub fn new(rows: Vec<Vec<usize>>) -> Self {
        let rise = |row: &Vec<usize>| row.is_sorted_by(|a, b| a < b);
        assert!(rows.iter().all(rise), "borders that do not rise: {rows:?}");
        let some = rows.iter().any(|row| !row.is_empty());
        Borders(if some { rows } else { Vec::new() }.into())
    }

    /// Whether there is none at all.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    fn row(&self, row: usize) -> &[usize] {
        if self.is_none() { &[] } else { &self.0[row] }
    }

    /// Refuses borders of other rows or beyond their end.
    ///
    /// # Panics
    ///
    /// If there are not `b` rows, or not `t` tokens.
    #[track_caller]
    pub fn check(&self, b: usize, t: usize) {
        let rows = self.0.len();
        assert!(
            self.is_none() || rows == b,
            "borders for each of the rows: {rows} of {b}"
        );
        let last = self.0.iter().filter_map(|row| row.last()).max();
        assert!(last.is_none_or(|last| *last < t), "{last:?} of {t} tokens");
    }

    /// The documents of a row of `t` tokens, in order.
    pub fn pieces(&self, row: usize, t: usize) -> impl DoubleEndedIterator<Item = Piece> + use<> {
        let borders = self.row(row);
        let goes_on = borders.first() != Some(&0);
        let starts = goes_on.then_some(0).into_iter();
        let starts: Vec<usize> = starts.chain(borders.iter().copied()).collect();
        let ends = starts[1..].iter().copied().chain([t]);
        let piece = |(i, (start, end)): (usize, (&usize, usize))| Piece {
            tokens: *start..end,
            fresh: i > 0 || !goes_on,
        };
        let pieces: Vec<Piece> = starts.iter().zip(ends).enumerate().map(piece).collect();
        pieces.into_iter()
    }

    /// The borders of the tokens from `from` to `to`, counted from `from`.
    pub fn narrow(&self, from: usize, to: usize) -> Self {
        let inside = |row: &Vec<usize>| {
            let inside = row.iter().filter(|at| (from..to).contains(at));
            inside.map(|at| at - from).collect()
        };
        Borders::new(self.0.iter().map(inside).collect())
    }

    /// Those of the rows from `from` to `to`.
    pub fn rows(&self, from: usize, to: usize) -> Self {
        let rows = if self.is_none() { 0..0 } else { from..to };
        Borders::new(self.0[rows].to_vec())
    }

    /// The position of token `i` of a row, counted from the beginning of its document; the row's first token
    /// has read `start` before.
    pub fn position(&self, row: usize, start: u64, i: usize) -> u64 {
        let borders = self.row(row);
        match borders[..borders.partition_point(|at| *at <= i)].last() {
            Some(at) => (i - at) as u64,
            None => start.wrapping_add(i as u64),
        }
    }

    /// Stretches of `t` tokens in which no row has a border but at the beginning, and the rows that have it
    /// there.
    pub(crate) fn stretches(&self, b: usize, t: usize) -> Vec<(Range<usize>, Vec<bool>)> {
        let mut starts: Vec<usize> = (0..b).flat_map(|row| self.row(row)).copied().collect();
        starts.push(0);
        starts.sort_unstable();
        starts.dedup();
        let ends = starts[1..].iter().copied().chain([t]);
        let fresh = |at: usize| (0..b).map(|row| self.row(row).contains(&at)).collect();
        let stretch = |(from, to): (usize, usize)| (from..to, fresh(from));
        starts.iter().copied().zip(ends).map(stretch).collect()
    }

    /// `[B, T, 1]`, true where the token `distance` before is of another document.
    pub(crate) fn beyond(
        &self,
        b: usize,
        t: usize,
        distance: usize,
        on: &Device,
    ) -> Tensor<3, Bool> {
        let beyond = |row, i| (self.position(row, distance as u64, i) as usize) < distance;
        let values = (0..b).flat_map(|row| (0..t).map(move |i| beyond(row, i)));
        mask(values.collect(), [b, t, 1], on)
    }

    /// `[B, 1, n]`, true for those of the last `n` of `t` tokens, and of what came before them, that are not
    /// of the document that their row ends with.
    pub fn forgotten(&self, b: usize, t: usize, n: usize, device: &Device) -> Tensor<3, Bool> {
        let old = |row, i: usize| self.row(row).last().is_some_and(|last| t + i < last + n);
        let values = (0..b).flat_map(|row| (0..n).map(move |i| old(row, i)));
        mask(values.collect(), [b, 1, n], device)
    }

    /// `[B, 1, T, P + T]`, true where a query meets a key of another document; `p` keys came in.
    pub(crate) fn apart(&self, [b, t, p]: [usize; 3], device: &Device) -> Tensor<4, Bool> {
        let mut values = vec![false; b * t * (p + t)];
        for row in 0..b {
            for piece in self.pieces(row, t).filter(|piece| piece.fresh) {
                for i in piece.tokens.clone() {
                    values[(row * t + i) * (p + t)..][..p + piece.tokens.start].fill(true);
                }
            }
        }
        mask(values, [b, 1, t, p + t], device)
    }
}

fn mask<const D: usize>(values: Vec<bool>, dims: [usize; D], device: &Device) -> Tensor<D, Bool> {
    Tensor::from_data(TensorData::new(values, dims), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borders() -> Borders {
        Borders::new(vec![vec![2, 5], vec![], vec![0, 4]])
    }

    #[test]
    fn pieces_cover_a_row_and_the_first_goes_on_unless_it_begins_one() {
        let pieces = |row| {
            let borders = borders();
            let pieces = borders.pieces(row, 7);
            pieces.map(|p| (p.tokens, p.fresh)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(0), [(0..2, false), (2..5, true), (5..7, true)]);
        assert_eq!(pieces(1), [(0..7, false)]);
        assert_eq!(pieces(2), [(0..4, true), (4..7, true)]);
        assert_eq!(Borders::default().pieces(3, 0).count(), 1);
        let found: Vec<_> = borders().stretches(3, 7);
        let ranges: Vec<_> = found.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(ranges, [0..2, 2..4, 4..5, 5..7]);
        assert_eq!(found[2].1, [false, false, true]);
    }

    #[test]
    fn positions_count_from_the_last_border() {
        let at = |row| {
            (0..7)
                .map(|i| borders().position(row, 10, i))
                .collect::<Vec<_>>()
        };
        assert_eq!(at(0), [10, 11, 0, 1, 2, 0, 1]);
        assert_eq!(at(1), [10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(at(2), [0, 1, 2, 3, 0, 1, 2]);
    }

    #[test]
    fn parts_keep_their_borders() {
        assert_eq!(
            borders().narrow(4, 6),
            Borders::new(vec![vec![1], vec![], vec![0]])
        );
        assert!(borders().narrow(6, 7).is_none());
    }

    #[test]
    #[should_panic(expected = "borders that do not rise")]
    fn borders_rise() {
        Borders::new(vec![vec![3, 3]]);
    }

    #[test]
    #[should_panic(expected = "of 4 tokens")]
    fn borders_lie_inside() {
        Borders::new(vec![vec![4]]).check(1, 4);
    }
}
