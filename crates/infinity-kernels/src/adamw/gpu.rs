//! The update on CubeCL runtimes: one launch.

use super::rule::Factors;
use crate::gpu::{contiguous, cubes_of_units, empty, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// [`Factors`] as a kernel gets them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Scalars {
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

#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn update_units(
    w: &[f32],
    g: &[f32],
    m: &[f32],
    v: &[f32],
    new_w: &mut [f32],
    new_m: &mut [f32],
    new_v: &mut [f32],
    f: Scalars,
    len: usize,
) {
    let at = ABSOLUTE_POS;
    if at < len {
        let grad = g[at];
        let first = m[at] * f.beta1 + grad * f.rest1;
        let second = v[at] * f.beta2 + grad * grad * f.rest2;
        let length = (second / f.correction2).sqrt() + f.eps;
        let delta = first / f.correction1 / length;
        new_w[at] = w[at] * f.kept - delta * f.learning_rate;
        new_m[at] = first;
        new_v[at] = second;
    }
}

/// Weights and moments after the update.
pub(super) fn update(f: Factors, inputs: [CubeTensor; 4]) -> [CubeTensor; 3] {
    let [w, g, m, v] = inputs.map(|x| contiguous(x, DType::F32));
    let results = [(); 3].map(|()| empty(&w, w.shape(), DType::F32));
    let len = w.shape().num_elements();
    if len > 0 {
        let [new_w, new_m, new_v] = results.clone();
        let scalars = ScalarsLaunch::new(
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
        update_units::launch(
            &w.client.clone(),
            cubes_of_units(len),
            units(),
            w.into_buffer_arg(),
            g.into_buffer_arg(),
            m.into_buffer_arg(),
            v.into_buffer_arg(),
            new_w.into_buffer_arg(),
            new_m.into_buffer_arg(),
            new_v.into_buffer_arg(),
            scalars,
            len,
        );
    }
    results
}
