//! The norm on the CPU: one pass forward, one pass back, rows in pieces over the threads.
//!
//! The weight's gradient is summed within a piece and then over the pieces in their order, and a
//! piece has the same rows whatever the number of threads: two runs give the same bits.

use super::rule::{GateAct, RmsNorm};
use crate::cpu::exp::exp;
use crate::cpu::results::{in_pieces, in_unwritten_pieces, summed};
use crate::cpu::simd::{Level, dot, leveled, multiply_add};
use crate::cpu::tensors::{Input, Primitive};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values a thread takes at a time.
const PIECE: usize = 8_192;

/// Rows, and what all of them share.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    gate: Option<&'a [f32]>,
    rule: RmsNorm,
}

impl<'a> Rows<'a> {
    /// All of inputs, weight and gate, if there is one.
    fn new(inputs: &'a [Input], rule: RmsNorm) -> Self {
        let [x, weight, ..] = inputs else {
            unreachable!("two or three inputs");
        };
        assert_eq!(x.len() % weight.len(), 0, "whole rows");
        let gate = inputs.get(2).map(|gate| &gate[..]);
        Rows {
            x,
            weight,
            gate,
            rule,
        }
    }

    /// Values of a piece: whole rows, as many as fit.
    fn piece(&self) -> usize {
        (PIECE / self.weight.len()).max(1) * self.weight.len()
    }

    /// Those of some values.
    fn part(&self, at: Range<usize>) -> Self {
        Rows {
            x: &self.x[at.clone()],
            gate: self.gate.map(|gate| &gate[at]),
            ..*self
        }
    }

    /// One over the root mean square of a row.
    #[inline(always)]
    fn inverse<const FMA: bool>(&self, row: &[f32]) -> f32 {
        1.0 / (dot::<FMA>(row, row) / row.len() as f32 + self.rule.eps).sqrt()
    }
}

leveled!(
    fn forward_rows<const FMA: bool, const ROWS: usize>(
        rows: Rows<'_>,
        y: &mut [MaybeUninit<f32>],
    ) {
        let width = rows.weight.len();
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let x = &rows.x[i * width..][..width];
            let r = rows.inverse::<FMA>(x);
            let values = y.iter_mut().zip(x).zip(rows.weight);
            let gate = rows.gate.map(|gate| &gate[i * width..][..width]);
            match (gate, rows.rule.act) {
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
);

leveled!(
    /// Gradients of inputs, gate and weight; that of the weight is added to.
    fn backward_rows<const FMA: bool, const ROWS: usize>(
        rows: Rows<'_>,
        d_y: &[f32],
        grads: [&mut [f32]; 3],
    ) {
        let [all_d_x, d_gate, d_weight] = grads;
        let width = rows.weight.len();
        let mut weighted = vec![0f32; width];
        for (i, d_y) in d_y.chunks_exact(width).enumerate() {
            let at = i * width..(i + 1) * width;
            let (x, d_x) = (&rows.x[at.clone()], &mut all_d_x[at.clone()]);
            let r = rows.inverse::<FMA>(x);
            match rows.gate {
                Some(gate) => {
                    let inputs = d_y.iter().zip(x).zip(&gate[at.clone()]).zip(rows.weight);
                    let outputs = d_gate[at].iter_mut().zip(d_x.iter_mut());
                    let silu = rows.rule.act == GateAct::Silu;
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
                None => d_x.copy_from_slice(d_y),
            }
            for ((weighted, w), x) in weighted.iter_mut().zip(rows.weight).zip(x) {
                *weighted = w * x;
            }
            let mean = dot::<FMA>(&weighted, d_x) / width as f32;
            let back = -mean * r * r * r;
            let values = d_x.iter_mut().zip(d_weight.iter_mut());
            for ((x, w), (d, d_weight)) in x.iter().zip(rows.weight).zip(values) {
                *d_weight = multiply_add::<FMA>(*d * r, *x, *d_weight);
                *d = multiply_add::<FMA>(back, *x, *d * r * w);
            }
        }
    }
);

/// `rms_norm(x)`, gated where there is a gate.
pub(super) fn forward(inputs: Vec<Primitive>, rule: RmsNorm) -> Primitive {
    let inputs: Vec<Input> = inputs.into_iter().map(Input::new).collect();
    let all = Rows::new(&inputs, rule);
    let (piece, level) = (all.piece(), Level::detect());
    let work = |i, [y]: [&mut [MaybeUninit<f32>]; 1]| {
        forward_rows(level, all.part(i * piece..i * piece + y.len()), y);
    };
    // SAFETY: pieces are whole rows, and the loop writes all of each.
    let [y] = unsafe { in_unwritten_pieces([all.x.len()], [piece], work) };
    inputs[0].like(y)
}

/// Gradients of inputs, weight and gate.
pub(super) fn backward(inputs: Vec<Primitive>, d_y: Primitive, rule: RmsNorm) -> Vec<Primitive> {
    let inputs: Vec<Input> = inputs.into_iter().map(Input::new).collect();
    let d_y = Input::new(d_y);
    let all = Rows::new(&inputs, rule);
    let (len, piece, width, level) = (all.x.len(), all.piece(), all.weight.len(), Level::detect());
    let lens = [
        len,
        all.gate.map_or(0, <[f32]>::len),
        len.div_ceil(piece) * width,
    ];
    let [d_x, d_gate, partial] = in_pieces(lens, [piece, piece, width], |i, grads| {
        let at = i * piece..i * piece + grads[0].len();
        backward_rows(level, all.part(at.clone()), &d_y[at], grads);
    });
    let grads = [d_x, summed(&partial, width), d_gate];
    let grads = inputs.iter().zip(grads);
    grads.map(|(input, d)| input.like(d)).collect()
}
