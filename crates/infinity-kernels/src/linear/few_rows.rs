//! A projection of a few rows on the CPU: each weight is read once for all of them.
//!
//! Every sum is taken by itself in the order of its inputs (of its lanes, for a weight that is stored by
//! columns). Rows that are computed together, columns that a thread takes and the number of threads change
//! who computes a sum, and never the sum: a row has the same bits alone and among others.

use super::weight::Weight;
use crate::cpu::simd::{LANES, Lanes, Level, lanes, lanes_mut, leveled, multiply_add, padded};
use crate::cpu::simd::{prefetch, sum};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Inputs that follow one another in a row's place among the grouped rows.
const GROUP: usize = 8;
/// Columns that a thread takes at a time, at most: the sums of 32 rows stay in a second-level cache, and
/// of few rows in the first.
const COLUMNS: usize = 384;
/// Pieces that a thread should find, so that one that is held up does not hold up all.
const PIECES_PER_THREAD: usize = 2;
/// Weights that one thread reads by itself.
const ALONE: usize = 1 << 15;

/// Rows of inputs.
pub(super) struct Rows<'a> {
    /// `[rows, width]`.
    x: &'a [f32],
    width: usize,
    rows: usize,
    /// The same in groups of inputs, `[width / GROUP, rows, GROUP]`, filled up with zeros: what meets a
    /// few rows of a weight lies together.
    grouped: Vec<[f32; GROUP]>,
}

impl<'a> Rows<'a> {
    /// Of `x` `[rows, width]`.
    pub(super) fn new(x: &'a [f32], width: usize) -> Self {
        let rows = x.len() / width;
        let mut grouped = vec![[0f32; GROUP]; width.div_ceil(GROUP) * rows];
        for (row, x) in x.chunks_exact(width).enumerate() {
            let places = grouped[row..].iter_mut().step_by(rows);
            for (place, x) in places.zip(x.chunks(GROUP)) {
                place[..x.len()].copy_from_slice(x);
            }
        }
        Rows {
            x,
            width,
            rows,
            grouped,
        }
    }
}

/// `x · weight` for every weight, all of them shared among the threads at once, `[rows, out]` each.
pub(super) fn few_rows(level: Level, rows: &Rows<'_>, weights: &[Weight]) -> Vec<Vec<f32>> {
    let room = |weight: &Weight| Box::new_uninit_slice(rows.rows * weight.out);
    let mut results: Vec<Box<[MaybeUninit<f32>]>> = weights.iter().map(room).collect();
    let mut pieces = Vec::new();
    for (weight, result) in weights.iter().zip(&mut results) {
        let columns = columns(weight.out);
        let mut outs: Vec<Vec<_>> = Vec::new();
        outs.resize_with(weight.out.div_ceil(columns), Vec::new);
        for row in result.chunks_exact_mut(weight.out) {
            let parts = row.chunks_mut(columns);
            outs.iter_mut()
                .zip(parts)
                .for_each(|(out, part)| out.push(part));
        }
        let outs = outs.into_iter().enumerate();
        pieces.extend(outs.map(|(i, out)| (Block::new(rows, weight, i * columns, columns), out)));
    }
    let all: usize = weights.iter().map(|weight| weight.width * weight.out).sum();
    let run = |(block, out)| Block::run(&block, level, out);
    match all <= ALONE {
        true => pieces.into_iter().for_each(run),
        false => pieces.into_par_iter().for_each(run),
    }
    // SAFETY: the pieces are all columns of all rows, and `run` writes every part that it gets.
    let written = |result: Box<[MaybeUninit<f32>]>| unsafe { result.assume_init() }.into_vec();
    results.into_iter().map(written).collect()
}

/// Columns that a thread takes at a time, of `out`: pieces as equal as whole lanes allow.
fn columns(out: usize) -> usize {
    let threads = rayon::current_num_threads();
    let pieces = out
        .div_ceil(COLUMNS)
        .next_multiple_of(threads * PIECES_PER_THREAD);
    out.div_ceil(pieces).next_multiple_of(2 * LANES)
}

/// Some columns of a weight, and the rows that meet them.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    rows: &'a Rows<'a>,
    by_columns: bool,
    /// From the first of these columns on.
    weights: &'a [f32],
    /// From one row of the weight to the next, or from one column, as it is stored.
    stride: usize,
    columns: usize,
}

impl<'a> Block<'a> {
    fn new(rows: &'a Rows<'a>, weight: &'a Weight, from: usize, columns: usize) -> Self {
        let (stride, start) = match weight.by_columns {
            true => (weight.width, from * weight.width),
            false => (weight.out, from),
        };
        Block {
            rows,
            by_columns: weight.by_columns,
            weights: &weight.values()[start..],
            stride,
            columns: columns.min(weight.out - from),
        }
    }

    /// Writes the columns of every row to its part of `out`.
    fn run(&self, level: Level, out: Vec<&mut [MaybeUninit<f32>]>) {
        let wide = padded(self.columns);
        let mut y = vec![0f32; self.rows.rows * wide];
        match self.by_columns {
            true => by_columns(level, self, &mut y),
            false => by_rows(level, self, &mut y),
        }
        for (out, y) in out.into_iter().zip(y.chunks_exact(wide)) {
            out.write_copy_of_slice(&y[..out.len()]);
        }
    }
}

leveled!(
    /// Adds the product with a weight that is stored by rows to `y`, rows of whole lanes.
    fn by_rows(block: &Block<'_>, y: &mut [f32]) = by_rows_loop
);

#[inline(always)]
fn by_rows_loop<const FMA: bool, const ROWS: usize>(block: &Block<'_>, y: &mut [f32]) {
    // As many weights as the registers hold beside sums.
    match ROWS {
        8 => in_strips::<FMA, 8, 2>(block, y),
        6 => in_strips::<FMA, 4, 1>(block, y),
        _ => in_strips::<FMA, 2, 1>(block, y),
    }
}

/// `K` inputs at a time meet `G` groups of columns.
#[inline(always)]
fn in_strips<const FMA: bool, const K: usize, const G: usize>(block: &Block<'_>, y: &mut [f32]) {
    let Block { rows, columns, .. } = *block;
    for (group, x) in rows.grouped.chunks_exact(rows.rows).enumerate() {
        for from in (0..GROUP).step_by(K) {
            let (at, mut column) = (group * GROUP + from, 0);
            if at + K <= rows.width {
                while column + G * LANES <= columns {
                    strip::<FMA, K, G, true>(block, x, [from, at, column], y);
                    column += G * LANES;
                }
            }
            while column < columns {
                strip::<FMA, K, 1, false>(block, x, [from, at, column], y);
                column += LANES;
            }
        }
    }
}

/// Inputs `from..from + K` of a group `x`, the weight's rows from `at` on and its columns from `column`
/// on; what is not there counts as zeros if not all is `THERE`.
#[inline(always)]
fn strip<const FMA: bool, const K: usize, const G: usize, const THERE: bool>(
    block: &Block<'_>,
    x: &[[f32; GROUP]],
    [from, at, column]: [usize; 3],
    y: &mut [f32],
) {
    let Block {
        rows,
        weights,
        stride,
        columns,
        ..
    } = *block;
    let wide = padded(columns);
    let mut values = [[[0f32; LANES]; G]; K];
    for (i, values) in values.iter_mut().enumerate() {
        for (g, values) in values.iter_mut().enumerate() {
            let (row, column) = (at + i, column + g * LANES);
            if THERE {
                let start = row * stride + column;
                prefetch(weights, start + K * stride);
                *values = *lanes(weights, start);
            } else if row < rows.width {
                let len = LANES.min(columns - column);
                values[..len].copy_from_slice(&weights[row * stride + column..][..len]);
            }
        }
    }
    for (row, x) in x.iter().enumerate() {
        let start = row * wide + column;
        let mut sums: [Lanes; G] = std::array::from_fn(|g| *lanes(y, start + g * LANES));
        for (i, values) in values.iter().enumerate() {
            let x = x[from + i];
            for (sums, values) in sums.iter_mut().zip(values) {
                for l in 0..LANES {
                    sums[l] = multiply_add::<FMA>(x, values[l], sums[l]);
                }
            }
        }
        for (g, sums) in sums.iter().enumerate() {
            *lanes_mut(y, start + g * LANES) = *sums;
        }
    }
}

leveled!(
    /// Writes the product with a weight that is stored by columns to `y`, rows of whole lanes.
    fn by_columns(block: &Block<'_>, y: &mut [f32]) = by_columns_loop
);

#[inline(always)]
fn by_columns_loop<const FMA: bool, const ROWS: usize>(block: &Block<'_>, y: &mut [f32]) {
    match ROWS {
        8 => in_tiles::<FMA, 4, 4>(block, y),
        _ => in_tiles::<FMA, 2, 2>(block, y),
    }
}

/// `R` rows at a time meet `C` columns.
#[inline(always)]
fn in_tiles<const FMA: bool, const R: usize, const C: usize>(block: &Block<'_>, y: &mut [f32]) {
    let Block { rows, columns, .. } = *block;
    let mut column = 0;
    while column < columns {
        let some = columns - column >= C;
        let mut row = 0;
        while row < rows.rows {
            let many = rows.rows - row >= R;
            match (many, some) {
                (true, true) => tile::<FMA, R, C>(block, row, column, y),
                (true, false) => tile::<FMA, R, 1>(block, row, column, y),
                (false, true) => tile::<FMA, 1, C>(block, row, column, y),
                (false, false) => tile::<FMA, 1, 1>(block, row, column, y),
            }
            row += if many { R } else { 1 };
        }
        column += if some { C } else { 1 };
    }
}

/// Sums of lanes for `R` rows and `C` columns, added up, then the inputs that fill no lanes.
#[inline(always)]
fn tile<const FMA: bool, const R: usize, const C: usize>(
    block: &Block<'_>,
    row: usize,
    column: usize,
    y: &mut [f32],
) {
    let Block {
        rows,
        weights,
        stride,
        columns,
        ..
    } = *block;
    let (width, wide) = (rows.width, padded(columns));
    let x: [&[f32]; R] = std::array::from_fn(|r| &rows.x[(row + r) * width..][..width]);
    let w: [&[f32]; C] = std::array::from_fn(|c| &weights[(column + c) * stride..][..width]);
    let mut sums = [[[0f32; LANES]; C]; R];
    let whole = width / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let values: [Lanes; C] = std::array::from_fn(|c| *lanes(w[c], at));
        for (sums, x) in sums.iter_mut().zip(&x) {
            let x = lanes(x, at);
            for (sums, values) in sums.iter_mut().zip(&values) {
                for l in 0..LANES {
                    sums[l] = multiply_add::<FMA>(x[l], values[l], sums[l]);
                }
            }
        }
    }
    for (r, (sums, x)) in sums.iter().zip(&x).enumerate() {
        for (c, (sums, w)) in sums.iter().zip(&w).enumerate() {
            let rest = x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w);
            y[(row + r) * wide + column + c] = sum(sums) + rest.sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tensors::tensor;
    use crate::testing::Random;
    use burn::backend::{Flex, ops::FloatTensorOps};
    use burn::tensor::{DType, Shape};
    use rayon::ThreadPoolBuilder;

    const MOST: usize = crate::linear::FEW_ROWS;

    fn weight(random: &mut Random, [width, out]: [usize; 2], by_columns: bool) -> Weight {
        let shape = if by_columns {
            [out, width]
        } else {
            [width, out]
        };
        let stored = tensor(noise(random, width * out), Shape::from(shape), DType::F32);
        let weight = Weight::new(match by_columns {
            true => Flex::float_swap_dims(stored, 0, 1),
            false => stored,
        });
        assert!(weight.by_columns == by_columns || width == 1 || out == 1);
        weight
    }

    fn noise(random: &mut Random, len: usize) -> Vec<f32> {
        let values = random.values(len, -1.0, 1.0).into_iter();
        values.map(|x| x as f32).collect()
    }

    /// Bits of the first rows of `results` that are not those of `alone`, by weight.
    fn changed(alone: &[Vec<f32>], results: &[Vec<f32>]) -> Option<usize> {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let mut pairs = alone.iter().zip(results);
        pairs.position(|(alone, y)| bits(&alone[..y.len()]) != bits(y))
    }

    /// Rows one by one, on one thread, and together, on one thread and two, for every number of rows and
    /// every level: the same bits. Sums that are taken in another order are caught.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let mut random = Random(11);
        let mut size = |most: f64| random.uniform(1.0, most) as usize;
        let mut sizes: Vec<[usize; 3]> = (0..12)
            .map(|_| [size(90.0), size(120.0), size(50.0)])
            .collect();
        sizes.extend([[1, 1, 1], [768, 100, 33], [64, 1000, 40], [130, 420, 8]]);
        let pools = [1, 2].map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap());
        for [width, out, other] in sizes {
            let mut random = Random((width * out) as u64);
            let weights = [false, true].map(|by_columns| {
                [[width, out], [width, other]].map(|size| weight(&mut random, size, by_columns))
            });
            let weights: Vec<Weight> = weights.into_iter().flatten().collect();
            let x = noise(&mut random, MOST * width);
            for level in Level::available() {
                let run = |x: &[f32]| few_rows(level, &Rows::new(x, width), &weights);
                let mut alone = vec![Vec::new(); weights.len()];
                for x in x.chunks_exact(width) {
                    let y = pools[0].install(|| run(x));
                    alone.iter_mut().zip(y).for_each(|(all, y)| all.extend(y));
                }
                for rows in 1..=MOST {
                    for pool in &pools {
                        let y = pool.install(|| run(&x[..rows * width]));
                        let name = format!("[{width}, {out}] {level:?}, {rows} rows");
                        assert_eq!(changed(&alone, &y), None, "{name}");
                    }
                }
                if width > 2 {
                    // The same inputs and weights, added up from the other end.
                    let turned: Vec<f32> = x[..width].iter().rev().copied().collect();
                    let mut stored = weights[0].values().to_vec();
                    stored.reverse();
                    let stored = tensor(stored, Shape::from([width, out]), DType::F32);
                    let other = few_rows(level, &Rows::new(&turned, width), &[Weight::new(stored)]);
                    let mut other = other[0].clone();
                    other.reverse();
                    let alone = alone[0][..out].to_vec();
                    let close = alone.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-4);
                    let seen = changed(&[alone], &[other]).is_some() || width * out < 200;
                    assert!(close && seen, "[{width}, {out}] {level:?}");
                }
            }
        }
    }
}
