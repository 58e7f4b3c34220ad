//! The norm on the CPU: one pass forward, one pass back, rows in pieces over the threads.
//!
//! The weight's gradient is summed within a piece and then over the pieces in their order, and a
//! piece has the same rows whatever the number of threads: two runs give the same bits.

use super::rule::{GateAct, RmsNorm};
use crate::cpu::exp::exp;
use crate::cpu::results::{in_pieces, in_unwritten_pieces};
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use std::mem::MaybeUninit;

/// Values a thread takes at a time.
const PIECE: usize = 8_192;

/// Some rows, and what all of them share.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    x: &'a [f32],
    gate: Option<&'a [f32]>,
    weight: &'a [f32],
    act: GateAct,
    eps: f32,
}

impl Rows<'_> {
    /// One over the root mean square of a row.
    #[inline(always)]
    fn inverse<const FMA: bool>(&self, row: &[f32]) -> f32 {
        1.0 / (dot::<FMA>(row, row) / row.len() as f32 + self.eps).sqrt()
    }
}

#[inline(always)]
fn forward_loop<const FMA: bool, const ROWS: usize>(rows: Rows<'_>, y: &mut [MaybeUninit<f32>]) {
    let width = rows.weight.len();
    for (i, y) in y.chunks_exact_mut(width).enumerate() {
        let x = &rows.x[i * width..][..width];
        let r = rows.inverse::<FMA>(x);
        let values = y.iter_mut().zip(x).zip(rows.weight);
        match (rows.gate.map(|gate| &gate[i * width..][..width]), rows.act) {
            (None, _) => {
                for ((y, x), w) in values {
                    y.write(x * r * w);
                }
            }
            (Some(gate), GateAct::Sigmoid) => {
                for (((y, x), w), g) in values.zip(gate) {
                    y.write(x * r * w / (1.0 + exp::<FMA>(-*g)));
                }
            }
            (Some(gate), GateAct::Silu) => {
                for (((y, x), w), g) in values.zip(gate) {
                    y.write(x * r * w * g / (1.0 + exp::<FMA>(-*g)));
                }
            }
        }
    }
}
leveled!(fn forward_rows(rows: Rows<'_>, y: &mut [MaybeUninit<f32>]) = forward_loop);

/// Gradients of some rows; that of the weight is added to.
pub(crate) struct RowGrads<'a> {
    x: &'a mut [f32],
    gate: Option<&'a mut [f32]>,
    weight: &'a mut [f32],
}

#[inline(always)]
fn backward_loop<const FMA: bool, const ROWS: usize>(
    rows: Rows<'_>,
    d_y: &[f32],
    grads: &mut RowGrads<'_>,
) {
    let width = rows.weight.len();
    let mut weighted = vec![0f32; width];
    for (i, d_y) in d_y.chunks_exact(width).enumerate() {
        let at = i * width..(i + 1) * width;
        let (x, d_x) = (&rows.x[at.clone()], &mut grads.x[at.clone()]);
        let r = rows.inverse::<FMA>(x);
        match (rows.gate, &mut grads.gate) {
            (Some(gate), Some(d_gate)) => {
                let inputs = d_y.iter().zip(x).zip(&gate[at.clone()]).zip(rows.weight);
                let outputs = d_gate[at].iter_mut().zip(d_x.iter_mut());
                let silu = rows.act == GateAct::Silu;
                for ((((d, x), g), w), (d_gate, through)) in inputs.zip(outputs) {
                    let sigma = 1.0 / (1.0 + exp::<FMA>(-*g));
                    *through = d * sigma;
                    if silu {
                        *d_gate = *through * (1.0 + g * (1.0 - sigma)) * x * r * w;
                        *through *= g;
                    } else {
                        *d_gate = *through * (1.0 - sigma) * x * r * w;
                    }
                }
            }
            _ => d_x.copy_from_slice(d_y),
        }
        for ((weighted, w), x) in weighted.iter_mut().zip(rows.weight).zip(x) {
            *weighted = w * x;
        }
        let mean = dot::<FMA>(&weighted, d_x) / width as f32;
        let back = -mean * r * r * r;
        let values = d_x.iter_mut().zip(grads.weight.iter_mut());
        for ((x, w), (d, d_weight)) in x.iter().zip(rows.weight).zip(values) {
            *d_weight = multiply_add::<FMA>(*d * r, *x, *d_weight);
            *d = multiply_add::<FMA>(back, *x, *d * r * w);
        }
    }
}
leveled!(
    fn backward_rows(rows: Rows<'_>, d_y: &[f32], grads: &mut RowGrads<'_>) = backward_loop
);

/// Values of a piece: whole rows, as many as fit.
fn piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1) * width.max(1)
}

/// Inputs, weight and gate, if there is one.
fn named(inputs: Vec<Primitive>) -> (Primitive, Primitive, Option<Primitive>) {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("two or three inputs");
    (next(), next(), inputs.next())
}

/// `rms_norm(x)`, gated where there is a gate.
pub(super) fn forward(inputs: Vec<Primitive>, rule: RmsNorm) -> Primitive {
    let (x, weight, gate) = named(inputs);
    let (shape, dtype) = (x.shape(), x.dtype());
    let (x, weight, gate) = (single(x), single(weight), gate.map(single));
    let (x, weight, gate) = (slice(&x), slice(&weight), gate.as_ref().map(slice));
    let piece = piece(weight.len());
    let level = Level::detect();
    assert_eq!(x.len() % weight.len(), 0, "whole rows");
    let work = |i, [y]: [&mut [MaybeUninit<f32>]; 1]| {
        let at = i * piece..i * piece + y.len();
        let rows = Rows {
            x: &x[at.clone()],
            gate: gate.map(|gate| &gate[at]),
            weight,
            act: rule.act,
            eps: rule.eps,
        };
        forward_rows(level, rows, y);
    };
    // SAFETY: pieces are whole rows, and the loop writes all of each.
    let [y] = unsafe { in_unwritten_pieces([x.len()], [piece], work) };
    tensor(y, shape, dtype)
}

/// Gradients of inputs, weight and gate.
pub(super) fn backward(inputs: Vec<Primitive>, d_y: Primitive, rule: RmsNorm) -> Vec<Primitive> {
    let RmsNorm { eps, act } = rule;
    let (x, weight, gate) = named(inputs);
    let (shape, dtype) = (x.shape(), x.dtype());
    let (weight_shape, weight_dtype) = (weight.shape(), weight.dtype());
    let (x, weight, d_y, gate) = (single(x), single(weight), single(d_y), gate.map(single));
    let (x, weight, d_y) = (slice(&x), slice(&weight), slice(&d_y));
    let gate = gate.as_ref().map(slice);
    let (width, piece) = (weight.len(), piece(weight.len()));
    let level = Level::detect();
    let d_gates = gate.map_or(0, <[f32]>::len);
    let partial = x.len().div_ceil(piece) * width;
    let [d_x, d_gate, partial] = in_pieces(
        [x.len(), d_gates, partial],
        [piece, piece, width],
        |i, [d_x, d_gate, d_weight]| {
            let at = i * piece..i * piece + d_x.len();
            let rows = Rows {
                x: &x[at.clone()],
                gate: gate.map(|gate| &gate[at.clone()]),
                weight,
                act,
                eps,
            };
            let grads = &mut RowGrads {
                x: d_x,
                gate: gate.map(|_| d_gate),
                weight: d_weight,
            };
            backward_rows(level, rows, &d_y[at], grads);
        },
    );
    let mut d_weight = vec![0f32; width];
    for partial in partial.chunks_exact(width.max(1)) {
        d_weight
            .iter_mut()
            .zip(partial)
            .for_each(|(sum, d)| *sum += d);
    }
    let mut grads = vec![
        tensor(d_x, shape.clone(), dtype),
        tensor(d_weight, weight_shape, weight_dtype),
    ];
    grads.extend(gate.map(|_| tensor(d_gate, shape, dtype)));
    grads
}
