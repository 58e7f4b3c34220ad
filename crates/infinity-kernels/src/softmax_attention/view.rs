//! What of the keys a call sees.

use crate::borders::Borders;
use burn::tensor::Tensor;

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
    pub(super) fn start(&self, row: usize) -> usize {
        self.starts.get(row).copied().unwrap_or(0)
    }

    /// The view of `t` queries onto `k` and `v` with the room cut off.
    pub(super) fn cut(&self, k: Tensor<4>, v: Tensor<4>) -> (Self, Tensor<4>, Tensor<4>) {
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
