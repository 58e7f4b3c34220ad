//! Flex tensors as slices of `f32`, and back.

use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Shape, TensorData};
use std::ops::Deref;

/// A float tensor of Flex.
pub(crate) type Primitive = FloatTensor<Flex>;

/// A tensor as a kernel reads it: its values in `f32`, and what a result like it has.
pub(crate) struct Input {
    values: Primitive,
    dtype: DType,
}

impl Input {
    pub(crate) fn new(x: Primitive) -> Self {
        Input {
            dtype: x.dtype(),
            values: single(x),
        }
    }

    pub(crate) fn dims<const D: usize>(&self) -> [usize; D] {
        self.values.shape().dims()
    }

    /// A result of its shape and type.
    pub(crate) fn like(&self, values: Vec<f32>) -> Primitive {
        self.result(values, self.values.shape())
    }

    /// A result of its type.
    pub(crate) fn result(&self, values: Vec<f32>, shape: impl Into<Shape>) -> Primitive {
        tensor(values, shape.into(), self.dtype)
    }
}

impl Deref for Input {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        slice(&self.values)
    }
}

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

/// The values of what [`writable`] gave.
pub(crate) fn slice_mut(x: &mut Primitive) -> &mut [f32] {
    let len = x.shape().num_elements();
    let values = x.storage_mut();
    assert_eq!(values.len(), len, "a part of something larger");
    values
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_nobody_elses() {
        let whole = || {
            tensor(
                (0..12).map(|i| i as f32).collect(),
                Shape::from([3, 4]),
                DType::F32,
            )
        };
        let place = |x: &Primitive| slice(x).as_ptr();

        let own = whole();
        let at = place(&own);
        assert_eq!(place(&writable(own)), at, "a copy of what nobody shares");

        let shared = whole();
        for view in [
            shared.clone(),
            shared.narrow(0, 1, 2),
            shared.narrow(1, 1, 2),
            shared.transpose(0, 1),
            Flex::float_expand(shared.narrow(0, 1, 1), Shape::from([5, 4])),
        ] {
            let expected = slice(&single(view.clone())).to_vec();
            let mut written = writable(view);
            assert_eq!(slice(&written), expected);
            slice_mut(&mut written).fill(-1.0);
            assert!(slice(&written).iter().all(|x| *x == -1.0));
            assert_eq!(slice(&shared), slice(&whole()));
        }
        // The only tensor of its storage, and not all of it.
        let mut part = writable(whole().narrow(0, 1, 2));
        assert_eq!(
            slice_mut(&mut part),
            [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
        );
    }
}
