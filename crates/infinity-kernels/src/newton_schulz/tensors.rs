//! The iteration on tensors, on any device.

use super::reference::{COEFFICIENTS, SMALLEST_NORM};
use burn::tensor::Tensor;

/// As [`newton_schulz`](super::newton_schulz()).
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = g.dims();
    let tall = rows > columns;
    let g = if tall { g.transpose() } else { g };
    let norm: Tensor<2> = g.clone().square().sum().sqrt().unsqueeze();
    let mut x = g / norm.clamp_min(SMALLEST_NORM);
    for [a, b, c] in COEFFICIENTS {
        let gram = x.clone().matmul(x.clone().transpose());
        let square = gram.clone().matmul(gram.clone());
        x = x.clone() * a + (gram * b + square * c).matmul(x);
    }
    if tall { x.transpose() } else { x }
}
