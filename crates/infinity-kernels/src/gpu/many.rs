//! Tensors of any sizes in one launch: as many of them as a device binds buffers for.
//!
//! Results lie side by side in one buffer, each where a device can bind it alone, so that they take one
//! binding and not one each.

use super::{UNITS, contiguous, cubes, empty, units};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Tensors in one launch at most: a kernel's code grows with them.
const MOST: usize = 48;

/// How many tensors go into one launch that binds `each` buffers for every one, `others` beside them and one
/// for the numbers of the call.
pub(crate) fn in_a_launch(of: &CubeTensor, each: usize, others: usize) -> usize {
    let bindings = of.client.properties().hardware.max_bindings as usize;
    (bindings.saturating_sub(others + 1) / each).clamp(1, MOST)
}

/// `items` for one launch after the other, each with the number of its first and with places for `len` values of every item.
/// A launch binds `each` buffers for an item and `others` beside those.
pub(crate) fn launches<'a, T>(
    of: &'a CubeTensor,
    items: &'a [T],
    [each, others]: [usize; 2],
    len: impl Fn(&T) -> usize,
) -> impl Iterator<Item = (usize, &'a [T], Places)> {
    let n = in_a_launch(of, each, others);
    let some = items.chunks(n).enumerate();
    some.map(move |(i, some)| (i * n, some, Places::new(of, some.iter().map(&len))))
}

/// Where tensors begin: the first cube of each, its values, and its first value in a buffer of all.
pub(crate) struct Places {
    pub(crate) first: Vec<usize>,
    pub(crate) len: Vec<usize>,
    pub(crate) start: Vec<usize>,
    cubes: usize,
    /// Values of that buffer.
    pub(crate) values: usize,
}

impl Places {
    /// For tensors of as many values; a cube has a value a unit.
    pub(crate) fn new(of: &CubeTensor, len: impl IntoIterator<Item = usize>) -> Self {
        let aligned = of.client.properties().memory.alignment as usize / size_of::<f32>();
        Self::aligned(len, aligned.max(1))
    }

    /// The same on any device, every tensor at a multiple of `aligned` values.
    pub(crate) fn aligned(len: impl IntoIterator<Item = usize>, aligned: usize) -> Self {
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

    /// Those of `buffer`, from the first on, as tensors of `shapes`.
    pub(crate) fn parts(
        &self,
        buffer: &CubeTensor,
        shapes: impl IntoIterator<Item = impl Into<Shape>>,
    ) -> Vec<CubeTensor> {
        let shapes = shapes.into_iter().enumerate();
        let parts = shapes.map(|(i, shape)| self.part(buffer, i, shape));
        parts.collect()
    }

    /// The `i`th of `buffer` as a tensor of `shape`.
    pub(crate) fn part(
        &self,
        buffer: &CubeTensor,
        i: usize,
        shape: impl Into<Shape>,
    ) -> CubeTensor {
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let end = self.start[i] + self.len[i].max(1);
        let handle = buffer.handle.clone();
        let handle = handle.offset_start(bytes(self.start[i]));
        let handle = handle.offset_end(buffer.handle.size_in_used() - bytes(end));
        CubeTensor::new_contiguous(
            buffer.client.clone(),
            buffer.device(),
            shape.into(),
            handle,
            buffer.dtype,
        )
    }
}

/// A matrix, its place, and the first of its columns among those of all; one that is not there is zeros.
#[derive(CubeType, CubeLaunch)]
struct Part {
    x: Box<[f32]>,
    there: usize,
    first: usize,
    len: usize,
    width: usize,
    column: usize,
}

#[cube(launch)]
fn join_units(parts: &Sequence<Part>, out: &mut [f32], width: usize, #[comptime] count: usize) {
    #[unroll]
    for i in 0..count {
        let part = parts.index(i);
        let at = (CUBE_POS - part.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= part.first && at < part.len {
            let mut value = 0.0f32;
            if part.there > 0usize {
                value = part.x[at];
            }
            out[at / part.width * width + part.column + at % part.width] = value;
        }
    }
}

/// Matrices of `rows` rows side by side, in `f32`; one that is not there is zeros of so many columns.
pub(crate) fn side_by_side(
    of: &CubeTensor,
    rows: usize,
    parts: Vec<(Option<CubeTensor>, usize)>,
) -> CubeTensor {
    let mut width = 0;
    let parts = parts.into_iter().map(|(x, columns)| {
        width += columns;
        (x, [rows * columns, columns, width - columns])
    });
    let parts: Vec<_> = parts.collect();
    let out = empty(of, [rows, width], DType::F32);
    join(of, parts, &out, width);
    out
}

/// Writes matrices, each with its numbers, its columns and the first of these among those of all, to `out`, rows of `width`;
/// one that is not there is zeros.
pub(crate) fn join(
    of: &CubeTensor,
    parts: Vec<(Option<CubeTensor>, [usize; 3])>,
    out: &CubeTensor,
    width: usize,
) {
    for (_, some, places) in launches(of, &parts, [1, 1], |(_, [len, ..])| *len) {
        let sequence = some.iter().enumerate().map(|(i, (x, place))| {
            let [len, columns, column] = *place;
            let there = usize::from(x.is_some());
            let x = x.clone().map_or(of.clone(), |x| contiguous(x, DType::F32));
            let (x, first) = (x.into_buffer_arg(), places.first[i]);
            PartLaunch::new(x, there, first, len, columns.max(1), column)
        });
        if !places.are_empty() {
            join_units::launch(
                &of.client,
                places.cubes(),
                units(),
                sequence.collect(),
                out.clone().into_buffer_arg(),
                width,
                some.len(),
            );
        }
    }
}

/// The place of some columns, and the first of them.
#[derive(CubeType, CubeLaunch)]
struct Columns {
    first: usize,
    len: usize,
    width: usize,
    column: usize,
    start: usize,
}

#[cube(launch)]
fn part_units(
    x: &[f32],
    parts: &Sequence<Columns>,
    out: &mut [f32],
    width: usize,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..count {
        let part = parts.index(i);
        let at = (CUBE_POS - part.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= part.first && at < part.len {
            out[part.start + at] = x[at / part.width * width + part.column + at % part.width];
        }
    }
}

/// The columns of `x` `[rows, …]` in matrices of these widths, in `f32`: [`side_by_side`] undone.
pub(crate) fn columns(x: CubeTensor, widths: &[usize]) -> Vec<CubeTensor> {
    let x = contiguous(x, DType::F32);
    let [rows, width] = x.shape().dims();
    let places = Places::new(&x, widths.iter().map(|width| rows * width));
    let out = places.buffer(&x);
    let mut column = 0;
    let sequence = widths.iter().enumerate().map(|(i, part)| {
        let (first, len, start) = (places.first[i], places.len[i], places.start[i]);
        column += part;
        ColumnsLaunch::new(first, len, (*part).max(1), column - part, start)
    });
    let sequence = sequence.collect();
    if !places.are_empty() {
        part_units::launch(
            &x.client.clone(),
            places.cubes(),
            units(),
            x.into_buffer_arg(),
            sequence,
            out.clone().into_buffer_arg(),
            width,
            widths.len(),
        );
    }
    places.parts(&out, widths.iter().map(|width| [rows, *width]))
}
