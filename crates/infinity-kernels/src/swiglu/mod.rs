//! The gate of a SwiGLU feed-forward, `silu(gate) ⊙ up` (Shazeer 2020, arXiv:2002.05202).

mod backend;
#[cfg(feature = "flex")]
mod flex;
pub mod reference;

pub use backend::SwigluBackend;

use crate::form::has_kernel;
use burn::backend::Dispatch;
use burn::tensor::{Tensor, activation, assert_shape};

/// `silu(gate) ⊙ up` for `gate` and `up` `[B, T, I]`: one pass where the device has a native
/// kernel, else on tensors.
///
/// # Panics
///
/// If the shapes differ.
#[track_caller]
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    let [b, t, width] = gate.dims();
    assert_shape!(up, [b, t, width]);
    if !has_kernel(&gate.device()) {
        return activation::silu(gate) * up;
    }
    Tensor::from_dispatch(Dispatch::native_swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}
