//! The iteration on the CPU: rows in blocks over the threads, symmetric products by their lower half.

use super::reference::{COEFFICIENTS, SMALLEST_NORM, SMALLEST_SQUARE};
use crate::cpu::gemm;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::{LANES, Level, padded};
use crate::cpu::tensors::{Input, Primitive};
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
    fn lower_product(&mut self, level: Level, left: &Matrix, right: &Matrix) {
        let stride = self.stride;
        self.blocks(|first, out| {
            let rows = out.len() / stride;
            let product = Product {
                size: [rows, padded(first + rows), left.columns],
                left: Left::rows(&left.data[first * left.stride..], left.stride),
                right: Right::rows(&right.data, right.stride),
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

    /// Becomes `a + b A + c A²`.
    fn polynomial(&mut self, gram: &Matrix, square: &Matrix, [a, b, c]: [f32; 3]) {
        let stride = self.stride;
        self.blocks(|first, rows| {
            let at = first * stride..first * stride + rows.len();
            let powers = gram.data[at.clone()].iter().zip(&square.data[at]);
            for (x, (gram, square)) in rows.iter_mut().zip(powers) {
                *x = b * gram + c * square;
            }
            let diagonal = rows[first..].iter_mut().step_by(stride + 1);
            diagonal.for_each(|x| *x += a);
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
    let mut x = Matrix::zeros(rows.min(columns), rows.max(columns));
    if rows > columns {
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

/// All steps for `x` of norm 1, on the Gram matrix `A = X Xᵀ`: a step is `X ← P X` with `P = a + b A + c A²`, so it takes `A`
/// to `P A P`, and the product of all `P` meets `X` once. All of these are polynomials of the first `A`: they are symmetric
/// and their products too, so half of each is computed, however wide `X` is.
fn iterate(level: Level, x: &Matrix) -> Matrix {
    let square = || Matrix::zeros(x.rows, x.rows);
    let mut lower = square();
    let mut product = |into: &mut Matrix, left: &Matrix, right: &Matrix| {
        lower.lower_product(level, left, right);
        into.mirrored(level, &lower);
    };
    let [mut gram, mut squared, mut p, mut both] = [(); 4].map(|()| square());
    let mut all = square();
    let mut x_t = Matrix::zeros(x.columns, x.rows);
    x_t.transpose_of(level, x);
    product(&mut gram, x, &x_t);
    drop(x_t);
    for (step, [a, b, c]) in COEFFICIENTS.into_iter().enumerate() {
        product(&mut squared, &gram, &gram);
        // The first polynomial is of `A` over `s²` and itself over `s`, so that it takes `A` and `X` as they are.
        let s = match step {
            0 => square_of(&squared.data)
                .sqrt()
                .max(SMALLEST_SQUARE)
                .powf(0.25),
            _ => 1.0,
        };
        let coefficients = [a / s, b / s.powi(3), c / s.powi(5)];
        p.polynomial(&gram, &squared, coefficients.map(|x| x as f32));
        match step {
            0 => std::mem::swap(&mut all, &mut p),
            _ => {
                product(&mut both, &p, &all);
                std::mem::swap(&mut all, &mut both);
            }
        }
        if step + 1 < COEFFICIENTS.len() {
            let p = if step == 0 { &all } else { &p };
            product(&mut both, p, &gram);
            product(&mut gram, &both, p);
        }
    }
    // Rows of `x` may lie a power of two apart, and large products pack them.
    let size = [x.rows, x.stride, x.rows];
    let [left, right] = [&all, x].map(|x| Left::rows(&x.data, x.stride));
    let data = gemm::product(size, left, right);
    Matrix { data, ..*x }
}

/// The iteration for one matrix.
pub(crate) fn forward(g: Primitive) -> Primitive {
    let [rows, columns] = g.shape().dims();
    if rows * columns == 0 {
        return g;
    }
    let (g, level) = (Input::new(g), Level::detect());
    // One way into the pool for all blocks of all steps.
    let x = rayon::scope(|_| {
        let x = iterate(level, &normalised(level, &g, [rows, columns]));
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
    g.like(y)
}
