//! Lookup and gradient on CubeCL runtimes.

use crate::gpu::sums::most_of_lanes;
use crate::gpu::{UNITS, cast, contiguous, cubes, cubes_of_units, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Ids that a unit looks at before the cube decides whether one of them is its own.
const EACH: usize = 8;
/// Ids that a cube looks at at once.
const AT_ONCE: usize = EACH * UNITS;

#[cube(launch)]
fn look_up<F: Float>(
    weight: &[F],
    ids: &[f32],
    out: &mut [F],
    len: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < len {
        out[at] = weight[usize::cast_from(ids[at / width]) * width + at % width];
    }
}

/// A cube a row of the weight, a unit the columns that are [`UNITS`] apart, at most `columns` of them.
#[cube(launch)]
fn add_up<F: Float>(
    ids: &[f32],
    d_y: &[F],
    d_weight: &mut [F],
    tokens: usize,
    rows: usize,
    width: usize,
    #[comptime] columns: usize,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= rows {
        terminate!();
    }
    let row = CUBE_POS;
    let unit = UNIT_POS as usize;
    let own = f32::cast_from(row);
    let mut seen = Shared::<[f32]>::new_slice(AT_ONCE);
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let mut sums = Array::<f32>::new(columns);
    #[unroll]
    for c in 0..columns {
        sums[c] = 0.0f32;
    }
    let mut first = 0usize;
    while first < tokens {
        let mut found = 0.0f32;
        #[unroll]
        for i in 0..EACH {
            let at = comptime!(i * UNITS) + unit;
            let mut is_own = 0.0f32;
            if first + at < tokens && ids[first + at] == own {
                is_own = 1.0f32;
                found = 1.0f32;
            }
            seen[at] = is_own;
        }
        // Which also waits for all of `seen`.
        if most_of_lanes(found, &mut spare, UNITS) > 0.0f32 {
            for at in 0..AT_ONCE {
                if seen[at] > 0.0f32 {
                    #[unroll]
                    for c in 0..columns {
                        let column = comptime!(c * UNITS) + unit;
                        if column < width {
                            sums[c] += f32::cast_from(d_y[(first + at) * width + column]);
                        }
                    }
                }
            }
        }
        sync_cube();
        first += AT_ONCE;
    }
    #[unroll]
    for c in 0..columns {
        let column = comptime!(c * UNITS) + unit;
        if column < width {
            d_weight[row * width + column] = F::cast_from(sums[c]);
        }
    }
}

/// The rows that are named, `[B, T, D]`.
pub(super) fn forward(weight: CubeTensor, ids: CubeTensor) -> CubeTensor {
    let [_, width] = weight.shape().dims();
    let [b, t] = ids.shape().dims();
    let dtype = weight.dtype;
    let weight = contiguous(weight, row_type(dtype));
    let out = empty(&weight, [b, t, width], weight.dtype);
    let len = b * t * width;
    look_up::launch(
        &weight.client.clone(),
        cubes_of_units(len),
        units(),
        weight.clone().into_buffer_arg(),
        contiguous(ids, DType::F32).into_buffer_arg(),
        out.clone().into_buffer_arg(),
        len,
        width,
        element(weight.dtype),
    );
    cast(out, dtype)
}

/// The gradient of the weight.
pub(super) fn backward(weight: CubeTensor, ids: CubeTensor, d_y: CubeTensor) -> CubeTensor {
    let [rows, width] = weight.shape().dims();
    let dtype = weight.dtype;
    let d_y = contiguous(d_y, row_type(dtype));
    let out = empty(&d_y, [rows, width], d_y.dtype);
    add_up::launch(
        &d_y.client.clone(),
        cubes(rows),
        units(),
        contiguous(ids.clone(), DType::F32).into_buffer_arg(),
        d_y.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        ids.shape().num_elements(),
        rows,
        width,
        width.div_ceil(UNITS),
        element(d_y.dtype),
    );
    cast(out, dtype)
}
