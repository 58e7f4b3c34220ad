//! Causal softmax attention: the quadratic baseline that every claim is measured against.
//!
//! ```text
//! o_t = Σ_{j≤t} softmax_j(q_t · k_j / √K) v_j
//! ```
//!
//! Keys and values of earlier tokens come in as a cache that grows with time, which is exactly
//! what the rest of this crate avoids. The CPU has a kernel of its own, which never holds more scores
//! than a block of queries has with a block of keys.

#[cfg(feature = "flex")]
mod cpu;
pub mod reference;
mod tensors;

use crate::operator::{self, Operator};
#[cfg(feature = "flex")]
use crate::operator::{Backward, Forward};
#[cfg(feature = "flex")]
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Tensor, assert_shape};

/// Attends from `q` `[B, T, H, K]` to `k` `[B, P + T, H, K]` and `v` `[B, P + T, H, V]`, where the
/// first `P` entries are the cache. Returns `[B, T, H, V]`.
///
/// # Panics
///
/// If two shapes do not agree, or if there are fewer keys than queries.
#[track_caller]
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    if !operator::on_cpu(&q.device()) {
        return softmax_attention_with(q, k, v, |weights| weights);
    }
    check(&q, &k, &v);
    let inputs = [q, k, v].map(Tensor::into_dispatch);
    operator::run(SoftmaxAttention, Vec::from(inputs)).take()
}

/// [`softmax_attention`] with `drop` applied to the attention weights `[B, H, T, P + T]`, which are
/// all there at once.
///
/// # Panics
///
/// As [`softmax_attention`].
#[track_caller]
pub fn softmax_attention_with(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    check(&q, &k, &v);
    tensors::forward(q, k, v, drop)
}

#[track_caller]
fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) {
    let [b, t, h, key_dim] = q.dims();
    let total = k.dims()[1];
    assert_shape!(k, [b, total, h, key_dim]);
    assert_shape!(v, [b, total, h, _]);
    assert!(total >= t, "{total} keys for {t} queries");
}

/// Queries, keys and values to outputs.
#[derive(Clone, Debug)]
struct SoftmaxAttention;

impl Operator for SoftmaxAttention {
    const NAME: &'static str = "softmax_attention";

    #[cfg(feature = "flex")]
    fn cpu(&self, inputs: Vec<FloatTensor<Flex>>, save: bool) -> Forward<Flex> {
        let (o, sums) = cpu::forward(operator::exactly(inputs), save);
        Forward {
            saved: if save {
                vec![o.clone(), sums]
            } else {
                Vec::new()
            },
            results: vec![o],
        }
    }

    #[cfg(feature = "flex")]
    fn cpu_backward(&self, call: Backward<Flex>) -> Vec<FloatTensor<Flex>> {
        let saved = operator::exactly(call.saved);
        let [d_o] = operator::exactly(call.grads);
        Vec::from(cpu::backward(operator::exactly(call.inputs), saved, d_o))
    }
}
