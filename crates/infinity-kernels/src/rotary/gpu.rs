//! Feature map, unit length and rotation on CubeCL runtimes: one launch forward, one back.

use super::unit::Unit;
use crate::feature_map::FeatureMap;
use crate::gpu::sums::{lanes, over_lanes};
use crate::gpu::{UNITS, contiguous, cubes, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Sizes of `[B, T, H, K]` and of the tables.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Sizes {
    rows: usize,
    t: usize,
    h: usize,
    key_dim: usize,
    /// Pairs that are turned.
    half: usize,
    /// Rows of the batch that have a table: all, or one for all.
    tables: usize,
    /// What is added to the square of a length.
    eps: f32,
}

#[cube]
fn mapped(x: f32, #[comptime] map: FeatureMap) -> f32 {
    let mut y = x;
    if comptime!(map == FeatureMap::Relu) {
        y = max(x, 0.0f32);
    } else if comptime!(map == FeatureMap::EluPlusOne) {
        if x > 0.0f32 {
            y = x + 1.0f32;
        } else {
            y = x.exp();
        }
    }
    y
}

/// Where the table of a row starts.
#[cube]
fn table(sizes: Sizes, row: usize) -> usize {
    let token = row / sizes.h;
    let batch = token / sizes.t % sizes.tables;
    (batch * sizes.t + token % sizes.t) * sizes.key_dim
}

/// The dim that `at` is turned with, and the sign of its part in `at`; `at` itself and 0 where it is not
/// turned.
#[cube]
fn partner(at: usize, half: usize) -> (usize, f32) {
    let mut other = at;
    let mut sign = 0.0f32;
    if at < half {
        other = at + half;
        sign = -1.0f32;
    } else if at < 2usize * half {
        other = at - half;
        sign = 1.0f32;
    }
    (other, sign)
}

#[cube(launch)]
fn forward_rows<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    sizes: Sizes,
    #[comptime] map: FeatureMap,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * sizes.key_dim;
    let mut squares = 0.0f32;
    if row < sizes.rows {
        let mut at = lane;
        while at < sizes.key_dim {
            let phi = mapped(f32::cast_from(x[from + at]), map);
            squares += phi * phi;
            at += lanes;
        }
    }
    let squares = over_lanes(squares, &mut spare, lanes);
    let inverse = 1.0f32 / (squares + sizes.eps).sqrt();
    if row < sizes.rows {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let here = mapped(f32::cast_from(x[from + at]), map) * inverse;
            let there = mapped(f32::cast_from(x[from + other]), map) * inverse;
            let turned = cos[table + at] * here + sign * sin[table + at] * there;
            y[from + at] = F::cast_from(turned);
            at += lanes;
        }
    }
}

#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn backward_rows<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    d_y: &[F],
    d_x: &mut [F],
    sizes: Sizes,
    #[comptime] map: FeatureMap,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * sizes.key_dim;
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    if row < sizes.rows {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let phi = mapped(f32::cast_from(x[from + at]), map);
            // The rotation turned back.
            let d = cos[table + at] * f32::cast_from(d_y[from + at])
                - sign * sin[table + at] * f32::cast_from(d_y[from + other]);
            squares += phi * phi;
            along += phi * d;
            at += lanes;
        }
    }
    let squares = over_lanes(squares, &mut spare, lanes);
    let along = over_lanes(along, &mut spare, lanes);
    let inverse = 1.0f32 / (squares + sizes.eps).sqrt();
    let back = along * inverse * inverse * inverse;
    if row < sizes.rows {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let value = f32::cast_from(x[from + at]);
            let phi = mapped(value, map);
            let d = cos[table + at] * f32::cast_from(d_y[from + at])
                - sign * sin[table + at] * f32::cast_from(d_y[from + other]);
            let mut d = d * inverse - back * phi;
            if comptime!(map == FeatureMap::Relu) {
                if value <= 0.0f32 {
                    d = 0.0f32;
                }
            } else if comptime!(map == FeatureMap::EluPlusOne) {
                if value <= 0.0f32 {
                    d *= phi;
                }
            }
            d_x[from + at] = F::cast_from(d);
            at += lanes;
        }
    }
}

/// Contiguous tensors of a call: vectors, cosines, sines.
struct Call {
    x: CubeTensor,
    tables: [CubeTensor; 2],
    unit: Unit,
    dtype: DType,
}

impl Call {
    fn new(unit: Unit, [x, cos, sin]: [CubeTensor; 3]) -> Self {
        let dtype = row_type(x.dtype);
        Call {
            x: contiguous(x, dtype),
            tables: [cos, sin].map(|table| contiguous(table, DType::F32)),
            unit,
            dtype,
        }
    }

    fn rows(&self) -> usize {
        let [b, t, h, _] = self.x.shape().dims();
        b * t * h
    }

    fn lanes(&self) -> usize {
        let [.., key_dim] = self.x.shape().dims::<4>();
        lanes(key_dim)
    }

    fn sizes(&self) -> SizesLaunch {
        let [_, t, h, key_dim] = self.x.shape().dims();
        let [tables, ..] = self.tables[0].shape().dims::<4>();
        let Unit { half, eps, .. } = self.unit;
        SizesLaunch::new(self.rows(), t, h, key_dim, half, tables, eps)
    }

    fn cubes(&self) -> CubeCount {
        cubes(self.rows().div_ceil(UNITS / self.lanes()))
    }
}

/// The rotated unit vectors.
pub(super) fn forward(unit: Unit, inputs: [CubeTensor; 3]) -> CubeTensor {
    let call = Call::new(unit, inputs);
    let y = empty(&call.x, call.x.shape(), call.dtype);
    if y.shape().num_elements() > 0 {
        let [cos, sin] = call.tables.clone();
        forward_rows::launch(
            &call.x.client,
            call.cubes(),
            units(),
            call.x.clone().into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            call.sizes(),
            unit.map,
            call.lanes(),
            element(call.dtype),
        );
    }
    y
}

/// Gradient of the inputs.
pub(super) fn backward(unit: Unit, inputs: [CubeTensor; 3], d_y: CubeTensor) -> CubeTensor {
    let call = Call::new(unit, inputs);
    let d_y = contiguous(d_y, call.dtype);
    let d_x = empty(&call.x, call.x.shape(), call.dtype);
    if d_x.shape().num_elements() > 0 {
        let [cos, sin] = call.tables.clone();
        backward_rows::launch(
            &call.x.client,
            call.cubes(),
            units(),
            call.x.clone().into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            d_y.into_buffer_arg(),
            d_x.clone().into_buffer_arg(),
            call.sizes(),
            unit.map,
            call.lanes(),
            element(call.dtype),
        );
    }
    d_x
}
