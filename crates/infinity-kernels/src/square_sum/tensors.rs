//! The sum on tensors, on any device.

use burn::tensor::{DType, Tensor};

/// As [`square_sum`](super::square_sum()).
pub fn square_sum(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    let squares = tensors
        .into_iter()
        .map(|x| x.cast(DType::F32).square().sum());
    squares.reduce(Tensor::add).expect("at least one tensor")
}
