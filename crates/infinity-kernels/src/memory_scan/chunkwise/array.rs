//! A backend's float tensor with the handful of operations that the chunk form needs.
//!
//! Operators with a hand-written backward work below autodiff, on the primitives of whatever backend
//! runs. This wrapper gives those primitives methods, so the equations stay readable. Then how time is
//! cut, chunk-major, `[B, T, H, X]` ↔ `[N·B·H, C, X]`, because the loop over chunks then takes contiguous
//! slices; and decays inside a chunk,
//!
//! ```text
//! b_i  = Σ_{l≤i} g_l                       inclusive cumulative log decay
//! E_ij = exp(b_i − b_j) for i ≥ j, else 0  how much of a write at j is left at i
//! ```
//!
//! where `g ≤ 0`, so every exponent that survives the mask is at most 0: nothing can overflow. The mask
//! is applied to the exponent, before `exp`. The last chunk is filled up with zeros: a position with
//! `k = v = 0`, `g = 0` and `u = 0` leaves every state as it is, so ragged lengths need no mask.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Shape, TensorData};
use std::ops::{Add, Mul, Sub};

/// Added to an exponent that must come out as zero. Finite, because WGSL may assume no infinities.
const MASKED: f32 = -1e30;

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

/// How `T` positions of `B × H` heads are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunking {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) h: usize,
    /// Chunks.
    pub(crate) n: usize,
    /// Positions in a chunk.
    pub(crate) c: usize,
}

impl Chunking {
    pub(crate) fn new(b: usize, t: usize, h: usize, c: usize) -> Self {
        let c = c.clamp(1, t.max(1));
        Chunking {
            b,
            t,
            h,
            n: t.div_ceil(c),
            c,
        }
    }

    /// `[B, T, H, X]` → `[N·B·H, C, X]`, zeros behind the end.
    pub(crate) fn split<B: Backend>(&self, x: Array<B>) -> Array<B> {
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
    pub(crate) fn join<B: Backend>(&self, x: Array<B>) -> Array<B> {
        let [.., width] = x.dims::<3>();
        let x = x
            .reshape(&[self.n, self.b, self.h, self.c, width])
            .permute(&[1, 0, 3, 2, 4])
            .reshape(&[self.b, self.n * self.c, self.h, width]);
        match self.n * self.c == self.t {
            true => x,
            false => x.narrow(1, 0, self.t),
        }
    }

    /// Heads in one chunk, `B · H`.
    pub(crate) fn heads(&self) -> usize {
        self.b * self.h
    }

    /// Chunk `i` of a chunk-major tensor, `[B·H, C, X]`.
    pub(crate) fn at<B: Backend>(&self, x: &Array<B>, i: usize) -> Array<B> {
        x.clone().narrow(0, i * self.heads(), self.heads())
    }
}

/// `[1, C, C]` with one where `keep(i, j)`, else zero.
fn triangle<B: Backend>(
    c: usize,
    like: &Array<B>,
    keep: impl Fn(usize, usize) -> bool,
) -> Array<B> {
    let value = |at| if keep(at / c, at % c) { 1.0 } else { 0.0 };
    Array::from_values((0..c * c).map(value).collect(), &[1, c, c], like)
}

/// Ones on and below the diagonal: what masks, and what sums the last dim up from the end.
pub(crate) fn lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle(c, like, |i, j| j <= i)
}

/// Ones below the diagonal.
pub(crate) fn strictly_lower<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle(c, like, |i, j| j < i)
}

/// Ones on and above the diagonal: what sums the last dim up from the start.
pub(crate) fn upper<B: Backend>(c: usize, like: &Array<B>) -> Array<B> {
    triangle(c, like, |i, j| i <= j)
}

/// `E` `[X, S, C, C]` from cumulative log decays `b` `[X, S, C]`.
pub(crate) fn within<B: Backend>(b: &Array<B>) -> Array<B> {
    let [x, s, c] = b.dims();
    let value = |at| if at % c <= at / c { 0.0 } else { MASKED };
    let mask = Array::from_values((0..c * c).map(value).collect(), &[1, 1, c, c], b);
    let rows = b.clone().reshape(&[x, s, c, 1]);
    let columns = b.clone().reshape(&[x, s, 1, c]);
    ((rows - columns) + mask).exp()
}
