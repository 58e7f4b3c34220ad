//! A backend's float tensor with the handful of operations the chunk forms need.
//!
//! Operators with a hand-written backward work below autodiff, on the primitives of whatever
//! backend runs. This wrapper gives those primitives methods, so the equations stay readable.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{FloatDType, Shape, TensorData};
use std::ops::{Add, Mul, Sub};

/// A float tensor of backend `B`. Cloning shares the buffer.
#[derive(Debug)]
pub(crate) struct Array<B: Backend>(pub(crate) FloatTensor<B>);

impl<B: Backend> Clone for Array<B> {
    fn clone(&self) -> Self {
        Array(self.0.clone())
    }
}

impl<B: Backend> Array<B> {
    pub(crate) fn dims<const D: usize>(&self) -> [usize; D] {
        self.0.shape().dims()
    }

    /// Values on the device of `like`, in its dtype.
    pub(crate) fn from_values(values: Vec<f32>, dims: &[usize], like: &Self) -> Self {
        let data = TensorData::new(values, Shape::from(dims.to_vec()));
        let data = data.convert_dtype(like.0.dtype());
        Array(B::float_from_data(data, &like.0.device()))
    }

    pub(crate) fn zeros(dims: &[usize], like: &Self) -> Self {
        let dtype: FloatDType = like.0.dtype().into();
        Array(B::float_zeros(
            Shape::from(dims.to_vec()),
            &like.0.device(),
            dtype,
        ))
    }

    pub(crate) fn reshape(self, dims: &[usize]) -> Self {
        Array(B::float_reshape(self.0, Shape::from(dims.to_vec())))
    }

    pub(crate) fn permute(self, axes: &[usize]) -> Self {
        Array(B::float_permute(self.0, axes))
    }

    /// Swaps the last two dims.
    pub(crate) fn t(self) -> Self {
        let rank = self.0.shape().num_dims();
        Array(B::float_swap_dims(self.0, rank - 2, rank - 1))
    }

    pub(crate) fn matmul(self, rhs: Self) -> Self {
        Array(B::float_matmul(self.0, rhs.0))
    }

    pub(crate) fn neg(self) -> Self {
        Array(B::float_neg(self.0))
    }

    pub(crate) fn exp(self) -> Self {
        Array(B::float_exp(self.0))
    }

    /// Sums over `dim`, which stays with length one.
    pub(crate) fn sum(self, dim: usize) -> Self {
        Array(B::float_sum_dim(self.0, dim))
    }

    /// `len` entries of `dim` from `start`.
    pub(crate) fn narrow(self, dim: usize, start: usize, len: usize) -> Self {
        let shape = self.0.shape();
        let slices: Vec<_> = (0..shape.num_dims())
            .map(|d| {
                if d == dim {
                    (start..start + len).into()
                } else {
                    (0..shape[d]).into()
                }
            })
            .collect();
        Array(B::float_slice(self.0, &slices))
    }

    pub(crate) fn cat(parts: Vec<Self>, dim: usize) -> Self {
        Array(B::float_cat(
            parts.into_iter().map(|part| part.0).collect(),
            dim,
        ))
    }
}

impl<B: Backend> Add for Array<B> {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Array(B::float_add(self.0, rhs.0))
    }
}

impl<B: Backend> Sub for Array<B> {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        Array(B::float_sub(self.0, rhs.0))
    }
}

impl<B: Backend> Mul for Array<B> {
    type Output = Self;
    fn mul(self, rhs: Self) -> Self {
        Array(B::float_mul(self.0, rhs.0))
    }
}
