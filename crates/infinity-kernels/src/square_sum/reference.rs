//! The sum in scalar `f64`.

/// `Σ x²` over all numbers of `tensors`.
pub fn square_sum(tensors: &[Vec<f64>]) -> f64 {
    tensors.iter().flatten().map(|x| x * x).sum()
}
