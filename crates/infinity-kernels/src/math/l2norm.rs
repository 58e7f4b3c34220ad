//! Unit length along the last dim, safe at the zero vector.

use burn::tensor::Tensor;

/// `x / sqrt(Σ x² + eps²)` over the last dim of `[B, T, H, K]`.
///
/// `eps` is a length: vectors much shorter than it shrink to zero instead of being blown up.
pub(crate) fn l2_normalize(x: Tensor<4>, eps: f64) -> Tensor<4> {
    let norm = (x.clone().square().sum_dim(3) + eps * eps).sqrt();
    x / norm
}
