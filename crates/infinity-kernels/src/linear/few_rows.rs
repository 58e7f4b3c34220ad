//! A projection of a few rows on the CPU: each weight is read once for all of them.
//!
//! A weight in bf16 is widened as it is read, which changes no bit of what comes out of it.
//!
//! Every sum is taken by itself in the order of its inputs, some hundred at a time (in that of its lanes, for
//! a weight that is stored by columns). Rows that are computed together, columns that a thread takes and the number of threads change
//! who computes a sum, and never the sum: a row has the same bits alone and among others.

use super::weight::{Number, Values, Weight};
use crate::cpu::simd::{LANES, Lanes, Level, lanes, lanes_mut, leveled, multiply_add, padded};
use crate::cpu::simd::{prefetch, sum};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Inputs that follow one another in a row's place among the grouped rows.
const GROUP: usize = 8;
/// Groups of inputs whose sums are taken by themselves before they are added to those before: one sum of
/// thousands of products would round them all by its own size.
const SPAN: usize = 16;
/// Rows up to which threads share the inputs of a weight that is stored by rows, which they then read from
/// one end to the other; with more, sums of their own for every span would be as much as the weight.
const SHARE_INPUTS: usize = 8;
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

    /// Spans of inputs.
    fn spans(&self) -> usize {
        self.width.div_ceil(SPAN * GROUP)
    }

    fn share_inputs(&self, weight: &Weight) -> bool {
        self.rows <= SHARE_INPUTS && !weight.by_columns
    }
}

/// `x · weight` for every weight, all of them shared among the threads at once, `[rows, out]` each.
pub(super) fn few_rows(level: Level, rows: &Rows<'_>, weights: &[Weight]) -> Vec<Vec<f32>> {
    let part = |weight| {
        let spans = rows.spans() * usize::from(rows.share_inputs(weight));
        let sums = vec![0f32; spans * rows.rows * padded(weight.out)];
        (weight, Box::new_uninit_slice(rows.rows * weight.out), sums)
    };
    let mut parts: Vec<_> = weights.iter().map(part).collect();
    let mut pieces = Vec::new();
    for (weight, result, sums) in &mut parts {
        match rows.share_inputs(weight) {
            true => pieces.extend(Piece::of_inputs(rows, weight, sums)),
            false => pieces.extend(Piece::of_columns(rows, weight, result)),
        }
    }
    let all: usize = weights.iter().map(|weight| weight.width * weight.out).sum();
    match all <= ALONE {
        true => pieces.into_iter().for_each(|piece| piece.run(level)),
        false => pieces.into_par_iter().for_each(|piece| piece.run(level)),
    }
    let written = parts.into_iter().map(|(weight, mut result, sums)| {
        if rows.share_inputs(weight) {
            add_spans(sums, padded(weight.out), &mut result, weight.out);
        }
        // SAFETY: a weight's pieces are all columns of all rows, and write every part that they get, or all its
        // inputs, whose sums were just written as rows of all columns.
        unsafe { result.assume_init() }.into_vec()
    });
    written.collect()
}

/// Writes the sums of all spans `[spans, rows, wide]`, added up in their order, to rows of `out` values.
fn add_spans(mut sums: Vec<f32>, wide: usize, result: &mut [MaybeUninit<f32>], out: usize) {
    let len = result.len() / out * wide;
    let (first, others) = sums.split_at_mut(len);
    for other in others.chunks_exact(len) {
        first.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
    }
    for (result, first) in result.chunks_exact_mut(out).zip(first.chunks_exact(wide)) {
        result.write_copy_of_slice(&first[..out]);
    }
}

/// What a thread does at a time.
enum Piece<'a> {
    /// Some columns, and their place in every row of the result.
    Columns(Block<'a>, Vec<&'a mut [MaybeUninit<f32>]>),
    /// All columns of some spans of inputs, from this one on, and the sums of each, `[rows, wide]`.
    Inputs(Block<'a>, usize, &'a mut [f32]),
}

impl<'a> Piece<'a> {
    fn of_columns(
        rows: &'a Rows<'a>,
        weight: &'a Weight,
        result: &'a mut [MaybeUninit<f32>],
    ) -> Vec<Self> {
        let columns = columns(weight.out);
        let mut outs: Vec<Vec<_>> = Vec::new();
        outs.resize_with(weight.out.div_ceil(columns), Vec::new);
        for row in result.chunks_exact_mut(weight.out) {
            let parts = outs.iter_mut().zip(row.chunks_mut(columns));
            parts.for_each(|(out, part)| out.push(part));
        }
        let outs = outs.into_iter().enumerate();
        let piece = |(i, out)| {
            let from = i * columns;
            let block = Block {
                rows,
                weight,
                from,
                columns: columns.min(weight.out - from),
            };
            Piece::Columns(block, out)
        };
        outs.map(piece).collect()
    }

    fn of_inputs(rows: &'a Rows<'a>, weight: &'a Weight, sums: &'a mut [f32]) -> Vec<Self> {
        let block = Block {
            rows,
            weight,
            from: 0,
            columns: weight.out,
        };
        let spans = (ALONE / (SPAN * GROUP * weight.out)).max(1);
        let sums = sums.chunks_mut(spans * rows.rows * padded(weight.out));
        let piece = |(i, sums)| Piece::Inputs(block, i * spans, sums);
        sums.enumerate().map(piece).collect()
    }

    fn run(self, level: Level) {
        match self {
            Piece::Columns(block, out) => block.run(level, out),
            Piece::Inputs(block, first, sums) => {
                let len = block.rows.rows * padded(block.columns);
                for (i, sums) in sums.chunks_exact_mut(len).enumerate() {
                    span(level, &block, first + i, sums);
                }
            }
        }
    }
}

/// Columns that a thread takes at a time, of `out`: pieces as equal as whole lanes allow.
fn columns(out: usize) -> usize {
    let threads = rayon::current_num_threads();
    let pieces = out
        .div_ceil(COLUMNS)
        .next_multiple_of(threads * PIECES_PER_THREAD);
    out.div_ceil(pieces).next_multiple_of(2 * LANES)
}

/// Some columns of a weight, from one on, and the rows that meet them.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    rows: &'a Rows<'a>,
    weight: &'a Weight,
    from: usize,
    columns: usize,
}

impl Block<'_> {
    /// Writes the columns of every row to its part of `out`.
    fn run(&self, level: Level, out: Vec<&mut [MaybeUninit<f32>]>) {
        let wide = padded(self.columns);
        let mut y = vec![0f32; self.rows.rows * wide];
        match self.weight.by_columns {
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
    fn by_rows<const FMA: bool, const ROWS: usize>(block: &Block<'_>, y: &mut [f32]) {
        span_loop::<FMA, ROWS>(block, 0, y);
        let mut sums = vec![0f32; y.len()];
        for span in 1..block.rows.spans() {
            span_loop::<FMA, ROWS>(block, span, &mut sums);
            for (y, sum) in y.iter_mut().zip(&mut sums) {
                *y += *sum;
                *sum = 0.0;
            }
        }
    }
);

leveled!(
    /// Adds the product of a span of inputs to `y`, rows of whole lanes.
    fn span<const FMA: bool, const ROWS: usize>(block: &Block<'_>, span: usize, y: &mut [f32]) {
        span_loop::<FMA, ROWS>(block, span, y);
    }
);

#[inline(always)]
fn span_loop<const FMA: bool, const ROWS: usize>(block: &Block<'_>, span: usize, y: &mut [f32]) {
    let groups = block.rows.width.div_ceil(GROUP);
    let groups = span * SPAN..groups.min((span + 1) * SPAN);
    match block.weight.values() {
        Values::Single(all) => in_strips::<FMA, ROWS, _>(block, &all[block.from..], groups, y),
        Values::Half(all) => in_strips::<FMA, ROWS, _>(block, &all[block.from..], groups, y),
    }
}

/// Adds the product of some groups of inputs, as many inputs at a time as the registers hold weights
/// for beside the sums.
#[inline(always)]
fn in_strips<const FMA: bool, const ROWS: usize, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    groups: Range<usize>,
    y: &mut [f32],
) {
    match ROWS {
        // As many bytes of a row at a time: a machine reads ahead in a few rows at once.
        8 if size_of::<N>() < 4 => in_strips_of::<FMA, 4, 4, N>(block, weights, groups, y),
        8 => in_strips_of::<FMA, 8, 2, N>(block, weights, groups, y),
        6 => in_strips_of::<FMA, 4, 1, N>(block, weights, groups, y),
        _ => in_strips_of::<FMA, 2, 1, N>(block, weights, groups, y),
    }
}

/// `K` inputs at a time meet `G` groups of columns.
#[inline(always)]
fn in_strips_of<const FMA: bool, const K: usize, const G: usize, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    groups: Range<usize>,
    y: &mut [f32],
) {
    let Block { rows, columns, .. } = *block;
    for group in groups {
        let x = &rows.grouped[group * rows.rows..][..rows.rows];
        for from in (0..GROUP).step_by(K) {
            let (at, mut column) = (group * GROUP + from, 0);
            if at + K <= rows.width {
                while column + G * LANES <= columns {
                    strip::<FMA, K, G, true, N>(block, weights, x, [from, at, column], y);
                    column += G * LANES;
                }
            }
            while column < columns {
                strip::<FMA, K, 1, false, N>(block, weights, x, [from, at, column], y);
                column += LANES;
            }
        }
    }
}

/// Inputs `from..from + K` of a group `x`, the weight's rows from `at` on and its columns from `column`
/// on; what is not there counts as zeros if not all is `THERE`.
#[inline(always)]
fn strip<const FMA: bool, const K: usize, const G: usize, const THERE: bool, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    x: &[[f32; GROUP]],
    [from, at, column]: [usize; 3],
    y: &mut [f32],
) {
    let Block { rows, columns, .. } = *block;
    let (stride, wide) = (block.weight.out, padded(columns));
    let mut values = [[[0f32; LANES]; G]; K];
    for (i, values) in values.iter_mut().enumerate() {
        for (g, values) in values.iter_mut().enumerate() {
            let (row, column) = (at + i, column + g * LANES);
            if THERE {
                let start = row * stride + column;
                prefetch(weights, start + K * stride);
                *values = N::lanes(weights, start);
            } else if row < rows.width {
                let len = LANES.min(columns - column);
                let weights = &weights[row * stride + column..][..len];
                for (value, weight) in values.iter_mut().zip(weights) {
                    *value = weight.widened();
                }
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
    fn by_columns<const FMA: bool, const ROWS: usize>(block: &Block<'_>, y: &mut [f32]) {
        let start = block.from * block.rows.width;
        match block.weight.values() {
            Values::Single(all) => in_tiles_of::<FMA, ROWS, _>(block, &all[start..], y),
            Values::Half(all) => in_tiles_of::<FMA, ROWS, _>(block, &all[start..], y),
        }
    }
);

/// As many rows and columns at a time as the registers hold sums for.
#[inline(always)]
fn in_tiles_of<const FMA: bool, const ROWS: usize, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    y: &mut [f32],
) {
    match ROWS {
        8 => in_tiles::<FMA, 4, 4, N>(block, weights, y),
        _ => in_tiles::<FMA, 2, 2, N>(block, weights, y),
    }
}

/// `R` rows at a time meet `C` columns.
#[inline(always)]
fn in_tiles<const FMA: bool, const R: usize, const C: usize, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    y: &mut [f32],
) {
    let Block { rows, columns, .. } = *block;
    let mut column = 0;
    while column < columns {
        let some = columns - column >= C;
        let mut row = 0;
        while row < rows.rows {
            let many = rows.rows - row >= R;
            match (many, some) {
                (true, true) => tile::<FMA, R, C, N>(block, weights, row, column, y),
                (true, false) => tile::<FMA, R, 1, N>(block, weights, row, column, y),
                (false, true) => tile::<FMA, 1, C, N>(block, weights, row, column, y),
                (false, false) => tile::<FMA, 1, 1, N>(block, weights, row, column, y),
            }
            row += if many { R } else { 1 };
        }
        column += if some { C } else { 1 };
    }
}

/// Sums of lanes for `R` rows and `C` columns, added up, then the inputs that fill no lanes.
#[inline(always)]
fn tile<const FMA: bool, const R: usize, const C: usize, N: Number>(
    block: &Block<'_>,
    weights: &[N],
    row: usize,
    column: usize,
    y: &mut [f32],
) {
    let Block { rows, columns, .. } = *block;
    let (width, wide) = (rows.width, padded(columns));
    let x: [&[f32]; R] = std::array::from_fn(|r| &rows.x[(row + r) * width..][..width]);
    let w: [&[N]; C] = std::array::from_fn(|c| &weights[(column + c) * width..][..width]);
    let mut sums = [[[0f32; LANES]; C]; R];
    let whole = width / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let mut values = [[0f32; LANES]; C];
        for (c, (values, w)) in values.iter_mut().zip(&w).enumerate() {
            // SAFETY: `at + LANES <= whole`, and the slices of `w` have `width` values.
            *values = unsafe { N::lanes_there(w, at) };
            if row == 0 {
                // A column is too short for the machine to see where the next ones are.
                prefetch(weights, (column + C + c) * width + at);
            }
        }
        for (sums, x) in sums.iter_mut().zip(&x) {
            // SAFETY: as above.
            let x = unsafe { f32::lanes_there(x, at) };
            for (sums, values) in sums.iter_mut().zip(&values) {
                for l in 0..LANES {
                    sums[l] = multiply_add::<FMA>(x[l], values[l], sums[l]);
                }
            }
        }
    }
    for (r, (sums, x)) in sums.iter().zip(&x).enumerate() {
        for (c, (sums, w)) in sums.iter().zip(&w).enumerate() {
            let rest = x[whole..]
                .iter()
                .zip(&w[whole..])
                .map(|(x, w)| x * w.widened());
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
    use burn::tensor::{DType, FloatDType, Shape};
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

    /// The same weight with its numbers rounded to bf16, in bf16 and in f32.
    fn halved(weight: &Weight) -> [Weight; 2] {
        let stored = weight.stored().clone();
        let half = Flex::float_cast(stored, FloatDType::BF16);
        let wide = Flex::float_cast(half.clone(), FloatDType::F32);
        [half, wide].map(|x| match weight.by_columns {
            true => Weight::new(Flex::float_swap_dims(x, 0, 1)),
            false => Weight::new(x),
        })
    }

    /// Weights in bf16, some columns of which fill no lanes, against their values in f32: no bit differs,
    /// at any level, alone and beside others. Rounding the weights again is seen.
    #[test]
    fn a_weight_in_bf16_gives_the_bits_of_its_values() {
        let mut random = Random(12);
        for [width, out] in [[1, 1], [130, 420], [64, 37], [257, 96], [1000, 20]] {
            for by_columns in [false, true] {
                let weight = weight(&mut random, [width, out], by_columns);
                let x = noise(&mut random, MOST * width);
                let [half, wide] = halved(&weight);
                assert!(matches!(half.values(), Values::Half(_)));
                for level in Level::available() {
                    for rows in [1, 2, 7, 9, MOST] {
                        let run = |weight: &[Weight]| {
                            few_rows(level, &Rows::new(&x[..rows * width], width), weight)
                        };
                        let [got, want] = [&half, &wide].map(|w| run(std::slice::from_ref(w)));
                        let name = format!("[{width}, {out}] {level:?}, {rows} rows");
                        assert_eq!(changed(&want, &got), None, "{name}");
                        let rounded = run(std::slice::from_ref(&weight));
                        assert!(changed(&rounded, &got).is_some(), "{name}");
                    }
                }
            }
        }
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
                    let Values::Single(stored) = weights[0].values() else {
                        panic!("weights in f32");
                    };
                    let mut stored = stored.to_vec();
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
