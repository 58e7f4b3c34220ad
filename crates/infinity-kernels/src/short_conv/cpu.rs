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
use crate::cpu::results::{in_pieces, summed, zeroed};
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Input, Primitive, in_dtype, slice_mut, tensor, writable};
use crate::operator::is_none;
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values from which on threads share a forward pass.
const ALONE: usize = 1 << 13;

/// A convolution's tensors, channels innermost everywhere.
struct Conv {
    x: Input,
    /// Taps `[kernel, channels]`.
    taps: Input,
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

/// Inputs, taps and tail of one convolution after the other.
fn each(inputs: Vec<Primitive>) -> impl Iterator<Item = [Primitive; 3]> {
    let mut inputs = inputs.into_iter();
    std::iter::from_fn(move || Some([inputs.next()?, inputs.next()?, inputs.next()?]))
}

/// A tail `[B, channels, kernel − 1]` with its channels together, as its values lie, and back.
fn turned(tail: Primitive) -> Primitive {
    Flex::float_swap_dims(tail, 1, 2)
}

impl Conv {
    fn new(x: Primitive, weight: Primitive) -> Self {
        let [channels, kernel] = weight.shape().dims();
        let (x, taps) = (Input::new(x), Flex::float_swap_dims(weight, 0, 1));
        let [b, t, _] = x.dims();
        Conv {
            x,
            taps: Input::new(taps),
            nothing: vec![0.0; (kernel - 1) * channels],
            b,
            t,
            sizes: Sizes { channels, kernel },
        }
    }

    /// Values of one row of the batch in `x`.
    fn row_len(&self) -> usize {
        self.t * self.sizes.channels
    }

    /// The inputs of row `b`.
    fn row(&self, b: usize) -> &[f32] {
        &self.x[b * self.row_len()..][..self.row_len()]
    }

    /// The documents of row `b`, the first of which goes on after `before`, each with its place among the row's values.
    fn documents<'a>(
        &'a self,
        b: usize,
        before: &'a [f32],
        borders: &Borders,
    ) -> impl Iterator<Item = (Row<'a>, Piece, Range<usize>)> {
        borders.pieces(b, self.t).map(move |piece| {
            let channels = self.sizes.channels;
            let at = piece.tokens.start * channels..piece.tokens.end * channels;
            let row = Row {
                x: &self.row(b)[at.clone()],
                before: if piece.fresh { &self.nothing } else { before },
                taps: &self.taps,
                sizes: self.sizes,
            };
            (row, piece, at)
        })
    }

    /// How many values of row `b`'s next tail are from before the document that the row ends with.
    fn forgotten(&self, b: usize, borders: &Borders) -> usize {
        let last = borders.pieces(b, self.t).next_back();
        last.filter(|piece| piece.fresh).map_or(0, |piece| {
            let start = piece.tokens.start * self.sizes.channels;
            (start + self.nothing.len()).saturating_sub(self.row_len())
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

/// `silu(conv(x))` of every convolution, then their next tails, written over those that came in where nobody else has a share
/// in them.
pub(super) fn forward(inputs: Vec<Primitive>, borders: &Borders) -> Vec<Primitive> {
    let convs = each(inputs).map(|[x, weight, tail]| {
        let (conv, dtype) = (Conv::new(x, weight), tail.dtype());
        let y = Box::new_uninit_slice(conv.x.len());
        (conv, y, writable(turned(tail)), dtype)
    });
    let mut convs: Vec<_> = convs.collect();
    let values: usize = convs.iter().map(|(conv, ..)| conv.x.len()).sum();
    let rows = convs.iter_mut().flat_map(|(conv, y, tail, _)| {
        let conv = &*conv;
        let y = y.chunks_exact_mut(conv.row_len());
        let tails = slice_mut(tail).chunks_exact_mut(conv.nothing.len());
        y.zip(tails)
            .enumerate()
            .map(move |(b, (y, tail))| (conv, b, y, tail))
    });
    let level = Level::detect();
    let run = |(conv, b, y, tail): (&Conv, usize, &mut [MaybeUninit<f32>], &mut [f32])| {
        let y = zeroed(y);
        for (row, _, at) in conv.documents(b, tail, borders) {
            forward_row(level, row, &mut y[at]);
        }
        let (x, len) = (conv.row(b), tail.len());
        let kept = len.saturating_sub(x.len());
        tail.copy_within(len - kept.., 0);
        tail[kept..].copy_from_slice(&x[x.len() + kept - len..]);
        tail[..conv.forgotten(b, borders)].fill(0.0);
    };
    match values < ALONE {
        true => rows.for_each(run),
        false => rows.collect::<Vec<_>>().into_par_iter().for_each(run),
    }
    let results = convs.into_iter().map(|(conv, y, tail, dtype)| {
        // SAFETY: shapes agree, as `short_conv_silu_each` has seen, so every row was met, and filled with zeros at least.
        let y = unsafe { y.assume_init() }.into_vec();
        (conv.x.like(y), turned(in_dtype(tail, dtype)))
    });
    let (outputs, tails): (Vec<_>, Vec<_>) = results.unzip();
    [outputs, tails].concat()
}

/// Gradients of inputs, taps and tail of every convolution, for those of the results, if any.
pub(super) fn backward(
    inputs: Vec<Primitive>,
    mut grads: Vec<Primitive>,
    borders: &Borders,
) -> Vec<Primitive> {
    let of_tails = grads.split_off(inputs.len() / 3);
    let convs = each(inputs).zip(grads.into_iter().zip(of_tails));
    let all = convs.flat_map(|(inputs, grads)| backward_one(inputs, grads, borders));
    all.collect()
}

fn backward_one(
    [x, weight, tail]: [Primitive; 3],
    (d_y, d_next): (Primitive, Primitive),
    borders: &Borders,
) -> [Primitive; 3] {
    let given = |d: Primitive, like: &Primitive| (!is_none(&d, &like.shape())).then_some(d);
    let (d_y, d_next) = (given(d_y, &x), given(d_next, &tail));
    let (conv, tail, level) = (
        Conv::new(x, weight),
        Input::new(turned(tail)),
        Level::detect(),
    );
    let Sizes { channels, kernel } = conv.sizes;
    let nothing = || {
        tensor(
            vec![0.0; conv.x.len()],
            conv.x.dims::<3>().into(),
            DType::F32,
        )
    };
    let d_y = Input::new(d_y.unwrap_or_else(nothing));
    let d_next = d_next.map(|d_next| Input::new(turned(d_next)));
    let sizes = [conv.row_len(), conv.nothing.len(), conv.taps.len()];
    let [d_x, d_tail, d_taps] = in_pieces(sizes.map(|len| conv.b * len), sizes, |b, grads| {
        let [x, before, taps] = grads;
        let (len, after) = (before.len(), x.len());
        let (tail, d_y) = (&tail[b * len..][..len], &d_y[b * after..][..after]);
        // What came before a document is nothing, and its gradient nobody's.
        let mut nobody = conv.nothing.clone();
        for (row, piece, at) in conv.documents(b, tail, borders) {
            let before = if piece.fresh {
                &mut nobody
            } else {
                &mut *before
            };
            let grads = [&mut x[at.clone()], before, &mut *taps];
            backward_row(level, row, &d_y[at], grads);
        }
        // The next tail is what the tail and the inputs end with.
        let d_next = d_next.as_ref().map_or(&[][..], |d| &d[b * len..][..len]);
        for (i, d) in d_next.iter().enumerate().skip(conv.forgotten(b, borders)) {
            match (after + i).checked_sub(len) {
                Some(at) => x[at] += d,
                None => before[after + i] += d,
            }
        }
    });
    let d_taps = summed(&d_taps, kernel * channels);
    let d_taps = conv.x.result(d_taps, [kernel, channels]);
    [
        conv.x.like(d_x),
        Flex::float_swap_dims(d_taps, 0, 1),
        turned(conv.x.result(d_tail, tail.dims::<3>())),
    ]
}
