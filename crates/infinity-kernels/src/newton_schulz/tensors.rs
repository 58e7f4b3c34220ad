//! The iteration on tensors, on any device.

use super::reference::{COEFFICIENTS, SMALLEST_NORM, STEPS};
use burn::tensor::Tensor;

/// As [`newton_schulz`](super::newton_schulz()).
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = g.dims();
    let tall = rows > columns;
    let g = if tall { g.transpose() } else { g };
    let norm = g.clone().square().sum().sqrt().clamp_min(SMALLEST_NORM);
    let [a, b, c] = COEFFICIENTS;
    let mut x = g / norm.unsqueeze();
    for _ in 0..STEPS {
        let gram = x.clone().matmul(x.clone().transpose());
        let square = gram.clone().matmul(gram.clone());
        x = x.clone() * a + (gram * b + square * c).matmul(x);
    }
    if tall { x.transpose() } else { x }
}
