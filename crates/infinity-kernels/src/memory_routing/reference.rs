//! Ground truth for the routing of one vector of one head: scalar `f64`, no Burn, gradients by hand.

/// Weights `[S]` of the states for `x` `[K]` and directions `weight` `[S, K]`.
pub fn forward(x: &[f64], weight: &[f64], log_temperature: f64) -> Vec<f64> {
    let z = logits(x, weight, log_temperature);
    let highest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - highest).exp()).sum();
    let share = z.iter().map(|z| (z - highest).exp() / sum);
    share.map(f64::sqrt).collect()
}

fn logits(x: &[f64], weight: &[f64], log_temperature: f64) -> Vec<f64> {
    let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    let rows = weight.chunks(x.len());
    rows.map(|row| dot(row) / log_temperature.exp()).collect()
}

/// Gradients of `x`, `weight` and `log_temperature`, given `d` `[S]` of the weights of the states.
///
/// With `y² = p = softmax(z)`: `dz = ½ y ∘ dy − ½ p (y · dy)`, then `dW_s = dz_s x / τ`,
/// `dx = Σ dz_s W_s / τ` and `d log τ = −z · dz`.
pub fn backward(
    x: &[f64],
    weight: &[f64],
    log_temperature: f64,
    d: &[f64],
) -> (Vec<f64>, Vec<f64>, f64) {
    let (y, z) = (
        forward(x, weight, log_temperature),
        logits(x, weight, log_temperature),
    );
    let along: f64 = y.iter().zip(d).map(|(y, d)| y * d).sum();
    let d_z: Vec<f64> = (y.iter().zip(d))
        .map(|(y, d)| 0.5 * y * (d - y * along))
        .collect();
    let sharpness = (-log_temperature).exp();
    let mut d_x = vec![0.0; x.len()];
    let mut d_weight = Vec::with_capacity(weight.len());
    for (d_z, row) in d_z.iter().zip(weight.chunks(x.len())) {
        for (i, w) in row.iter().enumerate() {
            d_x[i] += d_z * w * sharpness;
            d_weight.push(d_z * x[i] * sharpness);
        }
    }
    let d_log_temperature = -z.iter().zip(&d_z).map(|(z, d)| z * d).sum::<f64>();
    (d_x, d_weight, d_log_temperature)
}
