//! Ground truth for the gated norm: scalar `f64`, no Burn. Without a gate, what it becomes is one.

use super::rule::GateAct;

/// Gradients of inputs, weight and gate.
#[derive(Clone, Debug)]
pub struct Grads {
    /// Of the inputs `[N, X]`.
    pub x: Vec<f64>,
    /// Of the weight `[X]`.
    pub weight: Vec<f64>,
    /// Of the gate `[N, X]`; zeros without one.
    pub gate: Vec<f64>,
}

/// What the gate becomes, and its slope.
fn acted(gate: Option<&[f64]>, act: GateAct, at: usize) -> [f64; 2] {
    let Some(gate) = gate.map(|gate| gate[at]) else {
        return [1.0, 0.0];
    };
    let sigma = 1.0 / (1.0 + (-gate).exp());
    match act {
        GateAct::Sigmoid => [sigma, sigma * (1.0 - sigma)],
        GateAct::Silu => [gate * sigma, sigma + gate * sigma * (1.0 - sigma)],
    }
}

/// One over the root mean square of a row.
fn inverse(row: &[f64], eps: f64) -> f64 {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    1.0 / (mean + eps).sqrt()
}

/// `x / rms(x) · weight · act(gate)`, rows as long as `weight`.
pub fn forward(
    x: &[f64],
    weight: &[f64],
    (gate, act): (Option<&[f64]>, GateAct),
    eps: f64,
) -> Vec<f64> {
    let width = weight.len();
    (0..x.len())
        .map(|at| {
            let row = &x[at / width * width..][..width];
            x[at] * inverse(row, eps) * weight[at % width] * acted(gate, act, at)[0]
        })
        .collect()
}

/// Gradients, given that of the result.
pub fn backward(
    x: &[f64],
    weight: &[f64],
    (gate, act): (Option<&[f64]>, GateAct),
    eps: f64,
    d_y: &[f64],
) -> Grads {
    let width = weight.len();
    let mut grads = Grads {
        x: vec![0.0; x.len()],
        weight: vec![0.0; width],
        gate: vec![0.0; x.len()],
    };
    for start in (0..x.len()).step_by(width) {
        let row = &x[start..start + width];
        let r = inverse(row, eps);
        let through: f64 = (0..width)
            .map(|j| d_y[start + j] * acted(gate, act, start + j)[0] * weight[j] * row[j])
            .sum();
        for j in 0..width {
            let at = start + j;
            let [s, slope] = acted(gate, act, at);
            let d = d_y[at] * s;
            grads.x[at] = r * (d * weight[j] - row[j] * r * r * through / width as f64);
            grads.weight[j] += d * row[j] * r;
            if gate.is_some() {
                grads.gate[at] = d_y[at] * row[j] * r * weight[j] * slope;
            }
        }
    }
    grads
}
