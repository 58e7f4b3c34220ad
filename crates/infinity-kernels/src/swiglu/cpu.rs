//! SwiGLU's gate on the CPU: one pass forward, one pass back, in pieces over the threads.
//!
//! ```text
//! y = a σ(a) b      da = dy · b · σ(a) (1 + a (1 − σ(a)))      db = dy · a σ(a)
//! ```

use crate::cpu::exp::exp;
use crate::cpu::results::in_unwritten_pieces;
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use std::mem::MaybeUninit;

/// Values a thread takes at a time: enough to be worth handing over, little enough for its cache.
const PIECE: usize = 16_384;

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(
    gate: &[f32],
    up: &[f32],
    y: &mut [MaybeUninit<f32>],
) {
    for ((a, b), y) in gate.iter().zip(up).zip(y) {
        y.write(a / (1.0 + exp::<FMA>(-*a)) * b);
    }
}
leveled!(
    fn forward_piece(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) = forward_loop
);

/// One piece of the gradients.
pub(crate) struct Grads<'a> {
    gate: &'a mut [MaybeUninit<f32>],
    up: &'a mut [MaybeUninit<f32>],
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
        d_a.write(d * b * sigma * multiply_add::<FMA>(*a, 1.0 - sigma, 1.0));
        d_b.write(d * a * sigma);
    }
}
leveled!(
    fn backward_piece(gate: &[f32], up: &[f32], d_y: &[f32], grads: &mut Grads<'_>) = backward_loop
);

/// `silu(gate) ⊙ up`.
pub(crate) fn forward(gate: Primitive, up: Primitive) -> Primitive {
    let (shape, dtype) = (gate.shape(), gate.dtype());
    let (gate, up) = (single(gate), single(up));
    let (gate, up) = (slice(&gate), slice(&up));
    let level = Level::detect();
    let work = |i, [y]: [&mut [MaybeUninit<f32>]; 1]| {
        let at = i * PIECE..i * PIECE + y.len();
        forward_piece(level, &gate[at.clone()], &up[at], y);
    };
    // SAFETY: inputs are as long as their piece of the result, and the loop writes a value for each.
    let [y] = unsafe { in_unwritten_pieces([gate.len()], [PIECE], work) };
    tensor(y, shape, dtype)
}

/// Gradients of `gate` and `up`.
pub(crate) fn backward(gate: Primitive, up: Primitive, d_y: Primitive) -> [Primitive; 2] {
    let (shape, dtype) = (gate.shape(), gate.dtype());
    let (gate, up, d_y) = (single(gate), single(up), single(d_y));
    let (gate, up, d_y) = (slice(&gate), slice(&up), slice(&d_y));
    let level = Level::detect();
    let work = |i, [d_gate, d_up]: [&mut [MaybeUninit<f32>]; 2]| {
        let at = i * PIECE..i * PIECE + d_gate.len();
        let grads = &mut Grads {
            gate: d_gate,
            up: d_up,
        };
        backward_piece(level, &gate[at.clone()], &up[at.clone()], &d_y[at], grads);
    };
    // SAFETY: as in `forward`.
    let [d_gate, d_up] = unsafe { in_unwritten_pieces([gate.len(); 2], [PIECE; 2], work) };
    [
        tensor(d_gate, shape.clone(), dtype),
        tensor(d_up, shape, dtype),
    ]
}
