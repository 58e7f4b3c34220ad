//! The norm on CubeCL runtimes: one launch forward; back one for the inputs, which also sums the weight's
//! gradient over the rows of every cube, and one that sums those.

#![allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]

use super::rule::{GateAct, RmsNorm};
use crate::gpu::sums::{lanes, over_lanes, row_sums};
use crate::gpu::{UNITS, cast, contiguous, cubes, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Cubes that share the rows when gradients are summed over them.
const CUBES: usize = 128;

/// `lanes` units a row.
#[cube(launch)]
fn forward_rows<F: Float>(
    x: &[F],
    weight: &[f32],
    gate: &[F],
    y: &mut [F],
    rows: usize,
    width: usize,
    eps: f32,
    #[comptime] gated: bool,
    #[comptime] silu: bool,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * width;
    let mut squares = 0.0f32;
    if row < rows {
        let mut at = lane;
        while at < width {
            let x = f32::cast_from(x[from + at]);
            squares += x * x;
            at += lanes;
        }
    }
    let squares = over_lanes(squares, &mut spare, lanes);
    let r = 1.0f32 / (squares / f32::cast_from(width) + eps).sqrt();
    if row < rows {
        let mut at = lane;
        while at < width {
            let mut value = f32::cast_from(x[from + at]) * r * weight[at];
            if comptime!(gated) {
                let g = f32::cast_from(gate[from + at]);
                value /= 1.0f32 + (0.0f32 - g).exp();
                if comptime!(silu) {
                    value *= g;
                }
            }
            y[from + at] = F::cast_from(value);
            at += lanes;
        }
    }
}

/// A cube takes `each` times as many rows as it has groups of `lanes` units. `partial`
/// `[cubes · groups, width]` gets the gradient of the weight by group.
#[cube(launch)]
fn backward_rows<F: Float>(
    x: &[F],
    weight: &[f32],
    gate: &[F],
    d_y: &[F],
    d_x: &mut [F],
    d_gate: &mut [F],
    partial: &mut [f32],
    rows: usize,
    width: usize,
    each: usize,
    eps: f32,
    #[comptime] gated: bool,
    #[comptime] silu: bool,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let groups = comptime!(UNITS / lanes);
    let lane = UNIT_POS as usize % lanes;
    let group = UNIT_POS as usize / lanes;
    let sums = (CUBE_POS * groups + group) * width;
    let mut at = lane;
    while at < width {
        partial[sums + at] = 0.0f32;
        at += lanes;
    }
    for i in 0..each {
        let row = (CUBE_POS * each + i) * groups + group;
        let from = row * width;
        let mut squares = 0.0f32;
        let mut along = 0.0f32;
        if row < rows {
            let mut at = lane;
            while at < width {
                let x = f32::cast_from(x[from + at]);
                let mut through = f32::cast_from(d_y[from + at]);
                if comptime!(gated) {
                    let g = f32::cast_from(gate[from + at]);
                    through /= 1.0f32 + (0.0f32 - g).exp();
                    if comptime!(silu) {
                        through *= g;
                    }
                }
                squares += x * x;
                along += weight[at] * x * through;
                at += lanes;
            }
        }
        let squares = over_lanes(squares, &mut spare, lanes);
        let along = over_lanes(along, &mut spare, lanes);
        let r = 1.0f32 / (squares / f32::cast_from(width) + eps).sqrt();
        let back = along / f32::cast_from(width) * r * r * r;
        if row < rows {
            let mut at = lane;
            while at < width {
                let x = f32::cast_from(x[from + at]);
                let w = weight[at];
                let mut through = f32::cast_from(d_y[from + at]);
                if comptime!(gated) {
                    let g = f32::cast_from(gate[from + at]);
                    let sigma = 1.0f32 / (1.0f32 + (0.0f32 - g).exp());
                    through *= sigma;
                    let mut slope = 1.0f32 - sigma;
                    if comptime!(silu) {
                        slope = 1.0f32 + g * slope;
                    }
                    d_gate[from + at] = F::cast_from(through * slope * x * r * w);
                    if comptime!(silu) {
                        through *= g;
                    }
                }
                d_x[from + at] = F::cast_from(through * r * w - back * x);
                partial[sums + at] += through * r * x;
                at += lanes;
            }
        }
    }
}

/// Contiguous tensors of a call and their sizes.
struct Call {
    x: CubeTensor,
    weight: CubeTensor,
    /// The inputs again where there is none, and nobody reads it.
    gate: CubeTensor,
    gated: bool,
    dtype: DType,
    rows: usize,
    width: usize,
    lanes: usize,
    /// Rows that a cube has side by side.
    groups: usize,
}

impl Call {
    fn new(inputs: Vec<CubeTensor>) -> Self {
        let dtype = row_type(inputs[0].dtype);
        let ready = |i: usize, dtype| contiguous(inputs[i].clone(), dtype);
        let (x, weight) = (ready(0, dtype), ready(1, DType::F32));
        let (gated, width) = (inputs.len() > 2, weight.shape().num_elements());
        let lanes = lanes(width);
        Call {
            gate: if gated { ready(2, dtype) } else { x.clone() },
            gated,
            dtype,
            rows: x.shape().num_elements() / width.max(1),
            x,
            weight,
            width,
            lanes,
            groups: UNITS / lanes,
        }
    }
}

/// `rms_norm(x)`, gated where there is a gate.
pub(super) fn forward(inputs: Vec<CubeTensor>, rule: RmsNorm) -> CubeTensor {
    let call = Call::new(inputs);
    let y = empty(&call.x, call.x.shape(), call.dtype);
    if call.rows > 0 {
        forward_rows::launch(
            &call.x.client,
            cubes(call.rows.div_ceil(call.groups)),
            units(),
            call.x.clone().into_buffer_arg(),
            call.weight.clone().into_buffer_arg(),
            call.gate.clone().into_buffer_arg(),
            y.clone().into_buffer_arg(),
            call.rows,
            call.width,
            rule.eps,
            call.gated,
            rule.act == GateAct::Silu,
            call.lanes,
            element(call.dtype),
        );
    }
    y
}

/// Gradients of inputs, weight and gate.
pub(super) fn backward(inputs: Vec<CubeTensor>, d_y: CubeTensor, rule: RmsNorm) -> Vec<CubeTensor> {
    let weight_type = inputs[1].dtype;
    let call = Call::new(inputs);
    let d_y = contiguous(d_y, call.dtype);
    let like_x = || empty(&call.x, call.x.shape(), call.dtype);
    // A buffer is written by one name only.
    let nothing = || empty(&call.x, [1], call.dtype);
    let (d_x, d_gate) = (like_x(), if call.gated { like_x() } else { nothing() });
    let each = call.rows.div_ceil(call.groups * CUBES).max(1);
    let n = call.rows.div_ceil(call.groups * each);
    let partial = empty(&call.x, [n * call.groups, call.width], DType::F32);
    if call.rows > 0 {
        backward_rows::launch(
            &call.x.client,
            cubes(n),
            units(),
            call.x.clone().into_buffer_arg(),
            call.weight.clone().into_buffer_arg(),
            call.gate.clone().into_buffer_arg(),
            d_y.into_buffer_arg(),
            d_x.clone().into_buffer_arg(),
            d_gate.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            call.rows,
            call.width,
            each,
            rule.eps,
            call.gated,
            rule.act == GateAct::Silu,
            call.lanes,
            element(call.dtype),
        );
    }
    let sizes = [n * call.groups, call.width, 0];
    let d_weight = row_sums(&partial, sizes, [call.width]);
    let mut grads = vec![d_x, cast(d_weight, weight_type)];
    grads.extend(call.gated.then_some(d_gate));
    grads
}
