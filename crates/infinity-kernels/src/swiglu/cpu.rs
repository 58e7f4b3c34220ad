//! SwiGLU's gate on the CPU: one pass forward, one pass back, in pieces over the threads.
//!
//! ```text
//! y = a σ(a) b      da = dy · b · σ(a) (1 + a (1 − σ(a)))      db = dy · a σ(a)
//! ```

use crate::cpu::exp::exp;
use crate::cpu::results::in_pieces;
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;

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
    let (gate, up) = (slice(&gate), slice(&up));
    let level = Level::detect();
    let [y] = in_pieces([gate.len()], [PIECE], |i, [y]| {
        let at = i * PIECE..i * PIECE + y.len();
        forward_piece(level, &gate[at.clone()], &up[at], y);
    });
    tensor(y, shape, dtype)
}

/// Gradients of `gate` and `up`.
pub(crate) fn backward(gate: Primitive, up: Primitive, d_y: Primitive) -> [Primitive; 2] {
    let (shape, dtype) = (gate.shape(), gate.dtype());
    let (gate, up, d_y) = (single(gate), single(up), single(d_y));
    let (gate, up, d_y) = (slice(&gate), slice(&up), slice(&d_y));
    let level = Level::detect();
    let [d_gate, d_up] = in_pieces([gate.len(); 2], [PIECE; 2], |i, [d_gate, d_up]| {
        let at = i * PIECE..i * PIECE + d_gate.len();
        let grads = &mut Grads {
            gate: d_gate,
            up: d_up,
        };
        backward_piece(level, &gate[at.clone()], &up[at.clone()], &d_y[at], grads);
    });
    [
        tensor(d_gate, shape.clone(), dtype),
        tensor(d_up, shape, dtype),
    ]
}
