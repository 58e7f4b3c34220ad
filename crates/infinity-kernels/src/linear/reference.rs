//! Ground truth for a projection: scalar `f64`, no Burn.

/// `x · weight` for `x` `[rows, width]` and `weight` `[width, out]`.
pub fn forward([rows, width, out]: [usize; 3], x: &[f64], weight: &[f64]) -> Vec<f64> {
    let sum = |row: usize, n: usize| {
        (0..width)
            .map(|k| x[row * width + k] * weight[k * out + n])
            .sum()
    };
    (0..rows * out).map(|at| sum(at / out, at % out)).collect()
}
