//! Flex tensors as slices of `f32`, and back.

use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor};
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

/// `x` in `f32`, to be written over: its own values, or a copy where another tensor has a share in them.
pub(crate) fn writable(x: Primitive) -> Primitive {
    let x = single(x);
    match x.is_unique() && x.storage::<f32>().len() == slice(&x).len() {
        true => x,
        false => tensor(slice(&x).to_vec(), x.shape(), DType::F32),
    }
}

pub(crate) fn slice_mut(x: &mut Primitive) -> &mut [f32] {
    x.storage_mut()
}

pub(crate) fn tensor(values: Vec<f32>, shape: Shape, dtype: DType) -> Primitive {
    in_dtype(Primitive::from_data(TensorData::new(values, shape)), dtype)
}

pub(crate) fn in_dtype(x: Primitive, dtype: DType) -> Primitive {
    match dtype {
        DType::F32 => x,
        _ => Flex::float_cast(x, dtype.into()),
    }
}
