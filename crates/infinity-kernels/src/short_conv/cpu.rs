//! Short convolution with SiLU on the CPU: one pass forward, one pass back.
//!
//! ```text
//! z_t = Σ_j w_j ⊙ x_{t − (kernel − 1) + j}      y_t = z_t · σ(z_t)
//! dz  = dy · σ(z) · (1 + z · (1 − σ(z)))
//! dw_j = Σ_t dz_t ⊙ x_{t − (kernel − 1) + j}    dx_t = Σ_j w_j ⊙ dz_{t + (kernel − 1) − j}
//! ```
//!
//! The backward pass saves the inputs only and computes `z` again. Rows of the batch go to
//! threads, and their weight gradients are summed in the order of the rows: two runs give the same
//! bits.

use crate::borders::{Borders, Piece};
use crate::cpu::exp::exp;
use crate::cpu::results::{in_pieces, summed};
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Input, Primitive, in_dtype, single, slice, slice_mut, writable};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use rayon::prelude::*;
use std::ops::Range;

/// A call's tensors, channels innermost everywhere.
struct Call {
    x: Input,
    /// Taps `[kernel, channels]`.
    taps: Vec<f32>,
    /// Inputs before the first `[B, kernel − 1, channels]`.
    before: Vec<f32>,
    /// What comes before a document in the middle of a row.
    nothing: Vec<f32>,
    b: usize,
    t: usize,
    sizes: Sizes,
}

/// What the loops over one row of the batch know.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    channels: usize,
    kernel: usize,
}

impl Sizes {
    fn of(weight: &Primitive) -> Self {
        let [channels, kernel] = weight.shape().dims();
        Sizes { channels, kernel }
    }
}

/// `[rows, a, b]` → `[rows, b, a]`.
fn swapped(x: &[f32], a: usize, b: usize) -> Vec<f32> {
    let (mut y, len) = (vec![0.0; x.len()], (a * b).max(1));
    for (from, to) in x.chunks_exact(len).zip(y.chunks_exact_mut(len)) {
        for i in 0..a {
            for j in 0..b {
                to[j * a + i] = from[i * b + j];
            }
        }
    }
    y
}

impl Call {
    fn new([x, weight, tail]: [Primitive; 3]) -> Self {
        let (x, sizes) = (Input::new(x), Sizes::of(&weight));
        let [b, t, channels] = x.dims();
        let before = sizes.kernel - 1;
        Call {
            x,
            taps: swapped(slice(&single(weight)), channels, sizes.kernel),
            before: swapped(slice(&single(tail)), channels, before),
            nothing: vec![0.0; before * channels],
            b,
            t,
            sizes,
        }
    }

    /// Values of one row of the batch in `x`.
    fn row_len(&self) -> usize {
        self.t * self.sizes.channels
    }

    /// The documents of row `b`, each with its place among the row's values.
    fn documents(
        &self,
        b: usize,
        borders: &Borders,
    ) -> impl Iterator<Item = (Row<'_>, Piece, Range<usize>)> {
        let x = &self.x[b * self.row_len()..][..self.row_len()];
        let before = &self.before[b * self.nothing.len()..][..self.nothing.len()];
        borders.pieces(b, self.t).map(move |piece| {
            let channels = self.sizes.channels;
            let at = piece.tokens.start * channels..piece.tokens.end * channels;
            let row = Row {
                x: &x[at.clone()],
                before: if piece.fresh { &self.nothing } else { before },
                taps: &self.taps,
                sizes: self.sizes,
            };
            (row, piece, at)
        })
    }
}

/// One row of the batch.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    x: &'a [f32],
    before: &'a [f32],
    taps: &'a [f32],
    sizes: Sizes,
}

impl<'a> Row<'a> {
    /// Input `i`, counted from the first of the tail.
    #[inline(always)]
    fn input(&self, i: usize) -> &'a [f32] {
        let Sizes { channels, kernel } = self.sizes;
        match i.checked_sub(kernel - 1) {
            Some(t) => &self.x[t * channels..][..channels],
            None => &self.before[i * channels..][..channels],
        }
    }

    /// `z_t`.
    #[inline(always)]
    fn convolve<const FMA: bool>(&self, t: usize, z: &mut [f32]) {
        let Sizes { channels, kernel } = self.sizes;
        z.fill(0.0);
        for j in 0..kernel {
            let (input, tap) = (self.input(t + j), &self.taps[j * channels..][..channels]);
            for ((z, x), w) in z.iter_mut().zip(input).zip(tap) {
                *z = multiply_add::<FMA>(*w, *x, *z);
            }
        }
    }
}

leveled!(
    fn forward_row<const FMA: bool, const ROWS: usize>(row: Row<'_>, y: &mut [f32]) {
        for (t, y) in y.chunks_exact_mut(row.sizes.channels).enumerate() {
            row.convolve::<FMA>(t, y);
            for y in y {
                *y /= 1.0 + exp::<FMA>(-*y);
            }
        }
    }
);

leveled!(
    /// Adds to the gradients of a row's inputs, of those before it and of the taps.
    fn backward_row<const FMA: bool, const ROWS: usize>(
        row: Row<'_>,
        d_y: &[f32],
        grads: [&mut [f32]; 3],
    ) {
        let [d_x, d_before, all_d_taps] = grads;
        let Sizes { channels, kernel } = row.sizes;
        let mut d_z = vec![0.0; channels];
        for (t, d_y) in d_y.chunks_exact(channels).enumerate() {
            row.convolve::<FMA>(t, &mut d_z);
            for (d_z, d_y) in d_z.iter_mut().zip(d_y) {
                let z = *d_z;
                let sigma = 1.0 / (1.0 + exp::<FMA>(-z));
                *d_z = d_y * sigma * multiply_add::<FMA>(z, 1.0 - sigma, 1.0);
            }
            for j in 0..kernel {
                let at = j * channels;
                let input = row.input(t + j);
                let taps = &row.taps[at..at + channels];
                let d_taps = &mut all_d_taps[at..at + channels];
                let d_input = match (t + j).checked_sub(kernel - 1) {
                    Some(t) => &mut d_x[t * channels..][..channels],
                    None => &mut d_before[(t + j) * channels..][..channels],
                };
                for ((d_tap, x), d_z) in d_taps.iter_mut().zip(input).zip(&d_z) {
                    *d_tap = multiply_add::<FMA>(*d_z, *x, *d_tap);
                }
                for ((d_x, w), d_z) in d_input.iter_mut().zip(taps).zip(&d_z) {
                    *d_x = multiply_add::<FMA>(*d_z, *w, *d_x);
                }
            }
        }
    }
);

/// `silu(conv(x))`.
pub(crate) fn forward(inputs: [Primitive; 3], borders: &Borders) -> Primitive {
    let (call, level) = (Call::new(inputs), Level::detect());
    let [y] = in_pieces([call.x.len()], [call.row_len()], |b, [y]| {
        for (row, _, at) in call.documents(b, borders) {
            forward_row(level, row, &mut y[at]);
        }
    });
    call.x.like(y)
}

/// Values from which on threads share a step.
const ALONE: usize = 1 << 13;

/// What a step of one convolution has.
struct Step {
    x: Input,
    taps: Vec<f32>,
    /// `[B, kernel − 1, channels]`.
    tail: Primitive,
    tail_dtype: DType,
    y: Vec<f32>,
    sizes: Sizes,
}

impl Step {
    fn new([x, weight, tail]: [Primitive; 3]) -> Self {
        let (x, sizes) = (Input::new(x), Sizes::of(&weight));
        Step {
            taps: swapped(slice(&single(weight)), sizes.channels, sizes.kernel),
            y: vec![0.0; x.len()],
            tail_dtype: tail.dtype(),
            tail: writable(tail),
            x,
            sizes,
        }
    }

    /// Every row, with nothing before it yet, the place of its outputs and its tail.
    fn rows(&mut self) -> impl Iterator<Item = (Row<'_>, &mut [f32], &mut [f32])> {
        let (taps, sizes) = (&self.taps, self.sizes);
        let [_, t, channels] = self.x.dims();
        let x = self.x.chunks_exact(t * channels);
        let y = self.y.chunks_exact_mut(t * channels);
        let tails = slice_mut(&mut self.tail).chunks_exact_mut((sizes.kernel - 1) * channels);
        let row = move |x| Row {
            x,
            before: &[],
            taps,
            sizes,
        };
        let rows = x.zip(y).zip(tails);
        rows.map(move |((x, y), tail)| (row(x), y, tail))
    }

    fn results(self) -> [Primitive; 2] {
        [self.x.like(self.y), in_dtype(self.tail, self.tail_dtype)]
    }
}

/// `silu(conv(x))` and the next tail of one convolution after the other, for fewer tokens than a tail holds. Tails are written
/// over where nobody else has a share in them.
pub(crate) fn step(inputs: Vec<Primitive>) -> Vec<Primitive> {
    let mut inputs = inputs.into_iter();
    let mut steps = Vec::new();
    while let (Some(x), Some(weight), Some(tail)) = (inputs.next(), inputs.next(), inputs.next()) {
        steps.push(Step::new([x, weight, tail]));
    }
    let level = Level::detect();
    let run = |(row, y, tail): (Row<'_>, &mut [f32], &mut [f32])| {
        let before: &[f32] = tail;
        forward_row(level, Row { before, ..row }, y);
        tail.copy_within(row.x.len().., 0);
        let kept = tail.len() - row.x.len();
        tail[kept..].copy_from_slice(row.x);
    };
    let values: usize = steps.iter().map(|step| step.y.len()).sum();
    let rows = steps.iter_mut().flat_map(Step::rows);
    match values < ALONE {
        true => rows.for_each(run),
        false => rows.collect::<Vec<_>>().into_par_iter().for_each(run),
    }
    steps.into_iter().flat_map(Step::results).collect()
}

/// Gradients of `x`, `weight` and `tail`.
pub(crate) fn backward(
    inputs: [Primitive; 3],
    d_y: Primitive,
    borders: &Borders,
) -> [Primitive; 3] {
    let (call, d_y, level) = (Call::new(inputs), Input::new(d_y), Level::detect());
    let Sizes { channels, kernel } = call.sizes;
    let sizes = [call.row_len(), call.nothing.len(), call.taps.len()];
    let [d_x, d_before, d_taps] = in_pieces(sizes.map(|len| call.b * len), sizes, |b, grads| {
        let [x, before, taps] = grads;
        let d_y = &d_y[b * x.len()..][..x.len()];
        // What came before a document is nothing, and its gradient nobody's.
        let mut nobody = call.nothing.clone();
        for (row, piece, at) in call.documents(b, borders) {
            let before = if piece.fresh {
                &mut nobody
            } else {
                &mut *before
            };
            let grads = [&mut x[at.clone()], before, &mut *taps];
            backward_row(level, row, &d_y[at], grads);
        }
    });
    let d_taps = swapped(&summed(&d_taps, kernel * channels), kernel, channels);
    let d_tail = swapped(&d_before, kernel - 1, channels);
    [
        call.x.like(d_x),
        call.x.result(d_taps, [channels, kernel]),
        call.x.result(d_tail, [call.b, channels, kernel - 1]),
    ]
}
