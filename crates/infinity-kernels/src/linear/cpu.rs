//! Projections of one input on the CPU, and their gradients: products that read their factors as they
//! are stored. The input's gradient is one sum, to which the product with every weight is added.
//!
//! Few rows have products of their own, in `few_rows.rs`.

use super::few_rows::{Rows, few_rows};
use super::weight::Weight;
use crate::cpu::gemm::{Term, add_product, product, sum_of_products};
use crate::cpu::product::Left;
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use burn::tensor::Shape;

/// `x · weight` for `x` `[B, T, D]`, the first of the inputs, and every weight behind it.
pub(crate) fn forward(mut inputs: Vec<Primitive>, few: bool) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, [b, t, _]) = (x.dtype(), x.shape().dims());
    let outputs: Vec<[usize; 3]> = weights
        .iter()
        .map(|weight| [b, t, weight.shape().dims::<2>()[1]])
        .collect();
    let (width, x) = (x.shape().dims::<3>()[2], single(x));
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let results = match few {
        true => few_rows(Level::detect(), &Rows::new(slice(&x), width), &weights),
        false => many_rows(&x, &weights),
    };
    let results = results.into_iter().zip(outputs);
    results
        .map(|(y, shape)| tensor(y, Shape::from(shape), dtype))
        .collect()
}

fn many_rows(x: &Primitive, weights: &[Weight]) -> Vec<Vec<f32>> {
    let [b, t, width] = x.shape().dims();
    let (rows, x) = (b * t, Left::rows(slice(x), width));
    let by_parts = |weight: &Weight| {
        let mut y = Vec::new();
        for part in weight.parts() {
            let columns = part.columns.clone();
            let of_part = product([rows, columns.len(), width], x, part.view());
            if columns.len() == weight.out {
                return of_part;
            }
            y.resize(rows * weight.out, 0.0);
            let of_part = of_part.chunks_exact(columns.len());
            for (y, of_part) in y.chunks_exact_mut(weight.out).zip(of_part) {
                y[columns.clone()].copy_from_slice(of_part);
            }
        }
        y
    };
    weights.iter().map(by_parts).collect()
}

/// Gradients of the inputs of [`forward`], given those of every result.
pub(crate) fn backward(mut inputs: Vec<Primitive>, d_y: Vec<Primitive>) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, shape) = (x.dtype(), x.shape());
    let [b, t, width] = shape.dims();
    let rows = b * t;
    let x = single(x);
    let d_y: Vec<Primitive> = d_y.into_iter().map(single).collect();
    let turned = Left::transposed(slice(&x), width);
    let d_weight = |(weight, d_y): (&Primitive, &Primitive)| {
        let [_, out] = weight.shape().dims();
        product([width, out, rows], turned, Left::rows(slice(d_y), out))
    };
    let d_weights: Vec<_> = weights.iter().zip(&d_y).map(d_weight).collect();
    let like = |weight: &Primitive| (weight.shape(), weight.dtype());
    let likes: Vec<_> = weights.iter().map(like).collect();
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let mut d_x = Vec::new();
    for (weight, d_y) in weights.iter().zip(&d_y) {
        for part in weight.parts() {
            let term = Term {
                left: Left::rows(&slice(d_y)[part.columns.start..], weight.out),
                right: part.transposed(),
                k: part.columns.len(),
            };
            match d_x.is_empty() {
                true => d_x = sum_of_products([rows, width], &[term]),
                false => add_product([rows, width], &term, &mut d_x),
            }
        }
    }
    let d_weights = d_weights.into_iter().zip(likes);
    let d_weights = d_weights.map(|(d, (shape, dtype))| tensor(d, shape, dtype));
    std::iter::once(tensor(d_x, shape, dtype))
        .chain(d_weights)
        .collect()
}
