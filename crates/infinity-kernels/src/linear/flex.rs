//! A projection of many rows on the CPU, and its gradients: three products that read their factors
//! as they are stored.

use crate::math::blocked::product;
use crate::math::flex_values::{Primitive, single, slice, tensor};
use crate::math::product::Left;
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::Shape;

/// A weight `[D, N]`, stored by rows or by columns.
pub(super) struct Weight {
    data: Primitive,
    by_columns: bool,
    width: usize,
    pub(super) out: usize,
}

impl Weight {
    pub(super) fn new(weight: Primitive) -> Self {
        let [width, out] = weight.shape().dims();
        let transposed = Flex::float_swap_dims(weight.clone(), 0, 1);
        let by_columns = transposed.as_slice::<f32>().is_some();
        let data = match by_columns {
            true => transposed,
            false => single(weight),
        };
        Weight {
            data,
            by_columns,
            width,
            out,
        }
    }

    pub(super) fn view(&self) -> Left<'_> {
        match self.by_columns {
            true => Left::transposed(slice(&self.data), self.width),
            false => Left::rows(slice(&self.data), self.out),
        }
    }

    pub(super) fn transposed(&self) -> Left<'_> {
        let Left { data, row, col } = self.view();
        Left {
            data,
            row: col,
            col: row,
        }
    }
}

/// `x · weight` for `x` `[B, T, D]`.
pub(crate) fn forward(x: Primitive, weight: Primitive) -> Primitive {
    let (dtype, [b, t, width]) = (x.dtype(), x.shape().dims());
    let (x, weight) = (single(x), Weight::new(weight));
    let size = [b * t, weight.out, width];
    let y = product(size, Left::rows(slice(&x), width), weight.view());
    tensor(y, Shape::from([b, t, weight.out]), dtype)
}

/// Gradients of `x` and `weight`.
pub(crate) fn backward(x: Primitive, weight: Primitive, d_y: Primitive) -> (Primitive, Primitive) {
    let (dtype, shape) = (x.dtype(), x.shape());
    let (weight_dtype, weight_shape) = (weight.dtype(), weight.shape());
    let [b, t, width] = shape.dims();
    let (x, d_y, weight) = (single(x), single(d_y), Weight::new(weight));
    let (rows, out) = (b * t, weight.out);
    let d_y = Left::rows(slice(&d_y), out);
    let d_x = product([rows, width, out], d_y, weight.transposed());
    let x = Left::transposed(slice(&x), width);
    let d_weight = product([width, out, rows], x, d_y);
    (
        tensor(d_x, shape, dtype),
        tensor(d_weight, weight_shape, weight_dtype),
    )
}
