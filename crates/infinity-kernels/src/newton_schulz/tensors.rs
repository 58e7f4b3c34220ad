//! The iteration on tensors, on any device.

use super::reference::{COEFFICIENTS, SMALLEST_NORM};
use burn::tensor::Tensor;

/// As [`newton_schulz`](super::newton_schulz()).
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    iterated(g, |g| g.square().sum().sqrt().unsqueeze())
}

/// [`newton_schulz`] for matrices of one shape `[matrices, rows, columns]`, side by side in every product: as many
/// launches as one takes.
pub fn newton_schulz_stacked(matrices: Tensor<3>) -> Tensor<3> {
    let norms = |g: Tensor<3>| {
        let [n, rows, columns] = g.dims();
        let squares = g.square().reshape([n, rows * columns]);
        squares.sum_dim(1).sqrt().reshape([n, 1, 1])
    };
    iterated(matrices, norms)
}

/// The iteration over the last two dims of `g`, whose norms are as `norm` says.
fn iterated<const D: usize>(g: Tensor<D>, norm: impl Fn(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let dims = g.dims();
    let tall = dims[D - 2] > dims[D - 1];
    let g = if tall { g.transpose() } else { g };
    let norm = norm(g.clone()).clamp_min(SMALLEST_NORM);
    let mut x = g / norm;
    for [a, b, c] in COEFFICIENTS {
        let gram = x.clone().matmul(x.clone().transpose());
        let square = gram.clone().matmul(gram.clone());
        x = x.clone() * a + (gram * b + square * c).matmul(x);
    }
    if tall { x.transpose() } else { x }
}
