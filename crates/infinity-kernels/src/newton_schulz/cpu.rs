//! The iteration on the CPU: rows in blocks over the threads, symmetric products by their lower half, and for a matrix
//! that is not square all but the first and the last product on its Gram matrix.

use super::reference::{COEFFICIENTS, SMALLEST_NORM};
use crate::cpu::gemm;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::{LANES, Level, padded};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use crate::cpu::transpose::transpose;
use burn::backend::TensorMetadata;
use rayon::prelude::*;

/// Rows a thread takes at a time.
const BLOCK: usize = 16;

/// A matrix whose rows are filled up to whole lanes with zeros.
struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Self {
        let stride = padded(columns);
        Matrix {
            data: vec![0.0; rows * stride],
            rows,
            columns,
            stride,
        }
    }

    fn right(&self) -> Right<'_> {
        Right::rows(&self.data, self.stride)
    }

    /// Runs `block` for every block of rows, with its first row.
    fn blocks(&mut self, block: impl Fn(usize, &mut [f32]) + Sync) {
        self.data
            .par_chunks_mut(BLOCK * self.stride)
            .enumerate()
            .for_each(|(i, rows)| block(i * BLOCK, rows));
    }

    /// Becomes the transpose of `x`.
    fn transpose_of(&mut self, level: Level, x: &Matrix) {
        let stride = self.stride;
        self.blocks(|first, rows| {
            let size = [x.rows, rows.len() / stride];
            transpose(level, size, &x.data[first..], x.stride, rows, stride);
        });
    }

    /// On and below the diagonal, becomes `keep + factor · left · right`, which is symmetric.
    fn lower_product(
        &mut self,
        level: Level,
        [left, right]: [&Matrix; 2],
        factor: f32,
        keep: Option<(f32, &Matrix)>,
    ) {
        let stride = self.stride;
        self.blocks(|first, out| {
            let rows = out.len() / stride;
            let product = Product {
                size: [rows, padded(first + rows), left.columns],
                left: Left::rows(&left.data[first * left.stride..], left.stride),
                right: right.right(),
                part: Part::Whole,
                keep: keep.map_or(Keep::Nothing, |(keep, other)| {
                    Keep::Other(keep, &other.data[first * stride..])
                }),
                scale: Some(&[factor; BLOCK]),
            };
            multiply(level, &product, out, stride);
        });
    }

    /// Becomes the whole of the symmetric matrix of which `lower` has what is on and below the
    /// diagonal.
    fn mirrored(&mut self, level: Level, lower: &Matrix) {
        let (stride, columns) = (self.stride, self.columns);
        self.blocks(|first, rows| {
            let height = rows.len() / stride;
            let from = &lower.data[first * stride + first..];
            let size = [columns - first, height];
            transpose(level, size, from, stride, &mut rows[first..], stride);
            let below = lower.data[first * stride..].chunks_exact(stride);
            for (i, (row, below)) in rows.chunks_exact_mut(stride).zip(below).enumerate() {
                row[..=first + i].copy_from_slice(&below[..=first + i]);
            }
        });
    }

    fn copy(&self) -> Matrix {
        Matrix {
            data: self.data.clone(),
            ..*self
        }
    }

    fn add_to_diagonal(&mut self, value: f32) {
        let diagonal = self.data.iter_mut().step_by(self.stride + 1);
        diagonal.take(self.rows).for_each(|x| *x += value);
    }

    /// `self = left · right`, for a wide `right`: its rows may lie a power of two apart, and large products pack them.
    fn product(&mut self, left: &Matrix, right: &Matrix) {
        let size = [left.rows, right.stride, left.columns];
        let [left, right] = [left, right].map(|x| Left::rows(&x.data, x.stride));
        self.data = gemm::product(size, left, right);
    }

    /// `self = keep · right + left · right`.
    fn add_product(&mut self, level: Level, keep: f32, left: &Matrix, right: &Matrix) {
        let stride = self.stride;
        self.blocks(|first, out| {
            let product = Product {
                size: [out.len() / stride, stride, left.columns],
                left: Left::rows(&left.data[first * left.stride..], left.stride),
                right: right.right(),
                part: Part::Whole,
                keep: Keep::Other(keep, &right.data[first * stride..]),
                scale: None,
            };
            multiply(level, &product, out, stride);
        });
    }
}

/// `‖g‖²`: as many sums side by side as the compiler has lanes for.
fn square_of(g: &[f32]) -> f64 {
    let (lanes, rest) = g.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for lanes in lanes {
        for l in 0..LANES {
            sums[l] += f64::from(lanes[l]) * f64::from(lanes[l]);
        }
    }
    let rest = rest.iter().map(|g| f64::from(*g) * f64::from(*g));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// `g / ‖g‖`, on its side where it has more rows than columns.
fn normalised(level: Level, g: &[f32], [rows, columns]: [usize; 2]) -> Matrix {
    let factor = (1.0 / square_of(g).sqrt().max(SMALLEST_NORM)) as f32;
    let tall = rows > columns;
    let mut x = match tall {
        true => Matrix::zeros(columns, rows),
        false => Matrix::zeros(rows, columns),
    };
    if tall {
        transpose(level, [rows, columns], g, columns, &mut x.data, x.stride);
        x.data.iter_mut().for_each(|x| *x *= factor);
    } else {
        let rows = x.data.chunks_exact_mut(x.stride);
        for (x, g) in rows.zip(g.chunks_exact(columns)) {
            for (x, g) in x.iter_mut().zip(g) {
                *x = g * factor;
            }
        }
    }
    x
}

fn iterate(level: Level, mut x: Matrix) -> Matrix {
    let (rows, columns) = (x.rows, x.columns);
    let mut x_t = Matrix::zeros(columns, rows);
    let [mut lower, mut gram, mut both] = [0; 3].map(|_| Matrix::zeros(rows, rows));
    let mut next = Matrix::zeros(rows, columns);
    for step in COEFFICIENTS {
        let [a, b, c] = step.map(|coefficient| coefficient as f32);
        x_t.transpose_of(level, &x);
        lower.lower_product(level, [&x, &x_t], 1.0, None);
        gram.mirrored(level, &lower);
        lower.lower_product(level, [&gram, &gram], c, Some((b, &gram)));
        both.mirrored(level, &lower);
        next.add_product(level, a, &both, &x);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

/// [`iterate`] on the Gram matrix `A = X Xᵀ` alone: a step is `X ← P X` with `P = a + b A + c A²`, so it takes `A` to
/// `P A P`, and the product of all `P` meets `X` once. All of these are polynomials of the first `A`: they are symmetric
/// and their products too, so half of each is computed, however wide `X` is.
fn iterate_gram(level: Level, x: &Matrix) -> Matrix {
    let (rows, columns) = (x.rows, x.columns);
    let square = || Matrix::zeros(rows, rows);
    let (mut lower, mut gram, mut p, mut both) = (square(), square(), square(), square());
    let mut x_t = Matrix::zeros(columns, rows);
    x_t.transpose_of(level, x);
    lower.lower_product(level, [x, &x_t], 1.0, None);
    drop(x_t);
    gram.mirrored(level, &lower);
    let mut all: Option<Matrix> = None;
    for (step, coefficients) in COEFFICIENTS.into_iter().enumerate() {
        let [a, b, c] = coefficients.map(|coefficient| coefficient as f32);
        lower.lower_product(level, [&gram, &gram], c, Some((b, &gram)));
        p.mirrored(level, &lower);
        p.add_to_diagonal(a);
        match &mut all {
            None => all = Some(p.copy()),
            Some(all) => {
                lower.lower_product(level, [&p, &*all], 1.0, None);
                all.mirrored(level, &lower);
            }
        }
        if step + 1 < COEFFICIENTS.len() {
            lower.lower_product(level, [&p, &gram], 1.0, None);
            both.mirrored(level, &lower);
            lower.lower_product(level, [&both, &p], 1.0, None);
            gram.mirrored(level, &lower);
        }
    }
    let all = all.expect("at least one step");
    let mut result = Matrix::zeros(rows, columns);
    result.product(&all, x);
    result
}

/// The iteration for one matrix.
pub(crate) fn forward(g: Primitive) -> Primitive {
    let (shape, dtype) = (g.shape(), g.dtype());
    let [rows, columns] = shape.dims();
    if rows * columns == 0 {
        return g;
    }
    let g = single(g);
    let level = Level::detect();
    // One way into the pool for all blocks of all steps.
    let x = rayon::scope(|_| {
        let x = normalised(level, slice(&g), [rows, columns]);
        // A step on the Gram matrix has three symmetric products of its size more and two of the other size fewer.
        let x = match rows == columns {
            true => iterate(level, x),
            false => iterate_gram(level, &x),
        };
        if rows <= columns {
            return x;
        }
        let mut upright = Matrix::zeros(rows, columns);
        upright.transpose_of(level, &x);
        upright
    });
    let mut y = Vec::with_capacity(rows * columns);
    for row in x.data.chunks_exact(x.stride) {
        y.extend_from_slice(&row[..columns]);
    }
    tensor(y, shape, dtype)
}
