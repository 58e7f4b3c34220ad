//! Projections of many rows, and their gradients, by instructions that multiply in bf16.

use super::weight::{Values, Weight};
use crate::cpu::bf16::Rounded;
use crate::cpu::product::Left;
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use burn::tensor::Shape;

/// [`forward`](super::cpu::forward) with factors rounded to bf16, and results if it `rounds`.
pub(super) fn forward(level: Level, mut inputs: Vec<Primitive>, rounds: bool) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let ([b, t, width], dtype) = (x.shape().dims(), x.dtype());
    let x = single(x);
    let x = Rounded::new(level, [b * t, width], Left::rows(slice(&x), width));
    let product = |weight: Primitive| {
        let weight = Weight::new(weight);
        let y = match weight.values() {
            Values::Single(w) => x.product(level, weight.out, weight.view(w), rounds),
            Values::Half(w) => x.product(level, weight.out, weight.view(w), rounds),
        };
        tensor(y, Shape::from([b, t, weight.out]), dtype)
    };
    weights.into_iter().map(product).collect()
}

/// [`backward`](super::cpu::backward) with factors, and the input's gradient, rounded to bf16.
pub(super) fn backward(
    level: Level,
    mut inputs: Vec<Primitive>,
    d_y: Vec<Primitive>,
    wanted: &[bool],
) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, shape) = (x.dtype(), x.shape());
    let [b, t, width] = shape.dims();
    let rows = b * t;
    let x = single(x);
    let d_y: Vec<Primitive> = d_y.into_iter().map(single).collect();
    let turned = wanted[1..].contains(&true).then(|| {
        let x = Left::transposed(slice(&x), width);
        Rounded::new(level, [width, rows], x)
    });
    let mut d_x = Vec::new();
    let mut results = Vec::with_capacity(wanted.len());
    for (i, (weight, d_y)) in weights.into_iter().zip(&d_y).enumerate() {
        let [_, out] = weight.shape().dims();
        let d_y = Left::rows(slice(d_y), out);
        if wanted[0] {
            let rounds = i + 2 == wanted.len();
            let d_y = Rounded::new(level, [rows, out], d_y);
            let weight = Weight::new(weight.clone());
            match weight.values() {
                Values::Single(w) => {
                    d_y.add_product(level, width, weight.view(w).turned(), &mut d_x, rounds);
                }
                Values::Half(w) => {
                    d_y.add_product(level, width, weight.view(w).turned(), &mut d_x, rounds);
                }
            }
        }
        results.push(match turned.as_ref().filter(|_| wanted[i + 1]) {
            Some(x) => {
                let d = x.product(level, out, d_y, false);
                tensor(d, weight.shape(), weight.dtype())
            }
            None => weight,
        });
    }
    let d_x = match wanted[0] {
        true => tensor(d_x, shape, dtype),
        false => x,
    };
    std::iter::once(d_x).chain(results).collect()
}
