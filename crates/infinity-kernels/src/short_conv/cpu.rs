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
use crate::cpu::results::in_pieces;
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, in_dtype, single, slice, slice_mut, tensor, writable};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use rayon::prelude::*;

/// A call's tensors as slices, channels innermost everywhere.
struct Call {
    x: Primitive,
    /// Taps `[kernel, channels]`.
    taps: Vec<f32>,
    /// Inputs before the first `[B, kernel − 1, channels]`.
    before: Vec<f32>,
    dtype: DType,
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

/// `[rows, a, b]` → `[rows, b, a]`.
fn swapped(x: &[f32], a: usize, b: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (from, to) in x
        .chunks_exact((a * b).max(1))
        .zip(y.chunks_exact_mut((a * b).max(1)))
    {
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
        let [b, t, channels] = x.shape().dims();
        let [_, kernel] = weight.shape().dims::<2>();
        Call {
            dtype: x.dtype(),
            taps: swapped(slice(&single(weight)), channels, kernel),
            before: swapped(slice(&single(tail)), channels, kernel - 1),
            x: single(x),
            b,
            t,
            sizes: Sizes { channels, kernel },
        }
    }

    /// Values of one row of the batch in `x` and in `before`.
    fn row_len(&self) -> (usize, usize) {
        let Sizes { channels, kernel } = self.sizes;
        (self.t * channels, (kernel - 1) * channels)
    }

    fn row(&self, b: usize) -> Row<'_> {
        let (x, before) = self.row_len();
        Row {
            x: &slice(&self.x)[b * x..][..x],
            before: &self.before[b * before..][..before],
            taps: &self.taps,
            sizes: self.sizes,
        }
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
    /// One document of it; `nothing` is what comes before a document.
    fn part(&self, piece: &Piece, nothing: &'a [f32]) -> Self {
        let channels = self.sizes.channels;
        Row {
            x: &self.x[piece.tokens.start * channels..piece.tokens.end * channels],
            before: if piece.fresh { nothing } else { self.before },
            ..*self
        }
    }

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

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(row: Row<'_>, y: &mut [f32]) {
    for (t, y) in y.chunks_exact_mut(row.sizes.channels).enumerate() {
        row.convolve::<FMA>(t, y);
        for y in y {
            *y /= 1.0 + exp::<FMA>(-*y);
        }
    }
}
leveled!(fn forward_row(row: Row<'_>, y: &mut [f32]) = forward_loop);

/// Gradients of one row of the batch.
pub(crate) struct RowGrads<'a> {
    x: &'a mut [f32],
    before: &'a mut [f32],
    taps: &'a mut [f32],
}

#[inline(always)]
fn backward_loop<const FMA: bool, const ROWS: usize>(
    row: Row<'_>,
    d_y: &[f32],
    grads: &mut RowGrads<'_>,
) {
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
            let d_taps = &mut grads.taps[at..at + channels];
            let d_input = match (t + j).checked_sub(kernel - 1) {
                Some(t) => &mut grads.x[t * channels..][..channels],
                None => &mut grads.before[(t + j) * channels..][..channels],
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
leveled!(fn backward_row(row: Row<'_>, d_y: &[f32], grads: &mut RowGrads<'_>) = backward_loop);

/// `silu(conv(x))`.
pub(crate) fn forward(inputs: [Primitive; 3], borders: &Borders) -> Primitive {
    let call = Call::new(inputs);
    let (row_len, before_len) = call.row_len();
    let (level, nothing) = (Level::detect(), vec![0f32; before_len]);
    let [y] = in_pieces([call.b * row_len], [row_len], |b, [y]| {
        for piece in borders.pieces(b, call.t) {
            let row = call.row(b).part(&piece, &nothing);
            let (from, len) = (piece.tokens.start * call.sizes.channels, row.x.len());
            forward_row(level, row, &mut y[from..from + len]);
        }
    });
    tensor(
        y,
        Shape::from([call.b, call.t, call.sizes.channels]),
        call.dtype,
    )
}

/// Values from which on threads share a step.
const ALONE: usize = 1 << 13;

/// What a step of one convolution has.
struct Step {
    x: Primitive,
    taps: Vec<f32>,
    /// `[B, kernel − 1, channels]`.
    tail: Primitive,
    y: Vec<f32>,
    dtypes: [DType; 2],
    shape: Shape,
    sizes: Sizes,
}

impl Step {
    fn new([x, weight, tail]: [Primitive; 3]) -> Self {
        let [channels, kernel] = weight.shape().dims();
        Step {
            taps: swapped(slice(&single(weight)), channels, kernel),
            y: vec![0.0; x.shape().num_elements()],
            dtypes: [x.dtype(), tail.dtype()],
            shape: x.shape(),
            x: single(x),
            tail: writable(tail),
            sizes: Sizes { channels, kernel },
        }
    }

    /// Inputs, place of the outputs and tail of every row.
    fn rows(&mut self) -> impl Iterator<Item = StepRow<'_>> {
        let Sizes { channels, kernel } = self.sizes;
        let [b, t, _] = self.shape.dims();
        let x = slice(&self.x).chunks_exact(t * channels);
        let y = self.y.chunks_exact_mut(t * channels);
        let tails = slice_mut(&mut self.tail).chunks_exact_mut((kernel - 1) * channels);
        let (taps, sizes) = (&self.taps, self.sizes);
        let row = move |((x, y), tail)| StepRow {
            x,
            y,
            tail,
            taps,
            sizes,
        };
        x.zip(y).zip(tails).take(b).map(row)
    }

    fn results(self) -> [Primitive; 2] {
        let y = tensor(self.y, self.shape, self.dtypes[0]);
        [y, in_dtype(self.tail, self.dtypes[1])]
    }
}

struct StepRow<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    tail: &'a mut [f32],
    taps: &'a [f32],
    sizes: Sizes,
}

impl StepRow<'_> {
    fn run(self, level: Level) {
        let row = Row {
            x: self.x,
            before: self.tail,
            taps: self.taps,
            sizes: self.sizes,
        };
        forward_row(level, row, self.y);
        self.tail.copy_within(self.x.len().., 0);
        let kept = self.tail.len() - self.x.len();
        self.tail[kept..].copy_from_slice(self.x);
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
    let values: usize = steps.iter().map(|step| step.y.len()).sum();
    let rows = steps.iter_mut().flat_map(Step::rows);
    match values < ALONE {
        true => rows.for_each(|row| row.run(level)),
        false => {
            let rows: Vec<_> = rows.collect();
            rows.into_par_iter().for_each(|row| row.run(level));
        }
    }
    steps.into_iter().flat_map(Step::results).collect()
}

/// Gradients of `x`, `weight` and `tail`.
pub(crate) fn backward(
    inputs: [Primitive; 3],
    d_y: Primitive,
    borders: &Borders,
) -> [Primitive; 3] {
    let call = Call::new(inputs);
    let Sizes { channels, kernel } = call.sizes;
    let (row_len, before_len) = call.row_len();
    let d_y = single(d_y);
    let d_y = slice(&d_y);
    let taps_len = kernel * channels;
    let (level, nothing) = (Level::detect(), vec![0f32; before_len]);
    let [d_x, d_before, d_taps] = in_pieces(
        [row_len, before_len, taps_len].map(|len| call.b * len),
        [row_len, before_len, taps_len],
        |b, [x, before, taps]| {
            let d_y = &d_y[b * row_len..][..row_len];
            // What came before a document is nothing, and its gradient nobody's.
            let mut nobody = vec![0f32; before_len];
            for piece in borders.pieces(b, call.t) {
                let row = call.row(b).part(&piece, &nothing);
                let from = piece.tokens.start * channels;
                let part = from..from + row.x.len();
                let mut grads = RowGrads {
                    x: &mut x[part.clone()],
                    before: if piece.fresh {
                        &mut nobody
                    } else {
                        &mut *before
                    },
                    taps: &mut *taps,
                };
                backward_row(level, row, &d_y[part], &mut grads);
            }
        },
    );
    let mut sum = vec![0f32; taps_len];
    for row in d_taps.chunks_exact(taps_len) {
        sum.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
    }
    [
        tensor(d_x, Shape::from([call.b, call.t, channels]), call.dtype),
        tensor(
            swapped(&sum, kernel, channels),
            Shape::from([channels, kernel]),
            call.dtype,
        ),
        tensor(
            swapped(&d_before, kernel - 1, channels),
            Shape::from([call.b, channels, kernel - 1]),
            call.dtype,
        ),
    ]
}
