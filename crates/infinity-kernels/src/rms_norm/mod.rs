//! Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467), alone and with an output gate.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
mod rule;
pub mod tensors;

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::{Tensor, assert_shape};
pub use rule::GateAct;
use rule::RmsNorm;

/// `x / sqrt(mean(x²) + eps) ⊙ weight` over the last dim of `x`, `weight` `[X]`.
///
/// # Panics
///
/// If the last dim of `x` is not that of `weight`.
#[track_caller]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    normed(x, weight, None, eps)
}

/// `rms_norm(x) ⊙ act(gate)`; `gate` has the shape of `x` `[B, T, H, V]`, or `[B, T, H·V]`.
///
/// # Panics
///
/// As [`rms_norm`], and if `gate` has another number of values than `x`.
#[track_caller]
pub fn gated_rms_norm<const G: usize>(
    x: Tensor<4>,
    weight: Tensor<1>,
    gate: Tensor<G>,
    act: GateAct,
    eps: f64,
) -> Tensor<4> {
    let gate = gate.reshape(x.dims());
    normed(x, weight, Some((gate, act)), eps)
}

#[track_caller]
fn normed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    gate: Option<(Tensor<D>, GateAct)>,
    eps: f64,
) -> Tensor<D> {
    assert_shape!(x, [.., weight.dims()[0]]);
    if !operator::has_row_kernels(&x.device()) {
        let y = tensors::rms_norm(x, weight, eps);
        return match gate {
            Some((gate, act)) => y * act.apply(gate),
            None => y,
        };
    }
    let rule = RmsNorm {
        eps: eps as f32,
        act: gate.as_ref().map_or(GateAct::Sigmoid, |(_, act)| *act),
    };
    let mut inputs = vec![x.into_dispatch(), weight.into_dispatch()];
    inputs.extend(gate.map(|(gate, _)| gate.into_dispatch()));
    operator::run(rule, inputs).take()
}

impl Operator for RmsNorm {
    const NAME: &'static str = "rms_norm";

    cpu_kernel! {
        |self, inputs| [cpu::forward(inputs, *self)];
        |self, inputs, [d_y]| cpu::backward(inputs, d_y, *self)
    }

    gpu_kernel! {
        |self, specs| [specs[0].clone()];
        |self, inputs| [gpu::forward(inputs, *self)];
        |self, inputs, [d_y]| gpu::backward(inputs, d_y, *self)
    }
}
