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

/// Gradients of `x` and `weight` for `d_y` `[rows, out]`.
pub fn backward(
    [rows, width, out]: [usize; 3],
    x: &[f64],
    weight: &[f64],
    d_y: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (mut d_x, mut d_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    for (row, k) in (0..rows).flat_map(|row| (0..width).map(move |k| (row, k))) {
        for n in 0..out {
            d_x[row * width + k] += d_y[row * out + n] * weight[k * out + n];
            d_weight[k * out + n] += d_y[row * out + n] * x[row * width + k];
        }
    }
    (d_x, d_weight)
}
