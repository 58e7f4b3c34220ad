//! The update on tensors, on any device.

use super::rule::Parameter;
use burn::tensor::Tensor;

/// As [`adamw`](super::adamw()), for one parameter.
pub fn adamw(parameter: Parameter) -> (Tensor<1>, [Tensor<1>; 2]) {
    let (f, [first, second]) = (parameter.rule.factors(), parameter.moments);
    let grad = match f.scale {
        1.0 => parameter.grad,
        scale => parameter.grad * scale,
    };
    let first = first * f.beta1 + grad.clone() * f.rest[0];
    let second = second * f.beta2 + grad.square() * f.rest[1];
    let length = (second.clone() / f.corrections[1]).sqrt() + f.eps;
    let delta = first.clone() / f.corrections[0] / length;
    let weights = parameter.weights * f.kept - delta * f.learning_rate;
    (weights, [first, second])
}
