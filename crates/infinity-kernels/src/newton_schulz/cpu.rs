//! The iteration on the CPU: rows in blocks over the threads, symmetric products by their lower half, and for a matrix
//! that is not square all but the first and the last product on its Gram matrix.

use super::reference::{SMALLEST_NORM, STEPS};
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

    /// On and below the diagonal, becomes `left · right`, which is symmetric.
    fn lower_product(&mut self, level: Level, [left, right]: [&Matrix; 2]) {
        let stride = self.stride;
        self.blocks(|first, out| {
            let rows = out.len() / stride;
            let product = Product {
                size: [rows, padded(first + rows), left.columns],
                left: Left::rows(&left.data[first * left.stride..], left.stride),
                right: right.right(),
                part: Part::Whole,
                keep: Keep::Nothing,
                scale: None,
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

    /// Becomes `a + b gram + c square`.
    fn quadratic(&mut self, [a, b, c]: [f64; 3], gram: &Matrix, square: &Matrix) {
        let [a, b, c] = [a, b, c].map(|coefficient| coefficient as f32);
        for ((x, gram), square) in self.data.iter_mut().zip(&gram.data).zip(&square.data) {
            *x = b * gram + c * square;
        }
        let diagonal = self.data.iter_mut().step_by(self.stride + 1);
        diagonal.take(self.rows).for_each(|x| *x += a);
    }

    /// `self = left · self`: its rows may lie a power of two apart, and large products pack them.
    fn product(&mut self, left: &Matrix) {
        let size = [left.rows, self.stride, left.columns];
        let [left, right] = [left, &*self].map(|x| Left::rows(&x.data, x.stride));
        self.data = gemm::product(size, left, right);
    }
}

/// Scratch for matrices of one size.
struct Scratch {
    level: Level,
    lower: Matrix,
    square: Matrix,
    factor: Matrix,
}

impl Scratch {
    fn new(level: Level, n: usize) -> Self {
        let [lower, square, factor] = [0; 3].map(|_| Matrix::zeros(n, n));
        Scratch {
            level,
            lower,
            square,
            factor,
        }
    }

    /// `out = left · right`, which is symmetric.
    fn symmetric(&mut self, left: &Matrix, right: &Matrix, out: &mut Matrix) {
        self.lower.lower_product(self.level, [left, right]);
        out.mirrored(self.level, &self.lower);
    }

    /// `p` of a step: the product of its `factors` of `gram`.
    fn polynomial(&mut self, factors: &[[f64; 3]], gram: &Matrix, p: &mut Matrix) {
        let Scratch {
            level,
            lower,
            square,
            factor,
        } = self;
        lower.lower_product(*level, [gram, gram]);
        square.mirrored(*level, lower);
        p.quadratic(factors[0], gram, square);
        for coefficients in &factors[1..] {
            factor.quadratic(*coefficients, gram, square);
            lower.lower_product(*level, [factor, p]);
            p.mirrored(*level, lower);
        }
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
    let mut scratch = Scratch::new(level, rows);
    let mut x_t = Matrix::zeros(columns, rows);
    let [mut gram, mut p] = [0; 2].map(|_| Matrix::zeros(rows, rows));
    for factors in STEPS {
        x_t.transpose_of(level, &x);
        scratch.symmetric(&x, &x_t, &mut gram);
        scratch.polynomial(factors, &gram, &mut p);
        x.product(&p);
    }
    x
}

/// [`iterate`] on the Gram matrix `A = X Xᵀ` alone: a step is `X ← P X` with `P` a polynomial of `A`, so it takes `A` to
/// `P A P`, and the product of all `P` meets `X` once. All of these are polynomials of the first `A`: they are symmetric
/// and their products too, so half of each is computed, however wide `X` is.
fn iterate_gram(level: Level, mut x: Matrix) -> Matrix {
    let (rows, columns) = (x.rows, x.columns);
    let mut scratch = Scratch::new(level, rows);
    let square = || Matrix::zeros(rows, rows);
    let (mut gram, mut p, mut both) = (square(), square(), square());
    let mut x_t = Matrix::zeros(columns, rows);
    x_t.transpose_of(level, &x);
    scratch.symmetric(&x, &x_t, &mut gram);
    drop(x_t);
    let mut all = square();
    for (step, factors) in STEPS.into_iter().enumerate() {
        scratch.polynomial(factors, &gram, &mut p);
        match step {
            0 => all.data.copy_from_slice(&p.data),
            _ => {
                scratch.symmetric(&p, &all, &mut both);
                std::mem::swap(&mut all, &mut both);
            }
        }
        if step + 1 < STEPS.len() {
            scratch.symmetric(&p, &gram, &mut both);
            scratch.symmetric(&both, &p, &mut gram);
        }
    }
    x.product(&all);
    x
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
            false => iterate_gram(level, x),
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
