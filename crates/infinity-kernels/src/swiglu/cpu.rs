//! SwiGLU's gate on the CPU: one pass forward, one pass back, in pieces over the threads.
//!
//! ```text
//! y = a σ(a) b      da = dy · b · σ(a) (1 + a (1 − σ(a)))      db = dy · a σ(a)
//! ```

use crate::math::exp::exp;
use crate::math::flex_values::{Primitive, single, slice, tensor};
use crate::math::simd::{Level, leveled, multiply_add};
use crate::math::unwritten::unwritten;
use burn::backend::TensorMetadata;
use rayon::prelude::*;

/// Values a thread takes at a time: enough to be worth handing over, little enough for its cache.
const PIECE: usize = 16_384;

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((a, b), y) in gate.iter().zip(up).zip(y) {
        *y = a / (1.0 + exp::<FMA>(-*a)) * b;
    }
}
leveled!(fn forward_piece(gate: &[f32], up: &[f32], y: &mut [f32]) = forward_loop);

/// One piece of the gradients.
pub(crate) struct Grads<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
}

#[inline(always)]
fn backward_loop<const FMA: bool, const ROWS: usize>(
    gate: &[f32],
    up: &[f32],
    d_y: &[f32],
    grads: &mut Grads<'_>,
) {
    let inputs = gate.iter().zip(up).zip(d_y);
    let outputs = grads.gate.iter_mut().zip(grads.up.iter_mut());
    for (((a, b), d), (d_a, d_b)) in inputs.zip(outputs) {
        let sigma = 1.0 / (1.0 + exp::<FMA>(-*a));
        *d_a = d * b * sigma * multiply_add::<FMA>(*a, 1.0 - sigma, 1.0);
        *d_b = d * a * sigma;
    }
}
leveled!(
    fn backward_piece(gate: &[f32], up: &[f32], d_y: &[f32], grads: &mut Grads<'_>) = backward_loop
);

/// `silu(gate) ⊙ up`.
pub(crate) fn forward(gate: Primitive, up: Primitive) -> Primitive {
    let (shape, dtype) = (gate.shape(), gate.dtype());
    let (gate, up) = (single(gate), single(up));
    // SAFETY: the pieces cover all of it, and every value of a piece is written.
    let mut y = unsafe { unwritten(shape.num_elements()) };
    let level = Level::detect();
    y.par_chunks_mut(PIECE)
        .zip(slice(&gate).par_chunks(PIECE))
        .zip(slice(&up).par_chunks(PIECE))
        .for_each(|((y, gate), up)| forward_piece(level, gate, up, y));
    tensor(y, shape, dtype)
}

/// Gradients of `gate` and `up`.
pub(crate) fn backward(gate: Primitive, up: Primitive, d_y: Primitive) -> [Primitive; 2] {
    let (shape, dtype) = (gate.shape(), gate.dtype());
    let (gate, up, d_y) = (single(gate), single(up), single(d_y));
    let len = shape.num_elements();
    // SAFETY: as in `forward`.
    let (mut d_gate, mut d_up) = unsafe { (unwritten(len), unwritten(len)) };
    let level = Level::detect();
    let inputs = slice(&gate)
        .par_chunks(PIECE)
        .zip(slice(&up).par_chunks(PIECE))
        .zip(slice(&d_y).par_chunks(PIECE));
    d_gate
        .par_chunks_mut(PIECE)
        .zip(d_up.par_chunks_mut(PIECE))
        .zip(inputs)
        .for_each(|((d_gate, d_up), ((gate, up), d_y))| {
            let grads = &mut Grads {
                gate: d_gate,
                up: d_up,
            };
            backward_piece(level, gate, up, d_y, grads);
        });
    [
        tensor(d_gate, shape.clone(), dtype),
        tensor(d_up, shape, dtype),
    ]
}
