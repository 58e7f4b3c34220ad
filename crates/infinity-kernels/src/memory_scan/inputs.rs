//! What the operator takes and returns: as tensors, and as the primitives that its kernels see; and how those run.

use super::reference::{Dims, Scan};
use crate::operator;
use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
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
    /// These and the state as a list, in the order of [`Scan::into_list`].
    pub(super) fn into_list(self, state: Tensor<5>) -> Vec<FloatTensor<Dispatch>> {
        let rows = [self.q, self.k, self.v];
        let weights = [self.log_decay, self.read, self.write];
        let list = rows.into_iter().chain(weights).map(Tensor::into_dispatch);
        let list = list.chain([state.into_dispatch()]);
        list.chain(self.erase.map(Tensor::into_dispatch)).collect()
    }

    /// Every tensor by `f`.
    pub(crate) fn map(self, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        MemoryScanInputs {
            q: f(self.q),
            k: f(self.k),
            v: f(self.v),
            log_decay: f(self.log_decay),
            read: f(self.read),
            write: f(self.write),
            erase: self.erase.map(f),
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

/// How a device's own kernel cuts and multiplies; the CPU's does as it likes.
#[cfg_attr(not(feature = "cube"), allow(dead_code))]
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Plan {
    /// Positions in a chunk, and rows and columns of a tile.
    pub(super) side: usize,
    /// Whether planes multiply `bf16`, by their matrix units.
    pub(super) matrix: bool,
    /// Delta or additive writes, which a call says.
    pub(super) delta: bool,
}

/// The inputs and the state below autodiff, or the gradients of both.
pub(super) type ScanTensors<B> = Scan<FloatTensor<B>>;

impl<T: Clone> Scan<T> {
    /// As a list, `erase` last and there with delta writes only.
    pub(super) fn into_list(self, delta: bool) -> Vec<T> {
        let [inputs @ .., erase, state] = self.into_array();
        let mut list = Vec::from(inputs);
        list.push(state);
        list.extend(delta.then_some(erase));
        list
    }

    /// The way back. Without an `erase` any tensor of its shape stands there, which nobody reads.
    pub(super) fn from_list(mut list: Vec<T>) -> Self {
        let erase = list.get(7).unwrap_or(&list[5]).clone();
        list.insert(6, erase);
        list.truncate(8);
        Scan::from_array(operator::exactly(list))
    }
}

impl<T: TensorMetadata> Scan<T> {
    /// The sizes of tensors whose shapes were checked.
    pub(super) fn dims(&self) -> Dims {
        let [b, t, h, k] = self.q.shape().dims();
        let [.., s, _, v] = self.state.shape().dims::<5>();
        Dims { b, t, h, s, k, v }
    }
}
