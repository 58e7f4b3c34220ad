//! The update in scalar `f64`.

use super::rule::AdamW;

/// Weights, first and second moment after an update.
pub fn adamw(rule: AdamW, weights: &[f64], grad: &[f64], moments: [&[f64]; 2]) -> [Vec<f64>; 3] {
    let (beta1, beta2) = (f64::from(rule.beta1), f64::from(rule.beta2));
    let blend = |beta: f64, before: &[f64], now: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let pairs = before.iter().zip(grad);
        pairs
            .map(|(x, g)| beta * x + (1.0 - beta) * now(rule.scale * g))
            .collect()
    };
    let first = blend(beta1, moments[0], &|g| g);
    let second = blend(beta2, moments[1], &|g| g * g);
    let correct = |beta: f64| 1.0 - beta.powi(rule.time);
    let updated = weights.iter().zip(&first).zip(&second).map(|((w, m), v)| {
        let length = (v / correct(beta2)).sqrt() + f64::from(rule.eps);
        let kept = 1.0 - rule.learning_rate * rule.weight_decay;
        kept * w - rule.learning_rate * (m / correct(beta1)) / length
    });
    [updated.collect(), first, second]
}
