//! The gate of a SwiGLU feed-forward, `silu(gate) ⊙ up` (Shazeer 2020, arXiv:2002.05202).

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
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
    if !operator::has_row_kernels(&gate.device()) {
        return activation::silu(gate) * up;
    }
    operator::run(Swiglu, vec![gate.into_dispatch(), up.into_dispatch()]).take()
}

/// `gate` and `up` to their product.
#[derive(Clone, Debug)]
struct Swiglu;

impl Operator for Swiglu {
    const NAME: &'static str = "swiglu";

    cpu_kernel! {
        |self, [gate, up]| cpu::forward([gate, up]);
        |self, [gate, up], [d_y]| cpu::backward([gate, up, d_y])
    }

    gpu_kernel! {
        |self, specs| [specs[0].clone()];
        |self, [gate, up]| [gpu::forward(gate, up)];
        |self, [gate, up], [d_y]| gpu::backward(gate, up, d_y)
    }
}
