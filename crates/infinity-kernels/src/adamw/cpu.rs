//! The update on the CPU: one pass, in pieces over the threads.

use super::rule::Factors;
use crate::cpu::results::in_unwritten_pieces;
use crate::cpu::simd::{Level, leveled};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use std::mem::MaybeUninit;

/// Values a thread takes at a time.
const PIECE: usize = 16_384;

/// Some values before the update: weights, gradients, moments.
type Before<'a> = [&'a [f32]; 4];
/// The same after it, without the gradients.
type After<'a> = [&'a mut [MaybeUninit<f32>]; 3];

/// Without fused products on purpose: the bits are those of separate operations.
#[inline(always)]
fn update_loop<const FMA: bool, const ROWS: usize>(
    f: Factors,
    before: Before<'_>,
    after: After<'_>,
) {
    let [w, g, m, v] = before;
    let [new_w, new_m, new_v] = after;
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
leveled!(fn update_piece(f: Factors, before: Before<'_>, after: After<'_>) = update_loop);

/// Weights and moments after the update.
pub(super) fn update(f: Factors, inputs: [Primitive; 4]) -> [Primitive; 3] {
    let (shape, dtype) = (inputs[0].shape(), inputs[0].dtype());
    let inputs = inputs.map(single);
    let before = inputs.each_ref().map(slice);
    let level = Level::detect();
    let len = before[0].len();
    let work = |i, after: After<'_>| {
        let at = i * PIECE..i * PIECE + after[0].len();
        update_piece(level, f, before.map(|values| &values[at.clone()]), after);
    };
    // SAFETY: inputs are as long as their piece of the results, and the loop writes a value of each.
    let results = unsafe { in_unwritten_pieces([len; 3], [PIECE; 3], work) };
    results.map(|values| tensor(values, shape.clone(), dtype))
}
