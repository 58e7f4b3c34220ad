//! Ground truth for softmax attention: scalar `f64`, no Burn.

/// Every key from the first on.
const ALL: [usize; 2] = [0, usize::MAX / 2];

/// Weights of query `t` for all keys up to its own: of those only the last `window`, and none before
/// `start`, are seen.
fn weights(
    [_, cached, n_k, _]: [usize; 4],
    [start, window]: [usize; 2],
    t: usize,
    [q, k]: [&[f64]; 2],
) -> Vec<f64> {
    let scores: Vec<f64> = (0..=cached + t)
        .map(|j| {
            if j < start || j + window <= cached + t {
                return f64::NEG_INFINITY;
            }
            let dot: f64 = (0..n_k).map(|i| q[t * n_k + i] * k[j * n_k + i]).sum();
            dot / (n_k as f64).sqrt()
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Outputs `[T, V]` of one head for `q` `[T, K]`, `k` `[P + T, K]` and `v` `[P + T, V]`; `dims` is
/// `[T, P, K, V]`.
pub fn forward(dims: [usize; 4], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    forward_seen(dims, ALL, [q, k, v])
}

/// [`forward`] where keys before `start` are not seen, nor those that the last `window` do not hold.
pub fn forward_seen(dims: [usize; 4], seen: [usize; 2], [q, k, v]: [&[f64]; 3]) -> Vec<f64> {
    let [n_t, _, _, n_v] = dims;
    let mut o = vec![0.0; n_t * n_v];
    for t in 0..n_t {
        for (j, weight) in weights(dims, seen, t, [q, k]).iter().enumerate() {
            for c in 0..n_v {
                o[t * n_v + c] += weight * v[j * n_v + c];
            }
        }
    }
    o
}

/// Gradients of `q`, `k` and `v` for `d_o` `[T, V]`.
pub fn backward(dims: [usize; 4], inputs: [&[f64]; 3], d_o: &[f64]) -> [Vec<f64>; 3] {
    backward_seen(dims, ALL, inputs, d_o)
}

/// Those of [`forward_seen`].
pub fn backward_seen(
    dims: [usize; 4],
    seen: [usize; 2],
    [q, k, v]: [&[f64]; 3],
    d_o: &[f64],
) -> [Vec<f64>; 3] {
    let [n_t, _, n_k, n_v] = dims;
    let [mut d_q, mut d_k, mut d_v] = [q, k, v].map(|x| vec![0.0; x.len()]);
    for t in 0..n_t {
        let weights = weights(dims, seen, t, [q, k]);
        let d_o = &d_o[t * n_v..][..n_v];
        let dot = |j: usize| -> f64 { (0..n_v).map(|c| d_o[c] * v[j * n_v + c]).sum() };
        let d_weights: Vec<f64> = (0..weights.len()).map(dot).collect();
        let through: f64 = weights.iter().zip(&d_weights).map(|(w, d)| w * d).sum();
        for (j, weight) in weights.iter().enumerate() {
            let d_score = weight * (d_weights[j] - through) / (n_k as f64).sqrt();
            for c in 0..n_v {
                d_v[j * n_v + c] += weight * d_o[c];
            }
            for i in 0..n_k {
                d_q[t * n_k + i] += d_score * k[j * n_k + i];
                d_k[j * n_k + i] += d_score * q[t * n_k + i];
            }
        }
    }
    [d_q, d_k, d_v]
}
