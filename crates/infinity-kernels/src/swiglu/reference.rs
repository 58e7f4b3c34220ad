//! Ground truth for SwiGLU's gate: scalar `f64`, no Burn.

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(gate) · up`.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter()
        .zip(up)
        .map(|(a, b)| a * sigmoid(*a) * b)
        .collect()
}

/// Gradients of `gate` and `up`, given that of the result.
pub fn backward(gate: &[f64], up: &[f64], d_y: &[f64]) -> [Vec<f64>; 2] {
    let d_gate = |(i, d): (usize, &f64)| {
        let (a, s) = (gate[i], sigmoid(gate[i]));
        d * up[i] * (s + a * s * (1.0 - s))
    };
    let d_up = |(i, d): (usize, &f64)| d * gate[i] * sigmoid(gate[i]);
    [
        d_y.iter().enumerate().map(d_gate).collect(),
        d_y.iter().enumerate().map(d_up).collect(),
    ]
}
