//! Ground truth for the short convolution: scalar `f64`, no Burn.

/// Outputs `[B, T, channels]` for `x` `[B, T, channels]`, `weight` `[channels, kernel]` and
/// `tail` `[B, channels, kernel − 1]`; `dims` is `[B, T, channels, kernel]`.
pub fn forward(dims: [usize; 4], x: &[f64], weight: &[f64], tail: &[f64]) -> Vec<f64> {
    let [n_b, n_t, channels, kernel] = dims;
    let mut y = vec![0.0; x.len()];
    for b in 0..n_b {
        for t in 0..n_t {
            for c in 0..channels {
                let at = |time: isize| match usize::try_from(time) {
                    Ok(time) => x[(b * n_t + time) * channels + c],
                    Err(_) => {
                        let row = (b * channels + c) * (kernel - 1);
                        tail[row + (kernel as isize - 1 + time) as usize]
                    }
                };
                y[(b * n_t + t) * channels + c] = (0..kernel)
                    .map(|j| {
                        weight[c * kernel + j] * at(t as isize + j as isize + 1 - kernel as isize)
                    })
                    .sum();
            }
        }
    }
    y
}
