//! SwiGLU's gate on CubeCL runtimes: one launch forward, one back.

use crate::gpu::{contiguous, cubes_of_units, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

#[cube(launch)]
fn forward_units<F: Float>(
    gate: &[F],
    up: &[F],
    y: &mut [F],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < len {
        let a = f32::cast_from(gate[at]);
        let b = f32::cast_from(up[at]);
        y[at] = F::cast_from(a / (1.0f32 + (0.0f32 - a).exp()) * b);
    }
}

#[cube(launch)]
fn backward_units<F: Float>(
    gate: &[F],
    up: &[F],
    d_y: &[F],
    d_gate: &mut [F],
    d_up: &mut [F],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < len {
        let a = f32::cast_from(gate[at]);
        let b = f32::cast_from(up[at]);
        let d = f32::cast_from(d_y[at]);
        let sigma = 1.0f32 / (1.0f32 + (0.0f32 - a).exp());
        d_gate[at] = F::cast_from(d * b * sigma * (1.0f32 + a * (1.0f32 - sigma)));
        d_up[at] = F::cast_from(d * a * sigma);
    }
}

/// `silu(gate) ⊙ up`.
pub(crate) fn forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let dtype = row_type(gate.dtype);
    let [gate, up] = [gate, up].map(|x| contiguous(x, dtype));
    let y = empty(&gate, gate.shape(), dtype);
    let len = y.shape().num_elements();
    if len > 0 {
        forward_units::launch(
            &gate.client.clone(),
            cubes_of_units(len),
            units(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            len,
            element(dtype),
        );
    }
    y
}

/// Gradients of `gate` and `up`.
pub(crate) fn backward(gate: CubeTensor, up: CubeTensor, d_y: CubeTensor) -> [CubeTensor; 2] {
    let dtype = row_type(gate.dtype);
    let [gate, up, d_y] = [gate, up, d_y].map(|x| contiguous(x, dtype));
    let grads = [(); 2].map(|()| empty(&gate, gate.shape(), dtype));
    let len = gate.shape().num_elements();
    if len > 0 {
        let [d_gate, d_up] = grads.clone();
        backward_units::launch(
            &gate.client.clone(),
            cubes_of_units(len),
            units(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            d_y.into_buffer_arg(),
            d_gate.into_buffer_arg(),
            d_up.into_buffer_arg(),
            len,
            element(dtype),
        );
    }
    grads
}
