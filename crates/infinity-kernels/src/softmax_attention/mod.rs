//! Causal softmax attention: the quadratic baseline that every claim is measured against.
//!
//! ```text
//! o_t = Σ_{j≤t} softmax_j(q_t · k_j / √K) v_j
//! ```
//!
//! Keys and values of earlier tokens come in as a cache that grows with time, which is exactly
//! what the rest of this crate avoids. Several heads of queries may share one of keys and values
//! (GQA; Ainslie et al. 2023, arXiv:2305.13245), which is never repeated. The CPU has a kernel of its
//! own, which never holds more scores than a block of queries has with a block of keys.

#[cfg(feature = "flex")]
mod cpu;
pub mod reference;
mod tensors;
mod view;

use crate::operator::{self, Operator};
#[cfg(feature = "flex")]
use crate::operator::{Backward, Forward};
#[cfg(feature = "flex")]
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Tensor, assert_shape};
pub use view::View;

/// Attends from `q` `[B, T, H, K]` to `k` `[B, P + T, G, K]` and `v` `[B, P + T, G, V]`, where the
/// first `P` entries are the cache and `H / G` heads of queries share one of keys. Returns
/// `[B, T, H, V]`.
///
/// # Panics
///
/// If two shapes do not agree, or if there are fewer keys than queries.
#[track_caller]
pub fn softmax_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    softmax_attention_packed(q, k, v, &View::default())
}

/// [`softmax_attention`] to the keys that are in `view`.
///
/// # Panics
///
/// As [`softmax_attention`], and if `view` is of other sizes.
#[track_caller]
pub fn softmax_attention_packed(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    view: &View,
) -> Tensor<4> {
    if !operator::on_cpu(&q.device()) {
        return softmax_attention_with(q, k, v, view, |weights| weights);
    }
    check(&q, &k, &v, view);
    // What learns has no room: its gradients are those of all keys.
    let (view, k, v) = match q.device().is_autodiff() || k.device().is_autodiff() {
        true => view.cut(k, v),
        false => (view.clone(), k, v),
    };
    let inputs = [q, k, v].map(Tensor::into_dispatch);
    operator::run(SoftmaxAttention(view), Vec::from(inputs)).take()
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
    view: &View,
    drop: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    check(&q, &k, &v, view);
    let (view, k, v) = view.cut(k, v);
    tensors::forward(q, k, v, &view, drop)
}

#[track_caller]
fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, view: &View) {
    let [b, t, h, key_dim] = q.dims();
    let [_, room, groups, _] = k.dims();
    assert_shape!(k, [b, room, groups, key_dim]);
    assert_shape!(v, [b, room, groups, _]);
    assert!(
        groups > 0 && h.is_multiple_of(groups),
        "{h} heads of queries, {groups} of keys"
    );
    let total = view.filled.unwrap_or(room);
    assert!(total <= room, "{total} keys in room for {room}");
    assert!(total >= t, "{total} keys for {t} queries");
    assert_ne!(view.window, Some(0), "a query sees its own key");
    assert!(
        view.starts.is_empty() || view.starts.len() == b,
        "a start for each of {b} rows: {:?}",
        view.starts
    );
    let latest = view.starts.iter().max();
    assert!(
        latest.is_none_or(|start| *start <= total - t),
        "rows that start after their queries: {:?}",
        view.starts
    );
    view.borders.check(b, t);
}

/// Queries, keys and values to outputs.
#[derive(Clone, Debug)]
struct SoftmaxAttention(#[cfg_attr(not(feature = "flex"), allow(dead_code))] View);

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
