//! Tensors of any sizes in one launch: as many of them as a device binds buffers for.
//!
//! Results lie side by side in one buffer, each where a device can bind it alone, so that they take one
//! binding and not one each.

use super::{UNITS, cubes, empty};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::prelude::CubeCount;
use burn_cubecl::tensor::CubeTensor;

/// Tensors in one launch at most: a kernel's code grows with them.
const MOST: usize = 48;

/// How many tensors go into one launch that binds `each` buffers for every one, `others` beside them and one
/// for the numbers of the call.
pub(crate) fn in_a_launch(of: &CubeTensor, each: usize, others: usize) -> usize {
    let bindings = of.client.properties().hardware.max_bindings as usize;
    (bindings.saturating_sub(others + 1) / each).clamp(1, MOST)
}

/// Where tensors begin: the first cube of each, its values, and its first value in a buffer of all.
pub(crate) struct Places {
    pub(crate) first: Vec<usize>,
    pub(crate) len: Vec<usize>,
    pub(crate) start: Vec<usize>,
    cubes: usize,
    values: usize,
}

impl Places {
    /// For tensors of as many values; a cube has a value a unit.
    pub(crate) fn new(of: &CubeTensor, len: impl IntoIterator<Item = usize>) -> Self {
        let aligned = (of.client.properties().memory.alignment as usize / size_of::<f32>()).max(1);
        let mut all = Places {
            first: Vec::new(),
            len: len.into_iter().collect(),
            start: Vec::new(),
            cubes: 0,
            values: 0,
        };
        for len in &all.len {
            all.first.push(all.cubes);
            all.start.push(all.values);
            all.cubes += len.div_ceil(UNITS);
            // Not even one of nothing begins where the next does.
            all.values += len.max(&1).next_multiple_of(aligned);
        }
        all
    }

    /// Cubes that all of them take.
    pub(crate) fn cubes(&self) -> CubeCount {
        cubes(self.cubes)
    }

    pub(crate) fn are_empty(&self) -> bool {
        self.cubes == 0
    }

    /// A buffer for all, in `f32`.
    pub(crate) fn buffer(&self, of: &CubeTensor) -> CubeTensor {
        empty(of, [self.values], DType::F32)
    }

    /// The `i`th of `buffer` as a tensor of `shape`.
    pub(crate) fn part(&self, buffer: &CubeTensor, i: usize, shape: Shape) -> CubeTensor {
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let end = self.start[i] + self.len[i].max(1);
        let handle = buffer.handle.clone();
        let handle = handle.offset_start(bytes(self.start[i]));
        let handle = handle.offset_end(buffer.handle.size_in_used() - bytes(end));
        CubeTensor::new_contiguous(
            buffer.client.clone(),
            buffer.device(),
            shape,
            handle,
            buffer.dtype,
        )
    }
}
