//! The update on the CPU: one pass, in pieces over the threads.

use super::rule::Factors;
use crate::cpu::results::value_by_value;
use crate::cpu::simd::{Level, leveled};
use crate::cpu::tensors::Primitive;
use std::mem::MaybeUninit;

leveled!(
    /// From weights, gradients and moments to weights and moments. Without fused products on purpose: the bits are those
    /// of separate operations.
    fn update_piece<const FMA: bool, const ROWS: usize>(
        f: Factors,
        before: [&[f32]; 4],
        after: [&mut [MaybeUninit<f32>]; 3],
    ) {
        let ([w, g, m, v], [new_w, new_m, new_v]) = (before, after);
        let inputs = w.iter().zip(g).zip(m).zip(v);
        let outputs = new_w.iter_mut().zip(new_m).zip(new_v);
        for ((((w, g), m), v), ((new_w, new_m), new_v)) in inputs.zip(outputs) {
            let g = g * f.scale;
            let m = m * f.beta1 + g * f.rest[0];
            let v = v * f.beta2 + g * g * f.rest[1];
            let length = (v / f.corrections[1]).sqrt() + f.eps;
            let delta = m / f.corrections[0] / length;
            new_w.write(w * f.kept - delta * f.learning_rate);
            new_m.write(m);
            new_v.write(v);
        }
    }
);

/// Weights and moments after the update.
pub(super) fn update(f: Factors, inputs: [Primitive; 4]) -> [Primitive; 3] {
    let level = Level::detect();
    // SAFETY: the loop writes a value of each result for each of the inputs.
    unsafe {
        value_by_value(inputs, |before, after| {
            update_piece(level, f, before, after)
        })
    }
}
