//! Vectors of tokens, looked up by their numbers.

#[cfg(feature = "cube")]
mod gpu;
pub mod reference;

use crate::operator::{self, Operator, gpu_kernel};
use burn::tensor::{DType, Int, Tensor, assert_shape, module};

/// The rows of `weight` `[N, D]` that `ids` `[B, T]` name, `[B, T, D]`, in the weight's format. Differentiable in the
/// weight.
///
/// # Panics
///
/// Some devices do if an id is beyond the last row; others give any numbers.
#[track_caller]
pub fn embedding(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let device = weight.device();
    let ([rows, width], [b, t]) = (weight.dims(), ids.dims());
    // Kernels compare ids as `f32`, which is exact so far.
    let native = device.is_autodiff() && rows <= 1 << 24 && operator::has_gpu_kernels(&device);
    if !native || b * t * width == 0 {
        return module::embedding(weight, ids);
    }
    let ids = ids.float().cast(DType::F32);
    assert_shape!(ids, [b, t]);
    let inputs = vec![weight.into_dispatch(), ids.into_dispatch()];
    operator::run(Lookup, inputs).take()
}

/// Weight and ids to the rows that they name.
#[derive(Clone, Debug)]
struct Lookup;

impl Operator for Lookup {
    const NAME: &'static str = "embedding";
    const CONSTANTS: usize = 1;

    gpu_kernel! {
        |self, specs| {
            let [rows, ids] = [&specs[0], &specs[1]];
            let shape = [ids.shape[0], ids.shape[1], rows.shape[1]];
            [operator::spec(shape, rows.dtype)]
        };
        |self, [weight, ids]| [gpu::forward(weight, ids)];
        |self, [weight, ids], [d_y]| [gpu::backward(weight, ids, d_y)]
    }
}
