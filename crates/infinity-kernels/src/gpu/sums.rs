//! Sums and maxima over the units of a cube, and over the rows of a matrix.

use super::{UNITS, cubes, empty, units};
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Columns that a cube of [`row_sums`] takes side by side.
const COLUMNS: usize = 16;

/// Units that share a row of `width` values: a power of two, up to [`UNITS`].
pub(crate) fn lanes(width: usize) -> usize {
    (width / 2).next_power_of_two().min(UNITS)
}

/// The sum of `x` over the unit's `lanes` neighbours, the same for all of them. `spare` has [`UNITS`]
/// values and is free before and after.
#[cube]
pub(crate) fn over_lanes(x: f32, spare: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    of_lanes(x, spare, lanes, false)
}

/// The largest `x` of the unit's `lanes` neighbours, as [`over_lanes`].
#[cube]
pub(crate) fn most_of_lanes(x: f32, spare: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    of_lanes(x, spare, lanes, true)
}

/// Halves what is left, pair by pair, until one is: sums, or the larger of two where `most`.
#[cube]
fn of_lanes(
    x: f32,
    spare: &mut Shared<[f32]>,
    #[comptime] lanes: usize,
    #[comptime] most: bool,
) -> f32 {
    let unit = UNIT_POS as usize;
    spare[unit] = x;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(lanes.ilog2() as usize) {
        let step = comptime!(lanes >> (level + 1));
        if unit % lanes < step {
            let other = spare[unit + step];
            if comptime!(most) {
                if other > spare[unit] {
                    spare[unit] = other;
                }
            } else {
                spare[unit] = spare[unit] + other;
            }
        }
        sync_cube();
    }
    let result = spare[unit / lanes * lanes];
    sync_cube();
    result
}

/// `out[c] = Σ_r x[r, from + c]`: a cube for [`COLUMNS`] columns, its units in as many rows as fit.
#[cube(launch)]
fn sum_rows(x: &[f32], out: &mut [f32], rows: usize, stride: usize, from: usize, columns: usize) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let lane = unit / COLUMNS;
    let column = CUBE_POS * COLUMNS + unit % COLUMNS;
    let mut sum = 0.0f32;
    if column < columns {
        let mut row = lane;
        while row < rows {
            sum += x[row * stride + from + column];
            row += comptime!(UNITS / COLUMNS);
        }
    }
    spare[unit] = sum;
    sync_cube();
    if lane == 0 && column < columns {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..comptime!(UNITS / COLUMNS) {
            sum += spare[i * COLUMNS + unit];
        }
        out[column] = sum;
    }
}

/// Sums over the rows of `x`, `rows` of `stride` values, from column `from` on, as many as `shape` has.
pub(crate) fn row_sums(
    x: &CubeTensor,
    [rows, stride, from]: [usize; 3],
    shape: impl Into<Shape>,
) -> CubeTensor {
    let out = empty(x, shape, DType::F32);
    let columns = out.meta.shape().num_elements();
    if columns > 0 {
        sum_rows::launch(
            &x.client,
            cubes(columns.div_ceil(COLUMNS)),
            units(),
            x.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            stride,
            from,
            columns,
        );
    }
    out
}
