//! Ground truth for the gates of one token: scalar `f64`, no Burn. Its gradients are checked by
//! finite differences in the tests.

use super::rule::{DecayRule, GateRule};

/// Gates of one token, `[H, S]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Gates {
    /// Log decay.
    pub log_decay: Vec<f64>,
    /// Read weights.
    pub read: Vec<f64>,
    /// Write weights.
    pub write: Vec<f64>,
    /// Erase weights; empty with additive writes.
    pub erase: Vec<f64>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Takes the next `len` values.
fn take<'a>(values: &mut &'a [f64], len: usize) -> &'a [f64] {
    let (first, rest) = values.split_at(len);
    *values = rest;
    first
}

/// The gates from `z` and `bias`, laid out as [`GateRule::width`] and [`GateRule::bias_width`]
/// say, and `a_log` `[H, S]`.
pub fn forward(rule: &GateRule, z: &[f64], a_log: &[f64], bias: &[f64]) -> Gates {
    let (h, s) = (rule.n_heads, rule.n_states);
    let (mut z, mut bias) = (z, bias);
    let log_decay: Vec<f64> = match rule.decay {
        DecayRule::None => vec![0.0; h * s],
        decay => {
            let steps = match decay {
                DecayRule::Adaptive => take(&mut z, h * s).to_vec(),
                _ => vec![0.0; h * s],
            };
            let dt_bias = take(&mut bias, h * s);
            (0..h * s)
                .map(|j| -a_log[j].exp() * (steps[j] + dt_bias[j]).exp().ln_1p())
                .collect()
        }
    };
    let strongest = f64::from(rule.strongest());
    let of_beta = take(&mut z, h).iter();
    let beta: Vec<f64> = of_beta.map(|z| strongest * sigmoid(*z)).collect();
    let (mut allocation, mut read) = (vec![1.0; h * s], vec![1.0; h * s]);
    if s > 1 && !rule.routed {
        let (z_a, c_a) = (take(&mut z, h * s), take(&mut bias, h * s));
        let (z_r, c_r) = (take(&mut z, h * s), take(&mut bias, h * s));
        for head in 0..h {
            let of_head = head * s..(head + 1) * s;
            let sum: f64 = of_head.clone().map(|j| (z_a[j] + c_a[j]).exp()).sum();
            for j in of_head {
                allocation[j] = ((z_a[j] + c_a[j]).exp() / sum).sqrt();
                read[j] = 2.0 / (s as f64).sqrt() * sigmoid(z_r[j] + c_r[j]);
            }
        }
    }
    if s > 1 && rule.memory_gate {
        let (z_m, c_m) = (take(&mut z, h), take(&mut bias, h));
        for j in 0..h * s {
            let m = sigmoid(z_m[j / s] + c_m[j / s]);
            read[j] *= if j % s == 0 { 2.0 * (1.0 - m) } else { 2.0 * m };
        }
    }
    let kept = |j: usize| match (rule.delta, rule.decay) {
        (true, _) | (_, DecayRule::None) => 1.0,
        _ => (-(2.0 * log_decay[j]).exp_m1()).sqrt(),
    };
    let write = (0..h * s)
        .map(|j| allocation[j] * beta[j / s] * kept(j))
        .collect();
    let erase = if rule.delta { allocation } else { Vec::new() };
    Gates {
        log_decay,
        read,
        write,
        erase,
    }
}
