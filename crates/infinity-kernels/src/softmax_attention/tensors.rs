//! Softmax attention on tensors, for any device: all scores of a call at once.

use crate::borders::Borders;
use burn::tensor::{Bool, Tensor, activation};

/// Attends as [`softmax_attention_with`](super::softmax_attention_with).
pub(super) fn forward(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    borders: &Borders,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [b, t, _, key_dim] = q.dims();
    let total = k.dims()[1];
    let q = q.swap_dims(1, 2) * (key_dim as f64).powf(-0.5);
    let scores = q.matmul(k.swap_dims(1, 2).swap_dims(2, 3)); // [B, H, T, P + T]
    let future = Tensor::<2, Bool>::tril_mask([t, total], (total - t) as i64, &scores.device());
    let mut scores = scores.mask_fill(future.unsqueeze::<4>(), f32::NEG_INFINITY);
    if !borders.is_none() {
        let apart = borders.apart([b, t, total - t], &scores.device());
        scores = scores.mask_fill(apart, f32::NEG_INFINITY);
    }
    let weights = drop(activation::softmax(scores, 3));
    weights.matmul(v.swap_dims(1, 2)).swap_dims(1, 2)
}
