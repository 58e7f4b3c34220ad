//! Projections of one input on the CPU, and their gradients: products that read their factors as they are stored, in f32
//! or by instructions that multiply in bf16. The input's gradient is one sum, to which the product with every weight is
//! added.
//!
//! Few rows have products of their own, in `few_rows.rs`.

use super::few_rows::{Rows, few_rows};
use super::weight::{Values, Weight};
use crate::cpu::bf16::Rounded;
use crate::cpu::gemm::{add_product, product};
use crate::cpu::product::Left;
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Input, Primitive, tensor};
use crate::rounding::{Half, Rounding, cpu::rounded, cpu_multiplies};
use burn::backend::TensorMetadata;
use burn::tensor::DType;

/// A factor on the left, `[rows, depth]`.
enum Factor<'a> {
    Single([usize; 2], Left<'a>),
    /// Whose products round the factor on the right, too.
    InBf16(Level, Rounded),
}

impl<'a> Factor<'a> {
    fn new(in_bf16: bool, size: [usize; 2], x: Left<'a>) -> Self {
        let level = Level::detect();
        match in_bf16 {
            true => Factor::InBf16(level, Rounded::new(level, size, x)),
            false => Factor::Single(size, x),
        }
    }

    /// Times `right` `[depth, n]`.
    fn times(&self, n: usize, right: Left<'_>) -> Vec<f32> {
        match self {
            Factor::Single([rows, depth], left) => product([*rows, n, *depth], *left, right),
            Factor::InBf16(level, left) => left.product(*level, n, right, false),
        }
    }

    /// Times a weight; in bf16 the result may be rounded.
    fn times_weight(&self, weight: &Weight, rounds: bool) -> Vec<f32> {
        let ([rows, width], x) = match self {
            Factor::InBf16(level, x) => {
                return match weight.values() {
                    Values::Single(w) => x.product(*level, weight.out, weight.view(w), rounds),
                    Values::Half(w) => x.product(*level, weight.out, weight.view(w), rounds),
                };
            }
            Factor::Single(size, x) => (*size, *x),
        };
        let mut y = Vec::new();
        weight.in_parts(|columns, part| {
            let of_part = product([rows, columns.len(), width], x, part);
            if columns.len() == weight.out {
                y = of_part;
                return;
            }
            y.resize(rows * weight.out, 0.0);
            let of_part = of_part.chunks_exact(columns.len());
            for (y, of_part) in y.chunks_exact_mut(weight.out).zip(of_part) {
                y[columns.clone()].copy_from_slice(of_part);
            }
        });
        y
    }

    /// Adds the product with the transpose of a weight to `out`, or makes it of that where it is empty; in bf16 the sum may
    /// be rounded.
    fn add_times_turned(&self, weight: &Weight, out: &mut Vec<f32>, rounds: bool) {
        let width = weight.width;
        match (self, weight.values()) {
            (Factor::InBf16(level, d_y), Values::Single(w)) => {
                d_y.add_product(*level, width, weight.view(w).turned(), out, rounds);
            }
            (Factor::InBf16(level, d_y), Values::Half(w)) => {
                d_y.add_product(*level, width, weight.view(w).turned(), out, rounds);
            }
            (Factor::Single([rows, _], d_y), _) => {
                weight.in_parts(|columns, part| {
                    let size = [*rows, width, columns.len()];
                    let d_y = Left::rows(&d_y.data[columns.start..], weight.out);
                    match out.is_empty() {
                        true => *out = product(size, d_y, part.turned()),
                        false => add_product(size, d_y, part.turned(), out),
                    }
                });
            }
        }
    }
}

/// Values of a half format, if there is one, for products in f32.
fn factors(inputs: Vec<Primitive>, half: Option<Half>) -> Vec<Primitive> {
    let factor = |x: Primitive| match half {
        Some(half) if x.dtype() != DType::from(half.dtype()) => rounded(x, half),
        _ => x,
    };
    inputs.into_iter().map(factor).collect()
}

/// `x · weight` for `x` `[B, T, D]`, the first of the inputs, and every weight behind it.
pub(crate) fn forward(
    inputs: Vec<Primitive>,
    few: bool,
    rounding: Option<Rounding>,
) -> Vec<Primitive> {
    let in_bf16 = !few && rounding.is_some_and(|it| cpu_multiplies(it.half));
    let before = rounding.filter(|_| !in_bf16);
    let mut inputs = factors(inputs, before.map(|it| it.half));
    let weights: Vec<Weight> = inputs.split_off(1).into_iter().map(Weight::new).collect();
    let x = Input::new(inputs.remove(0));
    let [b, t, width] = x.dims();
    let results = match few {
        true => few_rows(Level::detect(), &Rows::new(&x, width), &weights),
        false => {
            let x = Factor::new(in_bf16, [b * t, width], Left::rows(&x, width));
            let rounds = rounding.is_some_and(|it| it.results);
            let weights = weights.iter();
            weights
                .map(|weight| x.times_weight(weight, rounds))
                .collect()
        }
    };
    let results = results.into_iter().zip(&weights);
    let results = results.map(|(y, weight)| x.result(y, [b, t, weight.out]));
    let after = before.filter(|it| it.results);
    factors(results.collect(), after.map(|it| it.half))
}

/// Gradients of those inputs of [`forward`] that are `wanted`, given those of every result; the others are
/// returned as they are. With a rounding the factors have it too, and the input's gradient; those of weights are in f32.
pub(crate) fn backward(
    inputs: Vec<Primitive>,
    d_y: Vec<Primitive>,
    wanted: &[bool],
    rounding: Option<Rounding>,
) -> Vec<Primitive> {
    let in_bf16 = rounding.is_some_and(|it| cpu_multiplies(it.half));
    let half = rounding.filter(|_| !in_bf16).map(|it| it.half);
    let [mut inputs, d_y] = [inputs, d_y].map(|all| factors(all, half));
    let weights = inputs.split_off(1);
    let d_y: Vec<Input> = d_y.into_iter().map(Input::new).collect();
    let x = Input::new(inputs[0].clone());
    let [b, t, width] = x.dims();
    let turned = wanted[1..].contains(&true).then(|| {
        let turned = Left::transposed(&x, width);
        Factor::new(in_bf16, [width, b * t], turned)
    });
    let mut d_x = Vec::new();
    let mut d_weights = Vec::with_capacity(weights.len());
    for (i, (weight, d_y)) in weights.into_iter().zip(&d_y).enumerate() {
        let [_, out] = weight.shape().dims();
        let d_y = Left::rows(d_y, out);
        if wanted[0] {
            let (is_last, weight) = (i + 2 == wanted.len(), Weight::new(weight.clone()));
            let d_y = Factor::new(in_bf16, [b * t, out], d_y);
            d_y.add_times_turned(&weight, &mut d_x, is_last);
        }
        d_weights.push(match turned.as_ref().filter(|_| wanted[i + 1]) {
            Some(x) => tensor(x.times(out, d_y), weight.shape(), weight.dtype()),
            None => weight,
        });
    }
    if wanted[0] {
        inputs = factors(vec![x.like(d_x)], half);
    }
    inputs.into_iter().chain(d_weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tensors::slice;
    use burn::tensor::Shape;

    /// What nobody wants is not computed: it comes back as it went in.
    #[test]
    fn only_what_is_wanted_is_computed() {
        let of = |value: f32, shape: &[usize]| {
            let values = vec![value; shape.iter().product()];
            tensor(values, Shape::from(shape.to_vec()), DType::F32)
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
