//! The sum of the squares of all numbers of many tensors: the global norm of a gradient, squared.

#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
pub mod tensors;

use crate::operator::{self, Operator, gpu_kernel};
use burn::tensor::{DType, Tensor};

/// `Σ x²` over all numbers of `tensors` in `f32`, `[1]`; on a GPU in few launches, however many tensors there are.
/// Not differentiable: give it tensors without autodiff.
///
/// # Panics
///
/// If there are no tensors.
pub fn square_sum(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    if !operator::has_gpu_kernels(&tensors[0].device()) {
        return tensors::square_sum(tensors);
    }
    let inputs = tensors
        .into_iter()
        .map(|x| x.cast(DType::F32).into_dispatch());
    operator::run(SquareSum, inputs.collect()).take()
}

/// Any number of tensors to the sum of their squares.
#[derive(Clone, Debug)]
struct SquareSum;

impl Operator for SquareSum {
    const NAME: &'static str = "square_sum";

    gpu_kernel! {
        |self, specs| [operator::spec([1], specs[0].dtype)];
        |self, inputs| [gpu::square_sum(inputs)]
    }
}
