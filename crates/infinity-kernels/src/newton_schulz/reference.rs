//! Ground truth for the iteration: scalar `f64`, no Burn.

/// `a`, `b`, `c` of every step. Each polynomial is the odd one of degree five that is nearest to 1 on what the one before
/// made of the singular values from 0.003 to 1, found by Remez' exchange (the way of Amsel et al. 2025,
/// arXiv:2505.16932); all but the last leave 2 % above for rounding.
pub const COEFFICIENTS: [[f64; 3]; 4] = [
    [8.2193, -23.3375, 16.6266],
    [3.9641, -2.8377, 0.5158],
    [3.4368, -2.4752, 0.4762],
    [2.4901, -1.8343, 0.4368],
];

/// Norm below which a matrix is not blown up any further.
pub const SMALLEST_NORM: f64 = 1e-7;

/// `left · right` for `[m, k]` and `[k, n]`.
fn product([m, k, n]: [usize; 3], left: &[f64], right: &[f64]) -> Vec<f64> {
    let sum = |i: usize, j: usize| (0..k).map(|p| left[i * k + p] * right[p * n + j]).sum();
    (0..m * n).map(|at| sum(at / n, at % n)).collect()
}

fn transposed([m, n]: [usize; 2], x: &[f64]) -> Vec<f64> {
    (0..m * n).map(|at| x[at % m * n + at / m]).collect()
}

/// The iteration for `g` `[rows, columns]`.
pub fn forward([rows, columns]: [usize; 2], g: &[f64]) -> Vec<f64> {
    if rows > columns {
        let x = forward([columns, rows], &transposed([rows, columns], g));
        return transposed([columns, rows], &x);
    }
    let norm = g
        .iter()
        .map(|g| g * g)
        .sum::<f64>()
        .sqrt()
        .max(SMALLEST_NORM);
    let mut x: Vec<f64> = g.iter().map(|g| g / norm).collect();
    for [a, b, c] in COEFFICIENTS {
        let x_t = transposed([rows, columns], &x);
        let gram = product([rows, columns, rows], &x, &x_t);
        let square = product([rows; 3], &gram, &gram);
        let both: Vec<f64> = gram
            .iter()
            .zip(&square)
            .map(|(g, s)| b * g + c * s)
            .collect();
        let step = product([rows, rows, columns], &both, &x);
        x.iter_mut()
            .zip(step)
            .for_each(|(x, step)| *x = a * *x + step);
    }
    x
}
