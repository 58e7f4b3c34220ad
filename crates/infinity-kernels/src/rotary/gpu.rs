//! Feature map, unit length and rotation on CubeCL runtimes: one launch forward, one back, for one tensor of
//! vectors or for two.

#![allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]

use super::unit::Unit;
use crate::feature_map::FeatureMap;
use crate::gpu::sums::{lanes, over_lanes};
use crate::gpu::{UNITS, contiguous, cubes, element, empty, row_type, single, units};
use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Sizes of `[B, T, H, K]` and of the tables.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Sizes {
    /// Rows of the first tensor, and of both.
    rows: usize,
    all: usize,
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

/// The number at `at`, counted through both tensors.
#[cube]
fn of_both<F: Float>(x: &[F], y: &[F], at: usize, len: usize) -> f32 {
    if at < len {
        f32::cast_from(x[at])
    } else {
        f32::cast_from(y[at - len])
    }
}

/// Where the table of a row starts.
#[cube]
fn table(sizes: Sizes, row: usize) -> usize {
    let token = row % sizes.rows / sizes.h;
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
    other_x: &[F],
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    other_y: &mut [F],
    sizes: Sizes,
    #[comptime] map: FeatureMap,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * sizes.key_dim;
    let len = sizes.rows * sizes.key_dim;
    let mut squares = 0.0f32;
    if row < sizes.all {
        let mut at = lane;
        while at < sizes.key_dim {
            let phi = mapped(of_both(x, other_x, from + at, len), map);
            squares += phi * phi;
            at += lanes;
        }
    }
    let squares = over_lanes(squares, &mut spare, lanes);
    let inverse = 1.0f32 / (squares + sizes.eps).sqrt();
    if row < sizes.all {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let here = mapped(of_both(x, other_x, from + at, len), map) * inverse;
            let there = mapped(of_both(x, other_x, from + other, len), map) * inverse;
            let turned = cos[table + at] * here + sign * sin[table + at] * there;
            if from < len {
                y[from + at] = F::cast_from(turned);
            } else {
                other_y[from + at - len] = F::cast_from(turned);
            }
            at += lanes;
        }
    }
}

#[cube(launch)]
fn backward_rows<F: Float>(
    x: &[F],
    other_x: &[F],
    cos: &[f32],
    sin: &[f32],
    d_y: &[F],
    other_d_y: &[F],
    d_x: &mut [F],
    other_d_x: &mut [F],
    sizes: Sizes,
    #[comptime] map: FeatureMap,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * sizes.key_dim;
    let len = sizes.rows * sizes.key_dim;
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    if row < sizes.all {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let phi = mapped(of_both(x, other_x, from + at, len), map);
            // The rotation turned back.
            let d = cos[table + at] * of_both(d_y, other_d_y, from + at, len)
                - sign * sin[table + at] * of_both(d_y, other_d_y, from + other, len);
            squares += phi * phi;
            along += phi * d;
            at += lanes;
        }
    }
    let squares = over_lanes(squares, &mut spare, lanes);
    let along = over_lanes(along, &mut spare, lanes);
    let inverse = 1.0f32 / (squares + sizes.eps).sqrt();
    let back = along * inverse * inverse * inverse;
    if row < sizes.all {
        let table = table(sizes, row);
        let mut at = lane;
        while at < sizes.key_dim {
            let (other, sign) = partner(at, sizes.half);
            let value = of_both(x, other_x, from + at, len);
            let phi = mapped(value, map);
            let d = cos[table + at] * of_both(d_y, other_d_y, from + at, len)
                - sign * sin[table + at] * of_both(d_y, other_d_y, from + other, len);
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
            if from < len {
                d_x[from + at] = F::cast_from(d);
            } else {
                other_d_x[from + at - len] = F::cast_from(d);
            }
            at += lanes;
        }
    }
}

/// The rotated unit vectors of one or two tensors, or, with the gradients of those, the gradients of the inputs.
pub(super) fn run(
    unit: Unit,
    mut inputs: Vec<CubeTensor>,
    grads: Option<Vec<CubeTensor>>,
) -> Vec<CubeTensor> {
    let dtype = row_type(inputs[0].dtype);
    let tables = single(inputs.split_off(inputs.len() - 2));
    let ready = |x| contiguous(x, dtype);
    let vectors: Vec<_> = inputs.into_iter().map(ready).collect();
    let of = &vectors[0];
    let like = |x: &CubeTensor| empty(x, x.shape(), dtype);
    let results: Vec<_> = vectors.iter().map(like).collect();
    let ([b, t, h, key_dim], [tabled, ..]) = (of.shape().dims(), tables[0].shape().dims::<4>());
    let (rows, all, lanes) = (b * t * h, b * t * h * vectors.len(), lanes(key_dim));
    if all * key_dim == 0 {
        return results;
    }
    let Unit { map, half, eps } = unit;
    let sizes = SizesLaunch::new(rows, all, t, h, key_dim, half, tabled, eps);
    let cubes = cubes(all.div_ceil(UNITS / lanes));
    let both = |of: &[CubeTensor], else_this: &CubeTensor| {
        [&of[0], of.get(1).unwrap_or(else_this)].map(|x| x.clone().into_buffer_arg())
    };
    let [x, other_x] = both(&vectors, of);
    // A buffer is written by one name only.
    let [y, other_y] = both(&results, &empty(of, [1], dtype));
    let [cos, sin] = both(&tables, of);
    match grads {
        None => forward_rows::launch(
            &of.client,
            cubes,
            units(),
            x,
            other_x,
            cos,
            sin,
            y,
            other_y,
            sizes,
            map,
            lanes,
            element(dtype),
        ),
        Some(grads) => {
            let grads: Vec<_> = grads.into_iter().map(ready).collect();
            let [d_y, other_d_y] = both(&grads, &grads[0]);
            backward_rows::launch(
                &of.client,
                cubes,
                units(),
                x,
                other_x,
                cos,
                sin,
                d_y,
                other_d_y,
                y,
                other_y,
                sizes,
                map,
                lanes,
                element(dtype),
            );
        }
    }
    results
}
