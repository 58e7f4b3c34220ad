//! One case, checked and measured, in the process that `--case` names.

use crate::Outcome;
use crate::case::{Case, Operator};
use crate::{attention, counted, rows, scan};
use burn::tensor::{Device, Distribution, Tensor};
use infinity_kernels::testing::Tol;
use serde_json::{Value, json};
use std::time::Instant;

/// Least time and least calls of one measurement.
const SECONDS: f64 = 0.4;
const CALLS: usize = 2;

/// Tokens of the check; ragged for every chunk size.
pub(crate) const CHECKED_TOKENS: usize = 150;

/// What a form may be away from its reference in `f32`: the tests' limits, with room for sums of
/// this length.
pub(crate) const TOL: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 60.0,
    floor: 1e-7,
};

/// Inputs of one case and how to run them.
pub(crate) trait Contestant {
    /// Compares a short call with the reference.
    ///
    /// # Panics
    ///
    /// If they differ.
    fn check(&self);

    /// Forward without autodiff; the result is thrown away.
    fn forward(&self) -> Vec<Tensor<1>>;

    /// Forward and backward; the gradients are thrown away.
    fn both(&self) -> Vec<Tensor<1>>;
}

/// Checks and measures `case`.
pub(crate) fn measure(case: &Case, device: &Device) -> Outcome<Value> {
    let contestant: Box<dyn Contestant> = match case.operator {
        Operator::MemoryScan => Box::new(scan::Scan::new(case, device)),
        Operator::SoftmaxAttention => Box::new(attention::Attention::new(case, device)),
        _ => Box::new(rows::Rows::new(case, device)),
    };
    contestant.check();
    device.sync()?;
    let resting = counted::restart();
    let forward_s = fewest_seconds(device, || contestant.forward())?;
    let forward_peak = counted::most_above(resting);
    let resting = counted::restart();
    let both_s = fewest_seconds(device, || contestant.both())?;
    Ok(json!({
        "forward_s": forward_s,
        "both_s": both_s,
        "forward_peak_bytes": forward_peak,
        "both_peak_bytes": counted::most_above(resting),
    }))
}

fn fewest_seconds(device: &Device, run: impl Fn() -> Vec<Tensor<1>>) -> Outcome<f64> {
    let once = || -> Outcome<f64> {
        let start = Instant::now();
        std::hint::black_box(run());
        device.sync()?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let (mut fewest, mut total, mut calls) = (f64::INFINITY, 0.0, 0);
    while total < SECONDS || calls < CALLS {
        let seconds = once()?;
        fewest = fewest.min(seconds);
        total += seconds;
        calls += 1;
    }
    Ok(fewest)
}

/// Random values in `[low, high)`.
pub(crate) fn random<const D: usize>(
    dims: [usize; D],
    [low, high]: [f64; 2],
    device: &Device,
) -> Tensor<D> {
    Tensor::random(dims, Distribution::Uniform(low, high), device)
}
