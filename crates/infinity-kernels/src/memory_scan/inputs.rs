//! What the operator takes and returns: as tensors, and as the primitives that its kernels see; and how those run.

use super::reference::Dims;
use burn::backend::{Backend, Dispatch, tensor::FloatTensor};
use burn::tensor::{Tensor, assert_shape};

/// What a layer feeds the operator.
///
/// Named fields, because the gates have one type and shape: as arguments they could be swapped
/// without anyone noticing.
#[derive(Clone, Debug)]
pub struct MemoryScanInputs {
    /// Queries `[B, T, H, K]`.
    pub q: Tensor<4>,
    /// Keys `[B, T, H, K]`; of unit length in delta mode, which is what keeps it stable.
    pub k: Tensor<4>,
    /// Values `[B, T, H, V]`.
    pub v: Tensor<4>,
    /// Log decay `[B, T, H, S]`, at most 0.
    pub log_decay: Tensor<4>,
    /// Read weights `[B, T, H, S]`.
    pub read: Tensor<4>,
    /// Write weights `[B, T, H, S]`.
    pub write: Tensor<4>,
    /// Erase weights `[B, T, H, S]` of the delta rule; `None` writes additively.
    pub erase: Option<Tensor<4>>,
}

/// What the operator returns.
#[derive(Clone, Debug)]
pub struct MemoryScanOutput {
    /// Outputs `[B, T, H, V]`.
    pub o: Tensor<4>,
    /// The state after the last token `[B, H, S, K, V]`.
    pub state: Tensor<5>,
}

impl MemoryScanInputs {
    /// These and the state as a list, in the order of [`ScanTensors::into_list`].
    pub(super) fn into_list(self, state: Tensor<5>) -> Vec<FloatTensor<Dispatch>> {
        let mut list = vec![
            self.q.into_dispatch(),
            self.k.into_dispatch(),
            self.v.into_dispatch(),
            self.log_decay.into_dispatch(),
            self.read.into_dispatch(),
            self.write.into_dispatch(),
            state.into_dispatch(),
        ];
        list.extend(self.erase.map(Tensor::into_dispatch));
        list
    }

    /// `len` tokens from `start` on.
    pub(super) fn narrow(&self, start: usize, len: usize) -> Self {
        let part = |x: &Tensor<4>| x.clone().narrow(1, start, len);
        MemoryScanInputs {
            q: part(&self.q),
            k: part(&self.k),
            v: part(&self.v),
            log_decay: part(&self.log_decay),
            read: part(&self.read),
            write: part(&self.write),
            erase: self.erase.as_ref().map(part),
        }
    }

    /// The sizes, after every shape was checked.
    ///
    /// # Panics
    ///
    /// If two shapes do not agree.
    #[track_caller]
    pub fn dims(&self) -> Dims {
        let [b, t, h, k] = self.q.dims();
        let v = self.v.dims()[3];
        let s = self.log_decay.dims()[3];
        assert_shape!(self.k, [b, t, h, k]);
        assert_shape!(self.v, [b, t, h, v]);
        assert_shape!(self.log_decay, [b, t, h, s]);
        assert_shape!(self.read, [b, t, h, s]);
        assert_shape!(self.write, [b, t, h, s]);
        if let Some(erase) = &self.erase {
            assert_shape!(erase, [b, t, h, s]);
        }
        Dims { b, t, h, s, k, v }
    }
}

/// How a device's own kernel runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// Positions in a chunk. The CPU's kernel cuts as it likes.
    #[cfg_attr(not(feature = "cube"), allow(dead_code))]
    pub(super) chunk: usize,
    /// Whether matrix units multiply `bf16`.
    #[cfg_attr(not(feature = "cube"), allow(dead_code))]
    pub(super) matrix: bool,
}

/// The inputs and the state below autodiff, or the gradients of both.
#[derive(Clone, Debug)]
pub(crate) struct ScanTensors<B: Backend> {
    pub(crate) q: FloatTensor<B>,
    pub(crate) k: FloatTensor<B>,
    pub(crate) v: FloatTensor<B>,
    pub(crate) log_decay: FloatTensor<B>,
    pub(crate) read: FloatTensor<B>,
    pub(crate) write: FloatTensor<B>,
    /// In additive mode any tensor of its shape, which is not read, or any gradient.
    pub(crate) erase: FloatTensor<B>,
    pub(crate) state: FloatTensor<B>,
}

impl<B: Backend> ScanTensors<B> {
    /// As a list, `erase` last and there with delta writes only.
    pub(super) fn into_list(self, delta: bool) -> Vec<FloatTensor<B>> {
        let mut list = vec![
            self.q,
            self.k,
            self.v,
            self.log_decay,
            self.read,
            self.write,
            self.state,
        ];
        list.extend(delta.then_some(self.erase));
        list
    }

    /// The way back.
    pub(super) fn from_list(list: Vec<FloatTensor<B>>) -> Self {
        let mut list = list.into_iter();
        let mut next = || list.next().expect("seven tensors or eight");
        let (q, k, v) = (next(), next(), next());
        let (log_decay, read, write, state) = (next(), next(), next(), next());
        ScanTensors {
            erase: list.next().unwrap_or_else(|| write.clone()),
            q,
            k,
            v,
            log_decay,
            read,
            write,
            state,
        }
    }
}
