//! The gate of a SwiGLU feed-forward, `silu(gate) ⊙ up` (Shazeer 2020, arXiv:2002.05202).

#[cfg(feature = "flex")]
pub(crate) mod flex;
pub mod reference;

use crate::form::has_kernel;
use crate::native::NativeOp;
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
    NativeOp::Swiglu.run(gate, up.clone(), up)
}
