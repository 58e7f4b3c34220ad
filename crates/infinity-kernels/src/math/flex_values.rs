//! Flex tensors as slices of `f32`, and back.

use burn::backend::{Flex, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Shape, TensorData};

/// A float tensor of Flex.
pub(crate) type Primitive = FloatTensor<Flex>;

pub(crate) fn single(x: Primitive) -> Primitive {
    let x = match x.dtype() {
        DType::F32 => x,
        _ => Flex::float_cast(x, FloatDType::F32),
    };
    // A slice of something larger is as good as a tensor of its own.
    match x.as_slice::<f32>() {
        Some(_) => x,
        None => x.to_contiguous(),
    }
}

pub(crate) fn slice(x: &Primitive) -> &[f32] {
    x.as_slice::<f32>()
        .expect("made contiguous and f32 by `single`")
}

pub(crate) fn tensor(values: Vec<f32>, shape: Shape, dtype: DType) -> Primitive {
    let x = Primitive::from_data(TensorData::new(values, shape));
    match dtype {
        DType::F32 => x,
        _ => Flex::float_cast(x, dtype.into()),
    }
}
