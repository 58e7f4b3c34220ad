//! The step of one matrix in scalar `f64`.

use super::rule::Muon;
use crate::newton_schulz::reference;

/// Weights and momentum after a step of a matrix of `dims`, row by row.
pub fn muon(
    rule: Muon,
    dims: [usize; 2],
    weights: &[f64],
    grad: &[f64],
    velocity: &[f64],
) -> [Vec<f64>; 2] {
    let momentum = f64::from(rule.momentum);
    let blend = |velocity: &[f64]| -> Vec<f64> {
        let pairs = grad.iter().zip(velocity);
        pairs.map(|(g, m)| rule.scale * g + momentum * m).collect()
    };
    let velocity = blend(velocity);
    let orthogonal = reference::forward(dims, &blend(&velocity));
    let moved = weights.iter().zip(orthogonal).map(|(w, u)| {
        let decays = !rule.cautious || u * w > 0.0;
        let kept = if decays { 1.0 - rule.decay } else { 1.0 };
        kept * w - rule.rate * u
    });
    [moved.collect(), velocity]
}
