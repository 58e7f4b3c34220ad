//! `rounded`: `f32` values rounded to those that a half format has, and kept in `f32`.
//!
//! Mixed precision where a device cannot, or should not, compute in half: the numbers are those of
//! the half format, the arithmetic is that of `f32`. The gradient is rounded in the same way, as it
//! would be on its way through a tensor in half.

mod backend;
#[cfg(feature = "flex")]
mod flex;
pub mod reference;

pub use backend::RoundingBackend;

use burn::backend::Dispatch;
#[cfg(feature = "flex")]
use burn::backend::DispatchDevice;
use burn::tensor::{Device, FloatDType, Tensor};

/// A number format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// 8 bits of exponent, 8 of precision: the range of `f32`.
    Bf16,
    /// 5 bits of exponent, 11 of precision: nothing above 65,504, nothing below 6e-8.
    F16,
}

impl Half {
    /// The format as Burn names it.
    pub fn dtype(self) -> FloatDType {
        match self {
            Half::Bf16 => FloatDType::BF16,
            Half::F16 => FloatDType::F16,
        }
    }
}

/// What a device makes of tensors in a half format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfSupport {
    /// It stores and multiplies them.
    Native,
    /// It has them, but computes by way of `f32`: Flex, element by element. [`rounded`] is quicker
    /// and gives the same numbers.
    Widened,
    /// It has none.
    Missing,
}

impl HalfSupport {
    /// What `device` makes of `half`.
    pub fn of(device: &Device, half: Half) -> HalfSupport {
        match device.supports_dtype(half.dtype()) {
            _ if is_flex(device) => HalfSupport::Widened,
            true => HalfSupport::Native,
            false => HalfSupport::Missing,
        }
    }
}

#[allow(unused_variables)]
fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if let DispatchDevice::Flex(_) = device.clone().without_autodiff().as_dispatch() {
        return true;
    }
    false
}

/// Each value of `x` as `half` has it, to the nearest and ties to even, in an `f32` tensor. What
/// `half` cannot hold becomes infinite. The gradient is rounded in the same way.
///
/// # Panics
///
/// If the device has no tensors in `half`: see [`HalfSupport`].
pub fn rounded<const D: usize>(x: Tensor<D>, half: Half) -> Tensor<D> {
    if is_flex(&x.device()) {
        let x = x.cast(FloatDType::F32);
        return Tensor::from_dispatch(Dispatch::native_rounded(x.into_dispatch(), half));
    }
    x.cast(half.dtype()).cast(FloatDType::F32)
}
