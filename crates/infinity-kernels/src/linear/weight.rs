//! A projection's weight as it is stored, for products that read it so.

use crate::cpu::product::Left;
use crate::cpu::tensors::{Primitive, single, slice};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};

/// A weight `[D, N]`, stored by rows or by columns.
pub(super) struct Weight {
    data: Primitive,
    pub(super) by_columns: bool,
    pub(super) width: usize,
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

    /// Its values as they are stored: rows of inputs, or of outputs by columns.
    pub(super) fn values(&self) -> &[f32] {
        slice(&self.data)
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
