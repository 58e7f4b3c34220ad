//! The update on CubeCL runtimes: one launch for as many parameters as a device binds buffers for.

use super::rule::Factors;
use crate::gpu::many::launches;
use crate::gpu::{UNITS, single, units};
use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// [`Factors`] as a kernel gets them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Scalars {
    scale: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    correction1: f32,
    correction2: f32,
    eps: f32,
    learning_rate: f32,
    kept: f32,
}

/// A parameter before its update, and its place.
#[derive(CubeType, CubeLaunch)]
struct Before {
    w: Box<[f32]>,
    g: Box<[f32]>,
    m: Box<[f32]>,
    v: Box<[f32]>,
    first: usize,
    len: usize,
    start: usize,
}

/// Cubes take the parameters one after the other, a unit a number.
#[cube(launch)]
fn update_units(
    before: &Sequence<Before>,
    new_w: &mut [f32],
    new_m: &mut [f32],
    new_v: &mut [f32],
    f: Scalars,
    #[comptime] count: usize,
) {
    #[unroll]
    for i in 0..count {
        let x = before.index(i);
        let at = (CUBE_POS - x.first) * UNITS + UNIT_POS as usize;
        if CUBE_POS >= x.first && at < x.len {
            let w = x.w[at];
            let grad = x.g[at] * f.scale;
            let first = x.m[at] * f.beta1 + grad * f.rest1;
            let second = x.v[at] * f.beta2 + grad * grad * f.rest2;
            let length = (second / f.correction2).sqrt() + f.eps;
            let delta = first / f.correction1 / length;
            new_w[x.start + at] = w * f.kept - delta * f.learning_rate;
            new_m[x.start + at] = first;
            new_v[x.start + at] = second;
        }
    }
}

/// Weights and moments after the update, for weights, gradients and moments of one parameter after the other.
pub(super) fn update(f: Factors, inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let inputs = single(inputs);
    let (parameters, _) = inputs.as_chunks::<4>();
    let of = &inputs[0];
    let len = |[w, ..]: &[CubeTensor; 4]| w.shape().num_elements();
    let mut updated = Vec::new();
    for (_, some, places) in launches(of, parameters, [4, 3], len) {
        let results = [(); 3].map(|()| places.buffer(of));
        let before = some.iter().enumerate().map(|(i, tensors)| {
            let [w, g, m, v] = tensors.clone().map(CubeTensor::into_buffer_arg);
            let (first, len, start) = (places.first[i], places.len[i], places.start[i]);
            BeforeLaunch::new(w, g, m, v, first, len, start)
        });
        let scalars = ScalarsLaunch::new(
            f.scale,
            f.beta1,
            f.beta2,
            f.rest[0],
            f.rest[1],
            f.corrections[0],
            f.corrections[1],
            f.eps,
            f.learning_rate,
            f.kept,
        );
        let [new_w, new_m, new_v] = results.clone().map(CubeTensor::into_buffer_arg);
        if !places.are_empty() {
            update_units::launch(
                &of.client,
                places.cubes(),
                units(),
                before.collect(),
                new_w,
                new_m,
                new_v,
                scalars,
                some.len(),
            );
        }
        for (i, [w, ..]) in some.iter().enumerate() {
            let part = |x: &CubeTensor| places.part(x, i, w.shape());
            updated.extend(results.iter().map(part));
        }
    }
    updated
}
