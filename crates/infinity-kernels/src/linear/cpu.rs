//! Projections of one input on the CPU, and their gradients: products that read their factors as they
//! are stored.
//!
//! The input's gradient is one sum over all weights, which stays in cache until it is whole, instead of
//! as many results that are added up afterwards.
//!
//! With few rows, weights are read once, by all threads. Pieces depend on the sizes alone and their sums
//! are added in order: two runs, and two machines with different numbers of cores, add in the same order.

use crate::cpu::gemm::{Columns, Term, products, sum_of_products};
use crate::cpu::product::Left;
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::Shape;
use rayon::prelude::*;

/// Weights a thread takes at a time: 256 KiB, long enough to read at full speed.
const PIECE: usize = 1 << 16;

/// `x · weight` for `x` `[B, T, D]`, the first of the inputs, and every weight behind it.
pub(crate) fn forward(mut inputs: Vec<Primitive>, few: bool) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, [b, t, _]) = (x.dtype(), x.shape().dims());
    let outputs: Vec<[usize; 3]> = weights
        .iter()
        .map(|weight| [b, t, weight.shape().dims::<2>()[1]])
        .collect();
    let x = single(x);
    let results = match few {
        true => few_rows(&x, &weights),
        false => many_rows(&x, weights),
    };
    let results = results.into_iter().zip(outputs);
    results
        .map(|(y, shape)| tensor(y, Shape::from(shape), dtype))
        .collect()
}

fn many_rows(x: &Primitive, weights: Vec<Primitive>) -> Vec<Vec<f32>> {
    let [b, t, width] = x.shape().dims();
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let columns = |weight| Columns {
        data: Weight::view(weight),
        n: weight.out,
    };
    let rights: Vec<Columns> = weights.iter().map(columns).collect();
    products([b * t, width], Left::rows(slice(x), width), &rights)
}

/// Gradients of the inputs of [`forward`], given those of every result.
pub(crate) fn backward(mut inputs: Vec<Primitive>, d_y: Vec<Primitive>) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, shape) = (x.dtype(), x.shape());
    let [b, t, width] = shape.dims();
    let rows = b * t;
    let x = single(x);
    let d_y: Vec<Primitive> = d_y.into_iter().map(single).collect();
    let columns = |(weight, d_y)| {
        let [_, n] = Primitive::shape(weight).dims();
        let data = Left::rows(slice(d_y), n);
        Columns { data, n }
    };
    let rights: Vec<Columns> = weights.iter().zip(&d_y).map(columns).collect();
    let d_weights = products([width, rows], Left::transposed(slice(&x), width), &rights);
    let like = |weight: &Primitive| (weight.shape(), weight.dtype());
    let likes: Vec<_> = weights.iter().map(like).collect();
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let terms = weights.iter().zip(&d_y).map(|(weight, d_y)| Term {
        left: Left::rows(slice(d_y), weight.out),
        right: weight.transposed(),
        k: weight.out,
    });
    let d_x = sum_of_products([rows, width], &terms.collect::<Vec<_>>());
    let d_weights = d_weights.into_iter().zip(likes);
    let d_weights = d_weights.map(|(d, (shape, dtype))| tensor(d, shape, dtype));
    std::iter::once(tensor(d_x, shape, dtype))
        .chain(d_weights)
        .collect()
}

/// A weight `[D, N]`, stored by rows or by columns.
struct Weight {
    data: Primitive,
    by_columns: bool,
    width: usize,
    out: usize,
}

impl Weight {
    fn new(weight: Primitive) -> Self {
        let [width, out] = weight.shape().dims();
        let transposed = Flex::float_swap_dims(weight.clone(), 0, 1);
        let by_columns = transposed.as_slice::<f32>().is_some();
        let data = match by_columns {
            true => transposed,
            false => single(weight),
        };
        Weight {
            data,
            by_columns,
            width,
            out,
        }
    }

    /// Rows that are stored one behind the other: outputs, or inputs.
    fn stored_rows(&self) -> usize {
        if self.by_columns {
            self.out
        } else {
            self.width
        }
    }

    /// Values in such a row.
    fn stored_row(&self) -> usize {
        if self.by_columns {
            self.width
        } else {
            self.out
        }
    }

    fn view(&self) -> Left<'_> {
        match self.by_columns {
            true => Left::transposed(slice(&self.data), self.width),
            false => Left::rows(slice(&self.data), self.out),
        }
    }

    fn transposed(&self) -> Left<'_> {
        let Left { data, row, col } = self.view();
        Left {
            data,
            row: col,
            col: row,
        }
    }
}

/// Some inputs of every row, and the weights they meet `[inputs, out]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[rows, width]`.
    x: &'a [f32],
    width: usize,
    /// The first of these inputs.
    from: usize,
    weights: &'a [f32],
    out: usize,
}

/// Adds `x · weights` to `y` `[rows, out]`, four inputs at a time.
#[inline(always)]
fn add_inputs_loop<const FMA: bool, const ROWS: usize>(inputs: Inputs<'_>, y: &mut [f32]) {
    let Inputs {
        x,
        width,
        from,
        weights,
        out,
    } = inputs;
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(out)) {
        let x = &x[from..from + weights.len() / out];
        let (fours, rest) = x.as_chunks::<4>();
        let (weights, last) = weights.split_at(fours.len() * 4 * out);
        for (x, weights) in fours.iter().zip(weights.chunks_exact(4 * out)) {
            let (a, weights) = weights.split_at(out);
            let (b, weights) = weights.split_at(out);
            let (c, d) = weights.split_at(out);
            for ((((y, a), b), c), d) in y.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let sum = multiply_add::<FMA>(x[0], *a, *y);
                let sum = multiply_add::<FMA>(x[1], *b, sum);
                let sum = multiply_add::<FMA>(x[2], *c, sum);
                *y = multiply_add::<FMA>(x[3], *d, sum);
            }
        }
        for (x, weights) in rest.iter().zip(last.chunks_exact(out)) {
            for (y, w) in y.iter_mut().zip(weights) {
                *y = multiply_add::<FMA>(*x, *w, *y);
            }
        }
    }
}
leveled!(fn add_inputs(inputs: Inputs<'_>, y: &mut [f32]) = add_inputs_loop);

/// Writes `x · weights` for weights `[outputs, width]` into `y` `[outputs, rows]`.
#[inline(always)]
fn outputs_loop<const FMA: bool, const ROWS: usize>(
    x: &[f32],
    width: usize,
    weights: &[f32],
    y: &mut [f32],
) {
    let rows = x.len() / width;
    for (weights, y) in weights.chunks_exact(width).zip(y.chunks_exact_mut(rows)) {
        for (x, y) in x.chunks_exact(width).zip(y) {
            *y = dot::<FMA>(x, weights);
        }
    }
}
leveled!(
    fn outputs(x: &[f32], width: usize, weights: &[f32], y: &mut [f32]) = outputs_loop
);

/// `x · weight` for every weight, all of them shared among the threads at once: `x` `[B, T, D]`, in
/// one piece.
fn few_rows(x: &Primitive, weights: &[Primitive]) -> Vec<Vec<f32>> {
    let x = slice(x);
    let weights: Vec<Pieces> = weights.iter().map(Pieces::new).collect();
    let pieces: Vec<(&Pieces, usize)> = weights
        .iter()
        .flat_map(|weight| (0..weight.pieces()).map(move |piece| (weight, piece)))
        .collect();
    let run = |(weight, piece): &(&Pieces, usize)| weight.run(x, *piece);
    let results: Vec<Vec<f32>> = match pieces.len() <= 1 {
        true => pieces.iter().map(run).collect(),
        false => pieces.par_iter().map(run).collect(),
    };
    let mut results = results.into_iter();
    let whole = |weight: &Pieces| weight.together(results.by_ref().take(weight.pieces()), x);
    weights.iter().map(whole).collect()
}

/// A weight in pieces for the threads.
struct Pieces {
    weight: Weight,
    /// Outputs of a piece where the weight is stored by them, inputs otherwise.
    each: usize,
}

impl Pieces {
    fn new(weight: &Primitive) -> Self {
        let weight = Weight::new(weight.clone());
        let each = (PIECE / weight.stored_row()).max(1);
        Pieces { weight, each }
    }

    fn pieces(&self) -> usize {
        self.weight.stored_rows().div_ceil(self.each)
    }

    /// Piece `i`: its outputs `[outputs, rows]`, or all outputs `[rows, out]` of its inputs.
    fn run(&self, x: &[f32], i: usize) -> Vec<f32> {
        let Weight { width, out, .. } = self.weight;
        let (level, rows, from) = (Level::detect(), x.len() / width, i * self.each);
        let row = self.weight.stored_row();
        let weights = &slice(&self.weight.data)[from * row..];
        let weights = &weights[..weights.len().min(self.each * row)];
        if self.weight.by_columns {
            let mut y = vec![0f32; weights.len() / width * rows];
            outputs(level, x, width, weights, &mut y);
            return y;
        }
        let mut y = vec![0f32; rows * out];
        let inputs = Inputs {
            x,
            width,
            from,
            weights,
            out,
        };
        add_inputs(level, inputs, &mut y);
        y
    }

    /// The whole result `[rows, out]` of all pieces, in their order.
    fn together(&self, mut pieces: impl Iterator<Item = Vec<f32>>, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.weight.width;
        if !self.weight.by_columns {
            let mut y = pieces.next().unwrap_or_default();
            for other in pieces {
                y.iter_mut().zip(&other).for_each(|(y, other)| *y += other);
            }
            return y;
        }
        let y: Vec<f32> = pieces.flatten().collect();
        if rows == 1 {
            return y;
        }
        let of_row = |row: usize| y[row..].iter().step_by(rows).copied();
        (0..rows).flat_map(of_row).collect()
    }
}
