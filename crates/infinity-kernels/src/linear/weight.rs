//! A projection's weight as it is stored, for products that read it so.

use crate::cpu::product::Left;
use crate::cpu::simd::{LANES, Lanes};
use crate::cpu::tensors::{Primitive, single, slice};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::{DType, bf16};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Numbers that are widened at once, and stay in the last-level cache until they are multiplied.
const WIDENED: usize = 1 << 20;

/// A number of a weight, which counts as an `f32`.
pub(super) trait Number: Copy + Sync {
    fn widened(self) -> f32;

    /// [`LANES`] of them from `at` on.
    #[inline(always)]
    fn lanes(x: &[Self], at: usize) -> Lanes {
        assert!(at + LANES <= x.len());
        // SAFETY: as was just seen.
        unsafe { Self::lanes_there(x, at) }
    }

    /// As [`lanes`](Self::lanes), unchecked: a loop that may panic keeps its sums in memory.
    ///
    /// # Safety
    ///
    /// There must be as many.
    #[inline(always)]
    unsafe fn lanes_there(x: &[Self], at: usize) -> Lanes {
        // SAFETY: the caller's promise; an array of numbers has the alignment of one.
        let values = unsafe { &*x.as_ptr().add(at).cast::<[Self; LANES]>() };
        let mut wide = [0f32; LANES];
        for (wide, x) in wide.iter_mut().zip(values) {
            *wide = x.widened();
        }
        wide
    }
}

impl Number for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// The numbers of a weight.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
}

/// A weight `[D, N]`, stored by rows or by columns, in f32 or bf16.
pub(super) struct Weight {
    data: Primitive,
    pub(super) by_columns: bool,
    pub(super) width: usize,
    pub(super) out: usize,
}

impl Weight {
    pub(super) fn new(weight: Primitive) -> Self {
        let [width, out] = weight.shape().dims();
        let lies_together = |x: &Primitive| match x.dtype() {
            DType::BF16 => x.as_slice::<bf16>().is_some(),
            _ => x.as_slice::<f32>().is_some(),
        };
        let transposed = Flex::float_swap_dims(weight.clone(), 0, 1);
        let by_columns = lies_together(&transposed);
        let data = match by_columns {
            true => transposed,
            false if lies_together(&weight) => weight,
            false if weight.dtype() == DType::BF16 => weight.to_contiguous(),
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
    pub(super) fn values(&self) -> Values<'_> {
        match self.data.as_slice::<bf16>() {
            Some(values) => Values::Half(values),
            None => Values::Single(slice(&self.data)),
        }
    }

    /// [`values`](Self::values) as a factor.
    pub(super) fn view<'a, T>(&self, values: &'a [T]) -> Left<'a, T> {
        match self.by_columns {
            true => Left::transposed(values, self.width),
            false => Left::rows(values, self.out),
        }
    }

    #[cfg(test)]
    pub(super) fn stored(&self) -> &Primitive {
        &self.data
    }

    /// Gives `work` its columns in f32, some at a time, for products of many rows: all at once if they are stored so, else
    /// as many as a cache keeps.
    pub(super) fn in_parts(&self, mut work: impl FnMut(Range<usize>, Left<'_>)) {
        let values = match self.values() {
            Values::Single(values) => return work(0..self.out, self.view(values)),
            Values::Half(values) => values,
        };
        let at_once = (WIDENED / self.width.max(1)).max(LANES);
        for start in (0..self.out).step_by(at_once) {
            let columns = start..self.out.min(start + at_once);
            let wide = self.widened(values, columns.clone());
            let view = match self.by_columns {
                true => self.view(&wide),
                false => Left::rows(&wide, columns.len()),
            };
            work(columns, view);
        }
    }

    fn widened(&self, values: &[bf16], columns: Range<usize>) -> Vec<f32> {
        let widen = |(wide, values): (&mut [MaybeUninit<f32>], &[bf16])| {
            for (wide, x) in wide.iter_mut().zip(values) {
                wide.write(x.widened());
            }
        };
        let mut wide = Box::new_uninit_slice(self.width * columns.len());
        match self.by_columns {
            true => {
                let values = values[columns.start * self.width..].par_chunks(self.width);
                wide.par_chunks_mut(self.width).zip(values).for_each(widen);
            }
            false => {
                let values = values.par_chunks(self.out);
                let values = values.map(|row| &row[columns.clone()]);
                wide.par_chunks_mut(columns.len())
                    .zip(values)
                    .for_each(widen);
            }
        }
        // SAFETY: there is a chunk of values as long for each of the chunks that `wide` is made of.
        unsafe { wide.assume_init() }.into_vec()
    }
}
