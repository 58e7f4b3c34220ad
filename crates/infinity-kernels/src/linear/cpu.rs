//! Projections of one input on the CPU, and their gradients: products that read their factors as they
//! are stored. The input's gradient is one sum, to which the product with every weight is added.
//!
//! Few rows have products of their own, in `few_rows.rs`.

use super::few_rows::{Rows, few_rows};
use super::in_bf16;
use super::weight::Weight;
use crate::cpu::gemm::{add_product, product};
use crate::cpu::product::Left;
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Primitive, single, slice, tensor};
use crate::rounding::{Half, Rounding, cpu::rounded, cpu_multiplies};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};

/// Factors with the values of a half format, for products in f32.
fn factors(inputs: Vec<Primitive>, half: Half) -> Vec<Primitive> {
    let factor = |x: Primitive| match x.dtype() == DType::from(half.dtype()) {
        true => x,
        false => rounded(x, half),
    };
    inputs.into_iter().map(factor).collect()
}

/// `x · weight` for `x` `[B, T, D]`, the first of the inputs, and every weight behind it.
pub(crate) fn forward(
    inputs: Vec<Primitive>,
    few: bool,
    rounding: Option<Rounding>,
) -> Vec<Primitive> {
    let level = Level::detect();
    match rounding {
        None => as_they_are(inputs, few),
        Some(rounding) if !few && cpu_multiplies(rounding.half) => {
            in_bf16::forward(level, inputs, rounding.results)
        }
        Some(Rounding { half, results }) => {
            let y = as_they_are(factors(inputs, half), few);
            if results { factors(y, half) } else { y }
        }
    }
}

fn as_they_are(mut inputs: Vec<Primitive>, few: bool) -> Vec<Primitive> {
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

/// Gradients of those inputs of [`forward`] that are `wanted`, given those of every result; the others are
/// returned as they are. With a rounding the factors have it too, and the input's gradient; those of weights are in f32.
pub(crate) fn backward(
    inputs: Vec<Primitive>,
    d_y: Vec<Primitive>,
    wanted: &[bool],
    rounding: Option<Rounding>,
) -> Vec<Primitive> {
    let level = Level::detect();
    match rounding {
        None => gradients(inputs, d_y, wanted),
        Some(rounding) if cpu_multiplies(rounding.half) => {
            in_bf16::backward(level, inputs, d_y, wanted)
        }
        Some(Rounding { half, .. }) => {
            let mut d = gradients(factors(inputs, half), factors(d_y, half), wanted);
            let d_x = d.remove(0);
            factors(vec![d_x], half).into_iter().chain(d).collect()
        }
    }
}

fn gradients(mut inputs: Vec<Primitive>, d_y: Vec<Primitive>, wanted: &[bool]) -> Vec<Primitive> {
    let weights = inputs.split_off(1);
    let x = inputs.remove(0);
    let (dtype, shape) = (x.dtype(), x.shape());
    let [b, t, width] = shape.dims();
    let rows = b * t;
    let x = single(x);
    let d_y: Vec<Primitive> = d_y.into_iter().map(single).collect();
    let turned = Left::transposed(slice(&x), width);
    let d_weight = |((weight, d_y), wanted): ((&Primitive, &Primitive), &bool)| {
        if !wanted {
            return weight.clone();
        }
        let [_, out] = weight.shape().dims();
        let d = product([width, out, rows], turned, Left::rows(slice(d_y), out));
        tensor(d, weight.shape(), weight.dtype())
    };
    let each = weights.iter().zip(&d_y).zip(&wanted[1..]);
    let d_weights: Vec<_> = each.map(d_weight).collect();
    if !wanted[0] {
        return std::iter::once(x).chain(d_weights).collect();
    }
    let weights: Vec<Weight> = weights.into_iter().map(Weight::new).collect();
    let mut d_x = Vec::new();
    for (weight, d_y) in weights.iter().zip(&d_y) {
        for part in weight.parts() {
            let size = [rows, width, part.columns.len()];
            let d_y = Left::rows(&slice(d_y)[part.columns.start..], weight.out);
            match d_x.is_empty() {
                true => d_x = product(size, d_y, part.view().turned()),
                false => add_product(size, d_y, part.view().turned(), &mut d_x),
            }
        }
    }
    std::iter::once(tensor(d_x, shape, dtype))
        .chain(d_weights)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nobody wants is not computed: it comes back as it went in.
    #[test]
    fn only_what_is_wanted_is_computed() {
        let of = |value: f32, shape: &[usize]| {
            let values = vec![value; shape.iter().product()];
            tensor(
                values,
                Shape::from(shape.to_vec()),
                burn::tensor::DType::F32,
            )
        };
        let gradients = |wanted: &[bool]| {
            let inputs = vec![of(2.0, &[1, 3, 4]), of(5.0, &[4, 2])];
            let all = backward(inputs, vec![of(1.0, &[1, 3, 2])], wanted, None);
            all.iter().map(|d| slice(d)[0]).collect::<Vec<_>>()
        };
        assert_eq!(gradients(&[true, true]), [10.0, 6.0]);
        assert_eq!(gradients(&[true, false]), [10.0, 5.0]);
        assert_eq!(gradients(&[false, true]), [2.0, 6.0]);
    }
}
