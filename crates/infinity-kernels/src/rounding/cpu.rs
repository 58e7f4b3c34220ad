//! Rounding to half on the CPU: one pass, on the bits.

use super::half::Half;
use crate::cpu::results::value_by_value;
use crate::cpu::simd::{Level, leveled};
use crate::cpu::tensors::{Primitive, single};
use std::mem::MaybeUninit;

/// The smallest normal f16.
const F16_NORMAL: f32 = 6.103_515_6e-5;
/// The first power of two that f16 does not have.
const F16_OVERFLOW: f32 = 65_536.0;

/// `x` without its last `DROPPED` bits, to the nearest, ties to even.
#[inline(always)]
fn shortened<const DROPPED: u32>(x: f32) -> f32 {
    let bits = x.to_bits();
    let even = (bits >> DROPPED) & 1;
    let half = (1 << (DROPPED - 1)) - 1;
    f32::from_bits(bits.wrapping_add(half + even) & !((1 << DROPPED) - 1))
}

#[inline(always)]
fn to_bf16(x: f32) -> f32 {
    if x.is_nan() { x } else { shortened::<16>(x) }
}

#[inline(always)]
fn to_f16(x: f32) -> f32 {
    let size = x.abs();
    // In [1/2, 1) the unit of f32 is that of the subnormal f16.
    let subnormal = (size + 0.75) - 0.75;
    let rounded = if size < F16_NORMAL {
        subnormal
    } else {
        shortened::<13>(size)
    };
    let rounded = if rounded >= F16_OVERFLOW {
        f32::INFINITY
    } else {
        rounded
    };
    if x.is_nan() { x } else { rounded.copysign(x) }
}

leveled!(
    fn round<const FMA: bool, const ROWS: usize>(
        half: Half,
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
    ) {
        let values = x.iter().zip(y);
        match half {
            Half::Bf16 => {
                for (x, y) in values {
                    y.write(to_bf16(*x));
                }
            }
            Half::F16 => {
                for (x, y) in values {
                    y.write(to_f16(*x));
                }
            }
        }
    }
);

/// Each value as `half` has it, in `f32`.
pub(crate) fn rounded(x: Primitive, half: Half) -> Primitive {
    let level = Level::detect();
    // SAFETY: the loops write a value for each of the input.
    let [y] = unsafe { value_by_value([single(x)], |[x], [y]| round(level, half, x, y)) };
    y
}
