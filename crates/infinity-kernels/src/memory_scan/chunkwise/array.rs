//! A backend's float tensor with the handful of operations that the chunk form needs.
//!
//! Operators with a hand-written backward work below autodiff, on the primitives of whatever backend
//! runs. This wrapper gives those primitives methods, so the equations stay readable. Then how time is
//! cut, chunk-major, `[B, T, H, X]` ↔ `[N·B·H, C, X]`, because the loop over chunks then takes contiguous
//! slices. The last chunk is filled up with zeros: a position with `k = v = 0`, `g = 0` and `u = 0` leaves
//! every state as it is, so ragged lengths need no mask.

use super::super::reference::Dims;
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Shape, TensorData};
use std::ops::{Add, Mul, Sub};

/// A float tensor of backend `B`. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub(crate) struct Array<B: Backend>(pub(crate) FloatTensor<B>);

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
        let shape = Shape::from(dims.to_vec());
        let dtype = like.0.dtype().into();
        Array(B::float_zeros(shape, &like.0.device(), dtype))
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
        let range = |d| match d == dim {
            true => (start..start + len).into(),
            false => (0..shape[d]).into(),
        };
        let slices: Vec<_> = (0..shape.num_dims()).map(range).collect();
        Array(B::float_slice(self.0, &slices))
    }

    pub(crate) fn cat(parts: Vec<Self>, dim: usize) -> Self {
        let parts = parts.into_iter().map(|part| part.0);
        Array(B::float_cat(parts.collect(), dim))
    }
}

macro_rules! operator {
    ($name:ident, $method:ident, $primitive:ident) => {
        impl<B: Backend> $name for Array<B> {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Array(B::$primitive(self.0, other.0))
            }
        }
    };
}
operator!(Add, add, float_add);
operator!(Sub, sub, float_sub);
operator!(Mul, mul, float_mul);

/// How `T` positions of `B × H` heads are cut: `N` chunks of `C`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunking {
    dims: Dims,
    pub(crate) n: usize,
    pub(crate) c: usize,
}

impl Chunking {
    pub(crate) fn new(dims: Dims, c: usize) -> Self {
        let c = c.clamp(1, dims.t.max(1));
        let n = dims.t.div_ceil(c);
        Chunking { dims, n, c }
    }

    /// `[B, T, H, X]` → `[N·B·H, C, X]`, zeros behind the end.
    pub(crate) fn split<B: Backend>(&self, x: &FloatTensor<B>) -> Array<B> {
        let x = Array::<B>(x.clone());
        let [b, t, h, width] = x.dims();
        let x = match self.n * self.c - t {
            0 => x,
            missing => {
                let zeros = Array::zeros(&[b, missing, h, width], &x);
                Array::cat(vec![x, zeros], 1)
            }
        };
        x.reshape(&[b, self.n, self.c, h, width])
            .permute(&[1, 0, 3, 2, 4])
            .reshape(&[self.n * b * h, self.c, width])
    }

    /// `[N·B·H, C, X]` → `[B, T, H, X]`: the way back, padding dropped.
    pub(crate) fn join<B: Backend>(&self, x: Array<B>) -> FloatTensor<B> {
        let ([.., width], Dims { b, t, h, .. }) = (x.dims::<3>(), self.dims);
        let x = x
            .reshape(&[self.n, b, h, self.c, width])
            .permute(&[1, 0, 3, 2, 4])
            .reshape(&[b, self.n * self.c, h, width]);
        match self.n * self.c == t {
            true => x.0,
            false => x.narrow(1, 0, t).0,
        }
    }

    /// Heads in one chunk, `B · H`.
    pub(crate) fn heads(&self) -> usize {
        self.dims.b * self.dims.h
    }

    /// Chunk `i` of a chunk-major tensor, `[B·H, C, X]`.
    pub(crate) fn at<B: Backend>(&self, x: &Array<B>, i: usize) -> Array<B> {
        x.clone().narrow(0, i * self.heads(), self.heads())
    }

    /// As many as there are chunks, from the `i`th on.
    pub(crate) fn from<B: Backend>(&self, x: &Array<B>, i: usize) -> Array<B> {
        let heads = self.heads();
        x.clone().narrow(0, i * heads, self.n * heads)
    }
}

/// `[1, C, C]` with the first of two values where `keep(i, j)`, else the other.
pub(crate) fn triangle<B: Backend>(
    [inside, outside]: [f32; 2],
    c: usize,
    like: &Array<B>,
    keep: impl Fn(usize, usize) -> bool,
) -> Array<B> {
    let value = |at| {
        if keep(at / c, at % c) {
            inside
        } else {
            outside
        }
    };
    Array::from_values((0..c * c).map(value).collect(), &[1, c, c], like)
}

/// Ones on and below the diagonal: what masks, and what sums the last dim up from the end.
pub(crate) fn lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle([1.0, 0.0], c, like, |i, j| j <= i)
}

/// Ones below the diagonal.
pub(crate) fn strictly_lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle([1.0, 0.0], c, like, |i, j| j < i)
}
