//! SwiGLU's gate on the CPU: one pass forward, one pass back, in pieces over the threads.
//!
//! ```text
//! y = a σ(a) b      da = dy · b · σ(a) (1 + a (1 − σ(a)))      db = dy · a σ(a)
//! ```

use crate::cpu::exp::exp;
use crate::cpu::results::value_by_value;
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::Primitive;
use std::mem::MaybeUninit;

leveled!(
    fn forward_piece<const FMA: bool, const ROWS: usize>(
        gate: &[f32],
        up: &[f32],
        y: &mut [MaybeUninit<f32>],
    ) {
        for ((a, b), y) in gate.iter().zip(up).zip(y) {
            y.write(a / (1.0 + exp::<FMA>(-*a)) * b);
        }
    }
);

leveled!(
    fn backward_piece<const FMA: bool, const ROWS: usize>(
        gate: &[f32],
        up: &[f32],
        d_y: &[f32],
        d_gate: &mut [MaybeUninit<f32>],
        d_up: &mut [MaybeUninit<f32>],
    ) {
        let inputs = gate.iter().zip(up).zip(d_y);
        for (((a, b), d), (d_a, d_b)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
            let sigma = 1.0 / (1.0 + exp::<FMA>(-*a));
            d_a.write(d * b * sigma * multiply_add::<FMA>(*a, 1.0 - sigma, 1.0));
            d_b.write(d * a * sigma);
        }
    }
);

/// `silu(gate) ⊙ up`.
pub(crate) fn forward(inputs: [Primitive; 2]) -> [Primitive; 1] {
    let level = Level::detect();
    // SAFETY: the loop writes a value for each of the inputs.
    unsafe { value_by_value(inputs, |[gate, up], [y]| forward_piece(level, gate, up, y)) }
}

/// Gradients of `gate` and `up`, for these and the gradient of the result.
pub(crate) fn backward(inputs: [Primitive; 3]) -> [Primitive; 2] {
    let level = Level::detect();
    let work = |[gate, up, d_y]: [&[f32]; 3], [d_gate, d_up]: [&mut [MaybeUninit<f32>]; 2]| {
        backward_piece(level, gate, up, d_y, d_gate, d_up);
    };
    // SAFETY: as in `forward`.
    unsafe { value_by_value(inputs, work) }
}
