//! `rounded`: `f32` values rounded to those that a half format has, and kept in `f32`.
//!
//! Mixed precision where a device cannot, or should not, compute in half: the numbers are those of
//! the half format, the arithmetic is that of `f32`. The gradient is rounded in the same way, as it
//! would be on its way through a tensor in half.

#[cfg(feature = "flex")]
pub(crate) mod cpu;
mod half;
pub mod reference;

pub use half::{Half, HalfSupport, Rounding, cpu_multiplies};

use crate::operator::{self, Operator, cpu_kernel};
use burn::tensor::{FloatDType, Tensor};

/// Each value of `x` as `half` has it, to the nearest and ties to even, in an `f32` tensor. What
/// `half` cannot hold becomes infinite. The gradient is rounded in the same way.
///
/// # Panics
///
/// If the device has no tensors in `half`: see [`HalfSupport`].
pub fn rounded<const D: usize>(x: Tensor<D>, half: Half) -> Tensor<D> {
    if operator::on_cpu(&x.device()) {
        let x = x.cast(FloatDType::F32);
        return operator::run(Rounded(half), vec![x.into_dispatch()]).take();
    }
    x.cast(half.dtype()).cast(FloatDType::F32)
}

/// Values in `f32` to those that a format has.
#[derive(Clone, Debug)]
struct Rounded(Half);

impl Operator for Rounded {
    const NAME: &'static str = "rounded";
    const READS_INPUTS: bool = false;

    cpu_kernel! {
        |self, [x]| [cpu::rounded(x, self.0)];
        |self, _none, [d_y]| [cpu::rounded(d_y, self.0)]
    }
}
