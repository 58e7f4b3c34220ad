//! Softmax attention on tensors, for any device: all scores of a call at once.

use super::view::View;
use burn::tensor::{Bool, Tensor, TensorData, activation};

/// Attends as [`softmax_attention_with`](super::softmax_attention_with); all keys are there.
pub(super) fn forward(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    view: &View,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let ([b, t, h, key_dim], [_, total, groups, value_dim]) = (q.dims(), v.dims());
    // Heads that share keys are rows of one product.
    let shared = |x: Tensor<4>, width| x.reshape([b, groups, h / groups * t, width]);
    let q = q.swap_dims(1, 2) * (key_dim as f64).powf(-0.5);
    let scores = shared(q, key_dim).matmul(k.swap_dims(1, 2).swap_dims(2, 3));
    let mut scores = scores.reshape([b, h, t, total]);
    let device = scores.device();
    let past = (total - t) as i64;
    let future = Tensor::<2, Bool>::tril_mask([t, total], past, &device);
    scores = scores.mask_fill(future.unsqueeze::<4>(), f32::NEG_INFINITY);
    if let Some(window) = view.window.filter(|window| *window < total) {
        let first = past + 1 - window as i64;
        let before = Tensor::<2, Bool>::triu_mask([t, total], first, &device);
        scores = scores.mask_fill(before.unsqueeze::<4>(), f32::NEG_INFINITY);
    }
    if view.starts.iter().any(|start| *start > 0) {
        let others = (0..b).flat_map(|row| (0..total).map(move |key| key < view.start(row)));
        let others = TensorData::new(others.collect::<Vec<_>>(), [b, 1, 1, total]);
        let others = Tensor::<4, Bool>::from_data(others, &device);
        scores = scores.mask_fill(others.expand([b, h, t, total]), f32::NEG_INFINITY);
    }
    if !view.borders.is_none() {
        let apart = view.borders.apart([b, t, total - t], &device);
        scores = scores.mask_fill(apart, f32::NEG_INFINITY);
    }
    let weights = shared(drop(activation::softmax(scores, 3)), total);
    let o = weights.matmul(v.swap_dims(1, 2));
    o.reshape([b, h, t, value_dim]).swap_dims(1, 2)
}
