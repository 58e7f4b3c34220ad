//! A projection `x · W`: burn's, or the native kernels of the CPU.
//!
//! With a handful of rows it is nothing but reading the weights once: the native kernel does that with
//! all cores, each weight touched once for all rows. With many rows and a weight that stays in cache,
//! the native products read their factors as they are stored, both ways.

#[cfg(feature = "flex")]
pub(crate) mod few_rows;
#[cfg(feature = "flex")]
pub(crate) mod flex;
pub mod reference;

use crate::form::has_kernel;
use crate::native::NativeOp;
use burn::tensor::{DType, Tensor, assert_shape, module};

/// Rows up to which reading the weights is all that counts.
const FEW_ROWS: usize = 8;
/// Rows from which packing the weight is paid back.
const MANY_ROWS: usize = 64;
/// Weights up to which their packed copy stays in a second-level cache: 1 MiB.
const CACHED: usize = 1 << 18;

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
    let (device, rows) = (x.device(), b * t);
    if rows == 0 || width == 0 || out == 0 || !has_kernel(&device) {
        return module::linear(x, weight, None);
    }
    if rows <= FEW_ROWS && !device.is_autodiff() {
        return NativeOp::FewRows.run(x, weight.clone(), weight);
    }
    let single = x.dtype() == DType::F32 && weight.dtype() == DType::F32;
    if single && rows >= MANY_ROWS && width * out <= CACHED {
        return NativeOp::Linear.run(x, weight.clone(), weight);
    }
    module::linear(x, weight, None)
}
