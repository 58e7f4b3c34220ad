//! The update on tensors, on any device.

use super::rule::AdamW;
use burn::tensor::Tensor;

/// As [`adamw`](super::adamw()).
pub fn adamw(
    rule: AdamW,
    weights: Tensor<1>,
    grad: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let f = rule.factors();
    let first = first * f.beta1 + grad.clone() * f.rest[0];
    let second = second * f.beta2 + grad.square() * f.rest[1];
    let length = (second.clone() / f.corrections[1]).sqrt() + f.eps;
    let delta = first.clone() / f.corrections[0] / length;
    (weights * f.kept - delta * f.learning_rate, [first, second])
}
