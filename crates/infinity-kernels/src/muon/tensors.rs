//! The step of one matrix on tensors, on any device.

use super::rule::{Matrix, Muon};
use crate::newton_schulz::newton_schulz;
use burn::tensor::{DType, Tensor};

/// As [`muon`](super::muon()), for one matrix.
pub fn muon(matrix: Matrix) -> (Tensor<2>, Tensor<2>) {
    let rule = matrix.rule;
    let grad = match rule.scale {
        1.0 => matrix.grad,
        scale => matrix.grad * scale,
    };
    let velocity = match matrix.velocity {
        Some(velocity) => grad.clone() + velocity * rule.momentum,
        None => grad.clone(),
    };
    let orthogonal = newton_schulz(velocity.clone() * rule.momentum + grad);
    (moved(rule, matrix.weights, orthogonal), velocity)
}

/// `weights` after an orthogonal update.
pub(super) fn moved(rule: Muon, weights: Tensor<2>, orthogonal: Tensor<2>) -> Tensor<2> {
    let update = orthogonal * rule.rate;
    if rule.cautious && rule.decay != 0.0 {
        let decay = cautious_decay(weights.clone(), update.clone(), rule.decay);
        return weights - update - decay;
    }
    let weights = match rule.decay {
        0.0 => weights,
        decay => weights * (1.0 - decay),
    };
    weights - update
}

/// What cautious decay takes from `weights` from which `update` is subtracted.
pub fn cautious_decay<const D: usize>(
    weights: Tensor<D>,
    update: Tensor<D>,
    decay: f64,
) -> Tensor<D> {
    let smaller = (update * weights.clone()).greater_elem(0.0).float();
    weights * smaller.cast(DType::F32) * decay
}
