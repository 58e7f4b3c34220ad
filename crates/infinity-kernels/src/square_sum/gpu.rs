//! The sum on CubeCL runtimes: a launch for as many tensors as a device binds buffers for, and one for what
//! the cubes of those found.

use crate::gpu::many::in_a_launch;
use crate::gpu::sums::over_lanes;
use crate::gpu::{UNITS, cubes, empty, single, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Cubes that share all tensors of a launch.
const CUBES: usize = 128;

/// A tensor and how many numbers it has.
#[derive(CubeType, CubeLaunch)]
struct Values {
    x: Box<[f32]>,
    len: usize,
}

/// Every cube's part of the sum, from `from` on in `sums`.
#[cube(launch)]
fn sum_units(
    tensors: &Sequence<Values>,
    sums: &mut [f32],
    from: usize,
    #[comptime] count: usize,
    #[comptime] cubes: usize,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..count {
        let tensor = tensors.index(i);
        let mut at = ABSOLUTE_POS;
        while at < tensor.len {
            let x = tensor.x[at];
            sum += x * x;
            at += comptime!(UNITS * cubes);
        }
    }
    let sum = over_lanes(sum, &mut spare, UNITS);
    if UNIT_POS == 0 {
        sums[from + CUBE_POS] = sum;
    }
}

/// The sum of `sums`, by one cube.
#[cube(launch)]
fn sum_of_cubes(sums: &[f32], out: &mut [f32], len: usize) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < len {
        sum += sums[at];
        at += UNITS;
    }
    let sum = over_lanes(sum, &mut spare, UNITS);
    if UNIT_POS == 0 {
        out[0] = sum;
    }
}

/// `Σ x²`, `[1]`.
pub(super) fn square_sum(inputs: Vec<CubeTensor>) -> CubeTensor {
    let inputs = single(inputs);
    let of = &inputs[0];
    let groups: Vec<_> = inputs.chunks(in_a_launch(of, 1, 1)).collect();
    let len = groups.len() * CUBES;
    let sums = empty(of, [len], DType::F32);
    for (i, group) in groups.into_iter().enumerate() {
        let tensors = group.iter().map(|x| {
            let len = x.shape().num_elements();
            ValuesLaunch::new(x.clone().into_buffer_arg(), len)
        });
        sum_units::launch(
            &of.client,
            cubes(CUBES),
            units(),
            tensors.collect(),
            sums.clone().into_buffer_arg(),
            i * CUBES,
            group.len(),
            CUBES,
        );
    }
    let out = empty(of, [1], DType::F32);
    sum_of_cubes::launch(
        &of.client,
        cubes(1),
        units(),
        sums.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        len,
    );
    out
}
