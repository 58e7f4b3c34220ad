//! The half formats, and what devices make of them.

#[cfg(feature = "flex")]
use crate::cpu::simd::Level;
use crate::operator::on_cpu;
use burn::tensor::{Device, FloatDType};

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
    /// It has them, but computes by way of `f32`: Flex, element by element. [`rounded`](super::rounded()) is quicker
    /// and gives the same numbers.
    Widened,
    /// It has none.
    Missing,
}

impl HalfSupport {
    /// What `device` makes of `half`.
    pub fn of(device: &Device, half: Half) -> HalfSupport {
        match device.supports_dtype(half.dtype()) {
            _ if on_cpu(device) => HalfSupport::Widened,
            true => HalfSupport::Native,
            false => HalfSupport::Missing,
        }
    }
}

/// Factors of a product that are rounded to a half format, and multiplied with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// The format of the factors, and of the input's gradient.
    pub half: Half,
    /// Whether results have it too.
    pub results: bool,
}

/// Whether this processor has instructions that multiply in `half`.
pub fn cpu_multiplies(half: Half) -> bool {
    #[cfg(feature = "flex")]
    return half == Half::Bf16 && Level::detect().multiplies_bf16();
    #[cfg(not(feature = "flex"))]
    {
        let _ = half;
        false
    }
}
