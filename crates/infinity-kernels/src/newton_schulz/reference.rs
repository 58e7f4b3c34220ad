//! Ground truth for the iteration: scalar `f64`, no Burn.

/// Every step multiplies `X` by a polynomial of `X Xᵀ`, the product of these factors `a + b A + c A²`. Each polynomial is the
/// one of its degree that takes the singular values from 0.007 to 1, or what the step before made of them, nearest to 1, found
/// by Remez' exchange (the way of Amsel et al. 2025, arXiv:2505.16932); all but the last leave 2 % above for rounding. The first
/// is of degree four, as the values are far apart: two more products stretch them as far as a step of four or five would.
pub const STEPS: [&[[f64; 3]]; 3] = [
    &[[1.0, -2.163031, 1.171291], [13.98517, -99.25035, 181.16011]],
    &[[3.4384, -2.4763, 0.4763]],
    &[[2.492, -1.8359, 0.437]],
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
    for factors in STEPS {
        let x_t = transposed([rows, columns], &x);
        let gram = product([rows, columns, rows], &x, &x_t);
        let square = product([rows; 3], &gram, &gram);
        for &[a, b, c] in factors {
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
    }
    x
}
