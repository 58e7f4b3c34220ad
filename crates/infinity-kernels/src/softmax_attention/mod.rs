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

use crate::borders::Borders;
use crate::operator::{self, Operator};
#[cfg(feature = "flex")]
use crate::operator::{Backward, Forward};
#[cfg(feature = "flex")]
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Tensor, assert_shape};

/// Up to so many queries that save nothing meet the keys one by one, which are then read as they lie.
#[cfg(feature = "flex")]
const STEPS_UP_TO: usize = 4;

/// Which keys the queries of a call see, of those up to their own; by default all.
///
/// ```
/// # use burn::tensor::{Device, Tensor};
/// # use infinity_kernels::softmax_attention::{View, softmax_attention_packed};
/// // Room for eight keys, of which five are there; the second row's text begins at the third.
/// let device = Device::flex();
/// let (q, k) = (Tensor::<4>::ones([2, 1, 4, 8], &device), Tensor::ones([2, 8, 2, 8], &device));
/// let view = View { filled: Some(5), starts: vec![0, 2], ..View::default() };
/// assert_eq!(softmax_attention_packed(q, k.clone(), k, &view).dims(), [2, 1, 4, 8]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Where documents begin among the queries.
    pub borders: Borders,
    /// Keys that are there, the last of them the last query's own; behind them is room. All of the
    /// tensor's if not given.
    pub filled: Option<usize>,
    /// How many of the first keys are none of a row's, for every row; empty where all are.
    pub starts: Vec<usize>,
    /// How many keys a query sees at most, its own and those right before it.
    pub window: Option<usize>,
}

impl From<&Borders> for View {
    fn from(borders: &Borders) -> Self {
        View {
            borders: borders.clone(),
            ..View::default()
        }
    }
}

impl View {
    /// Of a row's keys, the first that is its own.
    fn start(&self, row: usize) -> usize {
        self.starts.get(row).copied().unwrap_or(0)
    }

    /// The view of `t` queries onto `k` and `v` with the room cut off.
    fn cut(&self, k: Tensor<4>, v: Tensor<4>) -> (Self, Tensor<4>, Tensor<4>) {
        let room = k.dims()[1];
        let cut = |x: Tensor<4>| match self.filled {
            Some(filled) if filled < room => x.narrow(1, 0, filled),
            _ => x,
        };
        let view = View {
            filled: None,
            ..self.clone()
        };
        (view, cut(k), cut(v))
    }
}

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
