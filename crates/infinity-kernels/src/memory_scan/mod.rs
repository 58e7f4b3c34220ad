//! `memory_scan`: linear attention over `S` decaying states that share one prediction error.
//!
//! One operator covers linear attention and the multi-scale memory. The contract is here; the
//! derivation is in `README.md`; `reference.rs`, `recurrent.rs` and `chunkwise/` follow the same
//! steps (forget, correct, write, read) and can be read side by side. `cpu/` is the CPU's kernel,
//! `gpu/` that of every CubeCL runtime.

mod autodiff;
mod backend;
mod chunkwise;
pub mod chunkwise_form;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod gpu;
pub mod recurrent;
pub mod reference;

pub use backend::{MemoryScanBackend, ScanTensors};
pub use reference::Dims;

use crate::form::{self, Form};
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

/// Runs the operator over all `T` tokens from `state` `[B, H, S, K, V]`, in the form asked for.
///
/// Differentiable in every input, the initial state included.
///
/// # Panics
///
/// If two shapes do not agree, or if `form` does not exist on the device: ask [`Form::check`] first
/// where the form is somebody's wish.
#[track_caller]
pub fn memory_scan(inputs: MemoryScanInputs, state: Tensor<5>, form: Form) -> MemoryScanOutput {
    let dims = inputs.dims();
    let Dims { b, h, s, k, v, .. } = dims;
    assert_shape!(state, [b, h, s, k, v]);
    let device = inputs.q.device();
    if let Err(error) = form.check(&device) {
        panic!("{error}");
    }
    match form {
        Form::Recurrent => recurrent::forward(&inputs, state),
        Form::Chunkwise => chunkwise_form::forward(inputs, state, form::chunk_size(&dims)),
        Form::Fused => {
            let chunk = form::kernel_chunk(&device).expect("checked above");
            chunkwise_form::fused(inputs, state, chunk)
        }
    }
}
