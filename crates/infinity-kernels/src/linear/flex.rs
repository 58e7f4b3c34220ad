//! Projections of one input on the CPU, and their gradients: products that read their factors as they
//! are stored.
//!
//! The input's gradient is one sum over all weights, which stays in cache until it is whole, instead of
//! as many results that are added up afterwards.

use super::weight::Weight;
use super::{FEW_ROWS, few_rows};
use crate::cpu::gemm::{Columns, Term, joined_products, products, sum_of_products};
use crate::cpu::product::Left;
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use burn::backend::TensorMetadata;
use burn::tensor::Shape;

/// `x · weight` for `x` `[B, T, D]` and every weight, one behind the other.
pub(crate) fn forward(x: Primitive, weights: Vec<Primitive>) -> Primitive {
    let (dtype, [b, t, _]) = (x.dtype(), x.shape().dims());
    let x = single(x);
    let y = match b * t <= FEW_ROWS {
        true => few_rows::projections(&x, &weights).concat(),
        false => many_rows(&x, weights),
    };
    let len = Shape::from([y.len()]);
    tensor(y, len, dtype)
}

fn many_rows(x: &Primitive, weights: Vec<Primitive>) -> Vec<f32> {
    let [b, t, width] = x.shape().dims();
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let columns = |weight| Columns {
        data: Weight::view(weight),
        n: weight.out,
    };
    let rights: Vec<Columns> = weights.iter().map(columns).collect();
    joined_products([b * t, width], Left::rows(slice(x), width), &rights)
}

/// Gradients of `x` and of every weight, given those of every result.
pub(crate) fn backward(
    x: Primitive,
    weights: Vec<Primitive>,
    d_y: Vec<Primitive>,
) -> (Primitive, Vec<Primitive>) {
    let (dtype, shape) = (x.dtype(), x.shape());
    let [b, t, width] = shape.dims();
    let rows = b * t;
    let x = single(x);
    let d_y: Vec<Primitive> = d_y.into_iter().map(single).collect();
    let columns = |(weight, d_y)| {
        let [_, n] = Primitive::shape(weight).dims();
        let data = Left::rows(slice(d_y), n);
        Columns { data, n }
    };
    let rights: Vec<Columns> = weights.iter().zip(&d_y).map(columns).collect();
    let d_weights = products([width, rows], Left::transposed(slice(&x), width), &rights);
    let d_weights = d_weights.into_iter().zip(&weights);
    let d_weights = d_weights
        .map(|(d, weight)| tensor(d, weight.shape(), weight.dtype()))
        .collect();
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let terms = weights.iter().zip(&d_y).map(|(weight, d_y)| Term {
        left: Left::rows(slice(d_y), weight.out),
        right: weight.transposed(),
        k: weight.out,
    });
    let d_x = sum_of_products([rows, width], &terms.collect::<Vec<_>>());
    (tensor(d_x, shape, dtype), d_weights)
}
