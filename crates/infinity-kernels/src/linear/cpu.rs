//! Projections of one input on the CPU, and their gradients: products that read their factors as they
//! are stored. The input's gradient is one sum, to which the product with every weight is added.
//!
//! Few rows have products of their own, in `few_rows.rs`.

use super::few_rows::{Rows, few_rows};
use super::weight::Weight;
use crate::cpu::gemm::{Term, product, sum_of_products};
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
    let x = Left::rows(slice(x), width);
    let each = weights.iter();
    each.map(|weight| product([b * t, weight.out, width], x, weight.view()))
        .collect()
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
    let terms = weights.iter().zip(&d_y).map(|(weight, d_y)| Term {
        left: Left::rows(slice(d_y), weight.out),
        right: weight.transposed(),
        k: weight.out,
    });
    let d_x = sum_of_products([rows, width], &terms.collect::<Vec<_>>());
    let d_weights = d_weights.into_iter().zip(likes);
    let d_weights = d_weights.map(|(d, (shape, dtype))| tensor(d, shape, dtype));
    std::iter::once(tensor(d_x, shape, dtype))
        .chain(d_weights)
        .collect()
}
