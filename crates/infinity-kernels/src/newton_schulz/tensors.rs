//! The iteration on tensors, on any device.

use super::reference::{SMALLEST_NORM, STEPS};
use burn::tensor::Tensor;

/// As [`newton_schulz`](super::newton_schulz()).
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = g.dims();
    let tall = rows > columns;
    let g = if tall { g.transpose() } else { g };
    let norm: Tensor<2> = g.clone().square().sum().sqrt().unsqueeze();
    let mut x = g / norm.clamp_min(SMALLEST_NORM);
    for factors in STEPS {
        let gram = x.clone().matmul(x.clone().transpose());
        let square = gram.clone().matmul(gram.clone());
        for &[a, b, c] in factors {
            x = x.clone() * a + (gram.clone() * b + square.clone() * c).matmul(x);
        }
    }
    if tall { x.transpose() } else { x }
}
