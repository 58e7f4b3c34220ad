//! Projections of one input on CubeCL runtimes: one product by all weights side by side, and back two.

use crate::gpu::many::{columns, side_by_side};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Shape;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// `x` or a gradient `[B, T, ·]` as rows.
fn rows(x: CubeTensor) -> CubeTensor {
    let [b, t, width] = x.shape().dims();
    CubeBackend::float_reshape(x, Shape::from([b * t, width]))
}

/// Widths of the results of weights so wide, of which the last `thin` share one.
pub(super) fn results(mut widths: Vec<usize>, thin: usize) -> Vec<usize> {
    let shared = widths.split_off(widths.len() - thin);
    widths.extend((thin > 0).then(|| shared.iter().sum::<usize>()));
    widths
}

fn widths(weights: &[CubeTensor]) -> Vec<usize> {
    let width = |weight: &CubeTensor| weight.shape().dims::<2>()[1];
    weights.iter().map(width).collect()
}

/// Results, and all weights side by side.
pub(super) fn forward(inputs: Vec<CubeTensor>, thin: usize) -> (Vec<CubeTensor>, CubeTensor) {
    let (x, weights) = inputs.split_first().expect("an input and weights");
    let [b, t, width] = x.shape().dims();
    let widths = widths(weights);
    let weights = match weights {
        [weight] => weight.clone(),
        _ => {
            let parts = weights.iter().cloned().map(Some);
            side_by_side(x, width, parts.zip(widths.clone()).collect())
        }
    };
    let y = CubeBackend::float_matmul(rows(x.clone()), weights.clone());
    let results = results(widths, thin);
    let y = match results.len() {
        1 => vec![y],
        _ => columns(y, &results),
    };
    let shaped = |(y, out)| CubeBackend::float_reshape(y, Shape::from([b, t, out]));
    (y.into_iter().zip(results).map(shaped).collect(), weights)
}

/// Gradients of the input and of every weight, of which one that is not `wanted` may be returned as it is;
/// `weights` are all side by side, `grads` those of the results.
pub(super) fn backward(
    inputs: Vec<CubeTensor>,
    weights: CubeTensor,
    grads: Vec<CubeTensor>,
    thin: usize,
    wanted: &[bool],
) -> Vec<CubeTensor> {
    let x = &inputs[0];
    let [b, t, _] = x.shape().dims();
    let widths = widths(&inputs[1..]);
    let mut parts: Vec<_> = grads.into_iter().map(rows).collect();
    let d_y = match parts.len() {
        1 => parts.swap_remove(0),
        _ => {
            let parts = parts.into_iter().map(Some);
            side_by_side(x, b * t, parts.zip(results(widths.clone(), thin)).collect())
        }
    };
    let transposed = |x: CubeTensor| CubeBackend::float_swap_dims(x, 0, 1);
    let d_x = CubeBackend::float_matmul(d_y.clone(), transposed(weights));
    let mut all = vec![CubeBackend::float_reshape(d_x, x.shape())];
    if !wanted[1..].contains(&true) {
        all.extend(inputs[1..].iter().cloned());
        return all;
    }
    let d_weights = CubeBackend::float_matmul(transposed(rows(x.clone())), d_y);
    match widths.len() {
        1 => all.push(d_weights),
        _ => all.extend(columns(d_weights, &widths)),
    }
    all
}

fn lengths(vectors: &[CubeTensor]) -> Vec<usize> {
    vectors.iter().map(|x| x.shape().num_elements()).collect()
}

/// All of `parts` in one vector.
pub(super) fn joined(parts: Vec<CubeTensor>) -> CubeTensor {
    let (of, lengths) = (parts[0].clone(), lengths(&parts));
    let len: usize = lengths.iter().sum();
    let all = side_by_side(&of, 1, parts.into_iter().map(Some).zip(lengths).collect());
    CubeBackend::float_reshape(all, Shape::from([len]))
}

/// The gradients of `parts`, of which `d` is that of all.
pub(super) fn apart(parts: Vec<CubeTensor>, d: CubeTensor) -> Vec<CubeTensor> {
    let lengths = lengths(&parts);
    let len: usize = lengths.iter().sum();
    let d = columns(
        CubeBackend::float_reshape(d, Shape::from([1, len])),
        &lengths,
    );
    let each = d.into_iter().zip(lengths);
    each.map(|(d, len)| CubeBackend::float_reshape(d, Shape::from([len])))
        .collect()
}
