//! The loss on tensors, on any device.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, activation};

/// Losses `[N]` of `logits` `[N, V]` for targets `ids` `[N, 1]` of which those count that have a one in `counts`
/// `[N, 1]`, and log-probabilities.
pub fn cross_entropy(
    logits: Tensor<2>,
    ids: Tensor<2, Int>,
    counts: Tensor<2>,
) -> (Tensor<1>, Tensor<2>) {
    let log_probs = activation::log_softmax(logits.cast(DType::F32), 1);
    let picked = log_probs.clone().gather(1, ids);
    ((picked * counts).neg().reshape([-1]), log_probs)
}

/// Losses, and the gradient of their sum times `scale`, in `f32`.
pub fn with_gradient(
    logits: Tensor<2>,
    ids: Tensor<2, Int>,
    counts: Tensor<2>,
    scale: f64,
) -> (Tensor<1>, Tensor<2>) {
    let (losses, log_probs) = cross_entropy(logits, ids.clone(), counts.clone());
    let minus_one = counts.ones_like().neg();
    let off = log_probs
        .exp()
        .scatter(1, ids, minus_one, IndexingUpdateOp::Add);
    (losses, off * (counts * scale))
}
