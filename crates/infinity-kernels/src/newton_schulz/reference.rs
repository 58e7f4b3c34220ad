//! Ground truth for the iteration: scalar `f64`, no Burn.

/// `a`, `b`, `c` of one step.
pub const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];

/// Steps.
pub const STEPS: usize = 5;

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
    let [a, b, c] = COEFFICIENTS;
    let mut x: Vec<f64> = g.iter().map(|g| g / norm).collect();
    for _ in 0..STEPS {
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
