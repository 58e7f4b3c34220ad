//! The loss on CubeCL runtimes: one launch, `lanes` units a row of logits.

use crate::gpu::sums::{lanes, most_of_lanes, over_lanes};
use crate::gpu::{UNITS, contiguous, cubes, element, empty, row_type, units};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

#[cube(launch)]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's arguments are its buffers"
)]
fn loss_rows<F: Float>(
    logits: &[F],
    targets: &[f32],
    losses: &mut [f32],
    d_logits: &mut [F],
    rows: usize,
    width: usize,
    scale: f32,
    #[comptime] with_gradient: bool,
    #[comptime] lanes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut spare = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + UNIT_POS as usize / lanes;
    let from = row * width;
    let mut most = 0.0f32;
    if row < rows {
        most = f32::cast_from(logits[from]);
        let mut at = lane;
        while at < width {
            let x = f32::cast_from(logits[from + at]);
            if x > most {
                most = x;
            }
            at += lanes;
        }
    }
    let most = most_of_lanes(most, &mut spare, lanes);
    let mut sum = 0.0f32;
    if row < rows {
        let mut at = lane;
        while at < width {
            sum += (f32::cast_from(logits[from + at]) - most).exp();
            at += lanes;
        }
    }
    let sum = over_lanes(sum, &mut spare, lanes);
    if row < rows {
        let target = targets[row];
        let mut factor = 0.0f32;
        // Beyond every row.
        let mut hit = width;
        let mut loss = 0.0f32;
        if target >= 0.0f32 {
            factor = scale;
            hit = usize::cast_from(target);
            loss = sum.ln() - (f32::cast_from(logits[from + hit]) - most);
        }
        if lane == 0 {
            losses[row] = loss;
        }
        if comptime!(with_gradient) {
            let mut at = lane;
            while at < width {
                let mut off = (f32::cast_from(logits[from + at]) - most).exp() / sum;
                if at == hit {
                    off -= 1.0f32;
                }
                d_logits[from + at] = F::cast_from(off * factor);
                at += lanes;
            }
        }
    }
}

/// Losses, and the gradient of the logits where there is a scale.
pub(super) fn cross_entropy(
    logits: CubeTensor,
    targets: CubeTensor,
    scale: Option<f32>,
) -> Vec<CubeTensor> {
    let dtype = row_type(logits.dtype);
    let logits = contiguous(logits, dtype);
    let targets = contiguous(targets, DType::F32);
    let [rows, width] = logits.shape().dims();
    let losses = empty(&logits, [rows], DType::F32);
    let shape = scale.map_or(vec![1], |_| vec![rows, width]);
    let d_logits = empty(&logits, shape, dtype);
    let lanes = lanes(width);
    if rows * width > 0 {
        loss_rows::launch(
            &logits.client.clone(),
            cubes(rows.div_ceil(UNITS / lanes)),
            units(),
            logits.into_buffer_arg(),
            targets.into_buffer_arg(),
            losses.clone().into_buffer_arg(),
            d_logits.clone().into_buffer_arg(),
            rows,
            width,
            scale.unwrap_or_default(),
            scale.is_some(),
            lanes,
            element(dtype),
        );
    }
    let mut results = vec![losses];
    results.extend(scale.map(|_| d_logits));
    results
}
