//! The norm on tensors, on any device.

use burn::tensor::{DType, Tensor};

/// As [`rms_norm`](super::rms_norm()).
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let rms = (x.clone().cast(DType::F32).square().mean_dim(D - 1) + eps).sqrt();
    x / rms.cast(dtype) * weight.unsqueeze()
}
