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

use crate::borders::Borders;
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
    softmax_attention_packed(q, k, v, &Borders::default())
}

/// [`softmax_attention`] over rows of several documents: a query sees the keys of its own, and those of the
/// cache if no document began before it.
///
/// # Panics
///
/// As [`softmax_attention`], and if `borders` are of other sizes.
#[track_caller]
pub fn softmax_attention_packed(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    borders: &Borders,
) -> Tensor<4> {
    if !operator::on_cpu(&q.device()) {
        return softmax_attention_with(q, k, v, borders, |weights| weights);
    }
    check(&q, &k, &v, borders);
    let inputs = [q, k, v].map(Tensor::into_dispatch);
    operator::run(SoftmaxAttention(borders.clone()), Vec::from(inputs)).take()
}

/// [`softmax_attention_packed`] with `drop` applied to the attention weights `[B, H, T, P + T]`, which are
/// all there at once.
///
/// # Panics
///
/// As [`softmax_attention_packed`].
#[track_caller]
pub fn softmax_attention_with(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    borders: &Borders,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    check(&q, &k, &v, borders);
    tensors::forward(q, k, v, borders, drop)
}

#[track_caller]
fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, borders: &Borders) {
    let [b, t, h, key_dim] = q.dims();
    let total = k.dims()[1];
    assert_shape!(k, [b, total, h, key_dim]);
    assert_shape!(v, [b, total, h, _]);
    assert!(total >= t, "{total} keys for {t} queries");
    borders.check(b, t);
}

/// Queries, keys and values to outputs.
#[derive(Clone, Debug)]
struct SoftmaxAttention(#[cfg_attr(not(feature = "flex"), allow(dead_code))] Borders);

impl Operator for SoftmaxAttention {
    const NAME: &'static str = "softmax_attention";

    #[cfg(feature = "flex")]
    fn cpu(&self, inputs: Vec<FloatTensor<Flex>>, save: bool) -> Forward<Flex> {
        let (o, sums) = cpu::forward(operator::exactly(inputs), &self.0, save);
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
        let inputs = operator::exactly(call.inputs);
        Vec::from(cpu::backward(inputs, &self.0, saved, d_o))
    }
}
