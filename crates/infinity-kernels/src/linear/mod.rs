//! A projection `x · W`, with a way of its own for the few rows of a decoding step.
//!
//! A matrix product wants many rows; with a handful it is nothing but reading the weights once.
//! The native kernel does that with all cores, each weight touched once for all rows.

#[cfg(feature = "flex")]
pub(crate) mod flex;
pub mod reference;

use crate::form::has_kernel;
use crate::native::NativeOp;
use burn::tensor::{Tensor, assert_shape, module};

/// Rows up to which reading the weights is all that counts.
const FEW_ROWS: usize = 8;

/// `x · weight` for `x` `[B, T, D]` and `weight` `[D, N]`, of any strides.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [b, t, width] = x.dims();
    let [_, out] = weight.dims();
    assert_shape!(weight, [width, out]);
    let device = x.device();
    let few = (1..=FEW_ROWS).contains(&(b * t)) && width > 0 && out > 0;
    if few && !device.is_autodiff() && has_kernel(&device) {
        return NativeOp::FewRows.run(x, weight.clone(), weight);
    }
    module::linear(x, weight, None)
}
