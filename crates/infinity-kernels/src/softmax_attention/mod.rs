//! Causal softmax attention: the quadratic baseline that every claim is measured against.
//!
//! ```text
//! o_t = Σ_{j≤t} softmax_j(q_t · k_j / √K) v_j
//! ```
//!
//! Keys and values of earlier tokens come in as a cache that grows with time, which is exactly
//! what the rest of this crate avoids.

pub mod reference;

use burn::tensor::{Bool, Tensor, activation, assert_shape};

/// Attends from `q` `[B, T, H, K]` to `k` `[B, P + T, H, K]` and `v` `[B, P + T, H, V]`, where the
/// first `P` entries are the cache. `drop` is applied to the attention weights `[B, H, T, P + T]`.
/// Returns `[B, T, H, V]`.
///
/// # Panics
///
/// If two shapes do not agree, or if there are fewer keys than queries.
#[track_caller]
pub fn softmax_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [b, t, h, key_dim] = q.dims();
    let total = k.dims()[1];
    assert_shape!(k, [b, total, h, key_dim]);
    assert_shape!(v, [b, total, h, _]);
    assert!(total >= t, "{total} keys for {t} queries");
    let q = q.swap_dims(1, 2) * (key_dim as f64).powf(-0.5);
    let scores = q.matmul(k.swap_dims(1, 2).swap_dims(2, 3)); // [B, H, T, P + T]
    let future = Tensor::<2, Bool>::tril_mask([t, total], (total - t) as i64, &scores.device());
    let scores = scores.mask_fill(future.unsqueeze::<4>(), f32::NEG_INFINITY);
    let weights = drop(activation::softmax(scores, 3));
    weights.matmul(v.swap_dims(1, 2)).swap_dims(1, 2)
}
