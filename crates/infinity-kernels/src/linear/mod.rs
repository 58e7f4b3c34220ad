//! A projection `x · W`: burn's, or the native kernels of the CPU.
//!
//! With a handful of rows it is nothing but reading the weights once: the native kernel does that with
//! all cores, each weight touched once for all rows. With many rows and a weight that stays in cache,
//! the native products read their factors as they are stored, both ways.

pub mod backend;
#[cfg(feature = "flex")]
pub(crate) mod few_rows;
#[cfg(feature = "flex")]
pub(crate) mod flex;
pub mod reference;
#[cfg(feature = "flex")]
mod several;

use crate::form::has_kernel;
use crate::native::NativeOp;
use crate::parts::Packed;
use backend::{MOST, ProjectionTensors, ProjectionsBackend};
use burn::backend::Dispatch;
use burn::tensor::{DType, Shape, Tensor, assert_shape, module};

/// Rows up to which reading the weights is all that counts.
const FEW_ROWS: usize = 8;
/// Rows from which packing the weight is paid back.
const MANY_ROWS: usize = 64;
/// Weights up to which their packed copy stays in a second-level cache: 1 MiB.
const CACHED: usize = 1 << 18;

/// What runs a projection.
enum Way {
    Burns,
    FewRows,
    ManyRows,
}

fn way(x: &Tensor<3>, weight: &Tensor<2>) -> Way {
    let [b, t, width] = x.dims();
    let [_, out] = weight.dims();
    let (device, rows) = (x.device(), b * t);
    let single = x.dtype() == DType::F32 && weight.dtype() == DType::F32;
    if rows == 0 || width == 0 || out == 0 || !has_kernel(&device) {
        Way::Burns
    } else if rows <= FEW_ROWS && !device.is_autodiff() {
        Way::FewRows
    } else if single && rows >= MANY_ROWS && width * out <= CACHED {
        Way::ManyRows
    } else {
        Way::Burns
    }
}

/// `x · weight` for `x` `[B, T, D]` and `weight` `[D, N]`, of any strides.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [_, _, width] = x.dims();
    assert_shape!(weight, [width, _]);
    match way(&x, &weight) {
        Way::Burns => module::linear(x, weight, None),
        Way::FewRows => NativeOp::FewRows.run(x, weight.clone(), weight),
        Way::ManyRows => NativeOp::Linear.run(x, weight.clone(), weight),
    }
}

/// `x · weight` for `x` `[B, T, D]` and each of `weights` `[D, N]`, in one operation where the device
/// has a kernel for it.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn projections(x: Tensor<3>, weights: Vec<Tensor<2>>) -> Vec<Tensor<3>> {
    let [b, t, width] = x.dims();
    for weight in &weights {
        assert_shape!(weight, [width, _]);
    }
    let burns = |weight| matches!(way(&x, weight), Way::Burns);
    if weights.len() > MOST || weights.iter().any(burns) {
        let one = |weight| linear(x.clone(), weight);
        return weights.into_iter().map(one).collect();
    }
    let shapes: Vec<Shape> = weights
        .iter()
        .map(|weight| Shape::from([b, t, weight.dims()[1]]))
        .collect();
    let n = shapes.len();
    let weights = weights.into_iter().map(Tensor::into_dispatch).collect();
    let tensors = ProjectionTensors::<Dispatch>::new(x.into_dispatch(), weights);
    let packed = Packed::of(shapes, |parts| Dispatch::projections(tensors, parts));
    (0..n).map(|i| packed.part(i)).collect()
}
