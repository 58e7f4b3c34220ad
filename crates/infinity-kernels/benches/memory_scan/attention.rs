//! Burn's softmax attention, causal, at the size of a scan: what a linear operator has to beat.
//!
//! Forward is a device's own kernel where Burn has one; under autodiff Burn computes it step by step
//! and keeps the scores.

use crate::{BOTH, device, dtype, number_after, report};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Distribution, Tensor, module};
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::softmax_attention::{reference, softmax_attention};
use infinity_kernels::testing::{Tol, compare, values};
use std::hint::black_box;

pub(crate) const NAME: &str = "Burn attention";

/// Tokens and heads of the check.
const CHECKED_TOKENS: usize = 512;
const CHECKED_HEADS: usize = 2;
/// Burn's kernels for GPUs multiply in `f16` whatever they are given.
const SAME: Tol = Tol {
    rms_ratio: 5e-3,
    worst_over_rms: 60.0,
    floor: 1e-6,
};
/// Step by step in half precision the scores are in it too.
const SAME_IN_HALF: Tol = Tol {
    rms_ratio: 5e-2,
    worst_over_rms: 60.0,
    floor: 1e-5,
};

/// Tensors the size of all scores that lie in memory at once in a backward pass, counted in its
/// source: masked, without their largest, as exponentials, as weights, and the gradients of three;
/// the rest for what is not reused at once.
const SCORES: usize = 10;
/// Gigabytes that attention may take unless `--memory` says otherwise.
const MEMORY: usize = 64;

/// Queries, keys and values, `[B, H, T, ·]` as Burn's operator has them.
pub(crate) struct Attention([Tensor<4>; 3]);

impl Attention {
    pub(crate) fn new(dims: Dims) -> Self {
        let Dims { b, t, h, k, v, .. } = dims;
        let device = device();
        let random = |width: usize| {
            let uniform = Distribution::Uniform(-1.0, 1.0);
            Tensor::<4>::random([b, h, t, width], uniform, &device).cast(dtype())
        };
        Attention([random(k), random(k), random(v)])
    }

    pub(crate) fn forward(&self) {
        black_box(attend(self.0.clone()));
    }

    pub(crate) fn both(&self) {
        black_box(gradients(self.0.clone(), attend));
    }
}

fn attend([q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    let options = AttentionModuleOptions {
        is_causal: true,
        ..Default::default()
    };
    module::attention(q, k, v, None, None, options)
}

/// The same by this crate's baseline.
fn attend_on_tensors(inputs: [Tensor<4>; 3]) -> Tensor<4> {
    let [q, k, v] = inputs.map(|x| x.swap_dims(1, 2));
    softmax_attention(q, k, v).swap_dims(1, 2)
}

/// Gradients of the sum of all outputs.
fn gradients(
    inputs: [Tensor<4>; 3],
    attend: impl Fn([Tensor<4>; 3]) -> Tensor<4>,
) -> [Tensor<4>; 3] {
    let leaves = inputs.map(|x| x.autodiff().require_grad());
    let grads = attend(leaves.clone()).backward();
    leaves.map(|x| x.grad(&grads).expect("a gradient"))
}

/// Whether attention is right at the widths of `dims`; says so.
pub(crate) fn check(dims: &Dims) -> bool {
    let short = Dims {
        b: 1,
        t: CHECKED_TOKENS,
        h: CHECKED_HEADS,
        ..*dims
    };
    let found = worst_error(short);
    report::check(&[NAME], &found);
    found.is_ok()
}

/// Outputs against the `f64` reference, gradients against the baseline in `f32`.
fn worst_error(dims: Dims) -> Result<f64, String> {
    let tol = match dtype() {
        DType::F32 => SAME,
        _ => SAME_IN_HALF,
    };
    let Attention(inputs) = Attention::new(dims);
    let Dims { t, h, k, v, .. } = dims;
    let [q, keys, vals] = inputs.clone().map(values);
    let head = |i: usize| {
        let rows = |x: &[f64], width: usize| x[i * t * width..(i + 1) * t * width].to_vec();
        reference::forward([t, 0, k, v], &rows(&q, k), &rows(&keys, k), &rows(&vals, v))
    };
    let expected: Vec<f64> = (0..h).flat_map(head).collect();
    let outputs = compare(&values(attend(inputs.clone())), &expected, tol);
    let mut worst = outputs.map_err(|mismatch| format!("outputs: {mismatch}"))?;

    let single = inputs.clone().map(|x| x.cast(DType::F32));
    let expected = gradients(single, attend_on_tensors);
    let names = ["dq", "dk", "dv"].into_iter();
    for (name, (actual, expected)) in names.zip(gradients(inputs, attend).into_iter().zip(expected))
    {
        let found = compare(&values(actual), &values(expected), tol);
        let error = found.map_err(|mismatch| format!("{name}: {mismatch}"))?;
        worst = worst.max(error);
    }
    Ok(worst)
}

/// Whether the backward pass fits into memory; says so if not.
pub(crate) fn fits(dims: &Dims) -> bool {
    let Dims { b, t, h, .. } = *dims;
    let bytes = SCORES * dtype().size() * b * h * t * t;
    let limit = number_after("--memory").unwrap_or(MEMORY);
    let fits = bytes <= limit * 1_000_000_000;
    if !fits {
        let gigabytes = bytes / 1_000_000_000;
        let why = format!("its scores take about {gigabytes} GB, more than --memory {limit}");
        report::missing(dims, (NAME, BOTH), &why);
    }
    fits
}
