//! Ground truth for the iteration: scalar `f64`, no Burn.

/// `a`, `b`, `c` of every step. Each polynomial is the odd one of degree five that is nearest to 1 on what the one before
/// made of the singular values from 0.01 to 1.05, found by Remez' exchange (the way of Amsel et al. 2025,
/// arXiv:2505.16932). None is above 1: that is room for rounding.
pub const COEFFICIENTS: [[f64; 3]; 3] = [
    [7.72619, -20.46939, 13.71652],
    [3.660824, -2.739433, 0.5385373],
    [2.697164, -2.006448, 0.455871],
];

/// Norm below which a matrix is not blown up any further.
pub const SMALLEST_NORM: f64 = 1e-7;

/// Least `‖(X Xᵀ)²‖` by which a matrix of norm 1 is blown up: of one it is 0.015 for 16 equal singular values, and at least
/// the power -3/2 of their number.
pub const SMALLEST_SQUARE: f64 = 1e-12;

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
    let norm_of = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let norm = norm_of(g).max(SMALLEST_NORM);
    let mut x: Vec<f64> = g.iter().map(|g| g / norm).collect();
    let powers = |x: &[f64]| {
        let gram = product([rows, columns, rows], x, &transposed([rows, columns], x));
        let square = product([rows; 3], &gram, &gram);
        (gram, square)
    };
    let largest = norm_of(&powers(&x).1).max(SMALLEST_SQUARE).powf(0.25);
    x.iter_mut().for_each(|x| *x /= largest);
    for [a, b, c] in COEFFICIENTS {
        let (gram, square) = powers(&x);
        let powers = gram.iter().zip(&square);
        let both: Vec<f64> = powers.map(|(g, s)| b * g + c * s).collect();
        let step = product([rows, rows, columns], &both, &x);
        x.iter_mut()
            .zip(step)
            .for_each(|(x, step)| *x = a * *x + step);
    }
    x
}
