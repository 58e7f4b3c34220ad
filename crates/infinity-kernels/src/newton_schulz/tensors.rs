//! The iteration on tensors, on any device.

use super::reference::{COEFFICIENTS, SMALLEST_NORM, SMALLEST_SQUARE};
use burn::tensor::Tensor;

/// As [`newton_schulz`](super::newton_schulz()).
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = g.dims();
    let tall = rows > columns;
    let g = if tall { g.transpose() } else { g };
    let norm = |x: Tensor<2>| -> Tensor<2> { x.square().sum().sqrt().unsqueeze() };
    let mut x = g.clone() / norm(g).clamp_min(SMALLEST_NORM);
    for (step, [a, b, c]) in COEFFICIENTS.into_iter().enumerate() {
        let mut gram = x.clone().matmul(x.clone().transpose());
        let mut square = gram.clone().matmul(gram.clone());
        if step == 0 {
            let largest = norm(square.clone()).clamp_min(SMALLEST_SQUARE).sqrt();
            gram = gram / largest.clone();
            square = square / largest.clone().square();
            x = x / largest.sqrt();
        }
        x = x.clone() * a + (gram * b + square * c).matmul(x);
    }
    if tall { x.transpose() } else { x }
}
