//! Ground truth for softmax attention: scalar `f64`, no Burn.

/// Outputs `[T, V]` of one head for `q` `[T, K]`, `k` `[P + T, K]` and `v` `[P + T, V]`; `dims` is
/// `[T, P, K, V]`.
pub fn forward(dims: [usize; 4], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let [n_t, cached, n_k, n_v] = dims;
    let mut o = vec![0.0; n_t * n_v];
    for t in 0..n_t {
        let scores: Vec<f64> = (0..=cached + t)
            .map(|j| {
                let dot: f64 = (0..n_k).map(|i| q[t * n_k + i] * k[j * n_k + i]).sum();
                dot / (n_k as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (j, weight) in weights.iter().enumerate() {
            for c in 0..n_v {
                o[t * n_v + c] += weight / total * v[j * n_v + c];
            }
        }
    }
    o
}
