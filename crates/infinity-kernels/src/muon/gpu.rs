//! What is around the products of Muon's step on CubeCL runtimes: one launch before them and one after, for as many
//! matrices as a device binds buffers for.

use super::Muon;
use crate::gpu::many::{Places, in_a_launch};
use crate::gpu::{UNITS, contiguous, empty, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Gradient and momentum of a matrix, and their place.
#[derive(CubeType, CubeLaunch)]
struct Before {
    g: Box<[f32]>,
    m: Box<[f32]>,
    first: usize,
    start: usize,
}

/// `from`: where the first of them is among all that is to be made orthogonal.
#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn momentum_units(
    before: &Sequence<Before>,
    new_m: &mut [f32],
    update: &mut [f32],
    momentum: f32,
    scale: f32,
    len: usize,
    from: usize,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..count {
        let x = before.index(i);
        let at = (CUBE_POS - x.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= x.first && at < len {
            let grad = x.g[at] * scale;
            let m = grad + x.m[at] * momentum;
            new_m[x.start + at] = m;
            update[from + i * len + at] = m * momentum + grad;
        }
    }
}

/// The weights of a matrix, and their place.
#[derive(CubeType, CubeLaunch)]
struct Weights {
    w: Box<[f32]>,
    first: usize,
    start: usize,
}

#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn moved_units(
    weights: &Sequence<Weights>,
    orthogonal: &[f32],
    new_w: &mut [f32],
    kept: f32,
    rate: f32,
    len: usize,
    from: usize,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..count {
        let x = weights.index(i);
        let at = (CUBE_POS - x.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= x.first && at < len {
            new_w[x.start + at] = x.w[at] * kept - orthogonal[from + i * len + at] * rate;
        }
    }
}

/// Momenta after the step, and all that is to be made orthogonal, for gradients and momenta.
pub(super) fn momentum(rule: Muon, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let inputs: Vec<_> = inputs
        .into_iter()
        .map(|x| contiguous(x, DType::F32))
        .collect();
    let (matrices, _) = inputs.as_chunks::<2>();
    let of = &inputs[0];
    let shape = of.shape();
    let [rows, columns] = shape.dims();
    let len = rows * columns;
    let update = empty(of, [matrices.len(), rows, columns], DType::F32);
    let n = in_a_launch(of, 2, 2);
    let mut results = Vec::new();
    for (i, some) in matrices.chunks(n).enumerate() {
        let places = Places::new(of, some.iter().map(|_| len));
        let new_m = places.buffer(of);
        if len > 0 {
            let before = some.iter().enumerate().map(|(i, pair)| {
                let [g, m] = pair.clone().map(CubeTensor::into_buffer_arg);
                BeforeLaunch::new(g, m, places.first[i], places.start[i])
            });
            momentum_units::launch(
                &of.client,
                places.cubes(),
                units(),
                before.collect(),
                new_m.clone().into_buffer_arg(),
                update.clone().into_buffer_arg(),
                rule.momentum,
                rule.scale as f32,
                len,
                i * n * len,
                some.len(),
            );
        }
        results.extend((0..some.len()).map(|i| places.part(&new_m, i, shape.clone())));
    }
    results.push(update);
    results
}

/// Weights after their orthogonal updates, which are the first of the inputs.
pub(super) fn moved(rule: Muon, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let inputs: Vec<_> = inputs
        .into_iter()
        .map(|x| contiguous(x, DType::F32))
        .collect();
    let (orthogonal, weights) = inputs.split_first().expect("updates and weights");
    let shape = weights[0].shape();
    let len = shape.num_elements();
    let n = in_a_launch(orthogonal, 1, 2);
    let mut results = Vec::new();
    for (i, some) in weights.chunks(n).enumerate() {
        let places = Places::new(orthogonal, some.iter().map(|_| len));
        let new_w = places.buffer(orthogonal);
        if len > 0 {
            let before = some.iter().enumerate().map(|(i, w)| {
                let w = w.clone().into_buffer_arg();
                WeightsLaunch::new(w, places.first[i], places.start[i])
            });
            moved_units::launch(
                &orthogonal.client,
                places.cubes(),
                units(),
                before.collect(),
                orthogonal.clone().into_buffer_arg(),
                new_w.clone().into_buffer_arg(),
                (1.0 - rule.decay) as f32,
                rule.rate as f32,
                len,
                i * n * len,
                some.len(),
            );
        }
        results.extend((0..some.len()).map(|i| places.part(&new_w, i, shape.clone())));
    }
    results
}
