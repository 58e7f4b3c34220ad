//! Training in half precision: formats, loss scaling, and what happens when a gradient overflows.

use crate::common::{config, gradients, metrics, run};
use crate::{TOL, batch, trainee};
use infinity_kernels::testing::{Tol, assert_close, compare};
use infinity_model::Precision;
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::optim::GradientsParams;
use infinity_model::burn::tensor::{DType, Tensor};
use infinity_model::burn::train::TrainStep;
use infinity_train::TrainError;
use infinity_train::config::{OptimizerName, RunConfig};
use infinity_train::data::Packing;
use infinity_train::optimizer::clip;
use infinity_train::step::{LmBatch, Trainee};
use std::fs;
use std::path::Path;

/// Losses of a short run against f32. Worst RMS ratio on Flex, 2026-11-24: 5.4e-5 in bf16-mixed,
/// 1.1e-5 in f16-mixed.
const RUN: Tol = Tol {
    rms_ratio: 5e-4,
    worst_over_rms: 10.0,
    floor: 0.0,
};

fn in_precision(precision: Precision) -> Trainee {
    let trainee = trainee(&crate::common::model());
    Trainee::new(trainee.model.with_precision(precision).unwrap(), 7)
}

/// Asserts the format of every gradient.
struct GradientFormats<'a>(&'a GradientsParams, Precision);

impl ModuleVisitor for GradientFormats<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.0.get::<D>(param.id).expect("every parameter learns");
        assert_eq!(grad.dtype(), param.val().dtype(), "{}", self.1);
        let half = grad.dtype() != DType::F32;
        assert!(!half || self.1 == Precision::Bf16True, "{}", self.1);
    }
}

#[test]
fn gradients_have_the_format_of_their_parameters() {
    for precision in [
        Precision::Bf16Mixed,
        Precision::F16Mixed,
        Precision::Bf16True,
    ] {
        let trainee = in_precision(precision);
        let output = TrainStep::step(&trainee, LmBatch::alone(batch(2, 3)));
        trainee.visit(&mut GradientFormats(&output.grads, precision));
    }
}

/// A gradient of a scaled loss, divided by the scale, is the gradient; and where f16 loses small
/// ones, scaling keeps them.
#[test]
fn scaling_keeps_what_f16_would_lose() {
    const SMALL: f64 = 1e-6;
    let grads = |precision, scale: f64| {
        let trainee = in_precision(precision);
        let mut batch = LmBatch::alone(batch(2, 3));
        batch.scale *= SMALL * scale;
        let grads = TrainStep::step(&trainee, batch).grads;
        let (grads, found) = clip(&trainee, grads, scale, 0.0);
        let grads = crate::times(gradients(&trainee, &grads), found.factor);
        let all: Vec<f64> = grads.into_values().flatten().collect();
        (all, found.norm)
    };
    let (exact, exact_norm) = grads(Precision::F32, 1.0);
    let (scaled, norm) = grads(Precision::F32, 1024.0);
    assert_close("f32", "scaled", &scaled, &exact, TOL);
    assert_close("f32", "norm", &[norm], &[exact_norm], TOL);
    /// Between what f16 and bf16 keep, eleven bits and eight. Measured RMS ratios, 2026-11-24: f16
    /// 8.6e-4, bf16 7.5e-3, f16 without scaling 1.
    const F16: Tol = Tol {
        rms_ratio: 3e-3,
        worst_over_rms: 30.0,
        floor: 0.0,
    };
    const BF16: Tol = Tol {
        rms_ratio: 3e-2,
        ..F16
    };
    let (f16, _) = grads(Precision::F16Mixed, 65536.0);
    let (bf16, _) = grads(Precision::Bf16Mixed, 1.0);
    assert_close("f16", "scaled", &f16, &exact, F16);
    assert_close("bf16", "unscaled", &bf16, &exact, BF16);
    assert!(compare(&bf16, &exact, F16).is_err());
    assert!(compare(&grads(Precision::F16Mixed, 1.0).0, &exact, BF16).is_err());
}

#[test]
fn clipping_follows_the_scale() {
    let trainee = in_precision(Precision::F32);
    let clipped = |scale: f64| {
        let mut batch = LmBatch::alone(batch(2, 3));
        batch.scale *= scale;
        let grads = TrainStep::step(&trainee, batch).grads;
        let (grads, found) = clip(&trainee, grads, scale, 0.01);
        assert!(found.norm > 0.01, "{found:?}");
        crate::times(gradients(&trainee, &grads), found.factor)
    };
    // A power of two changes no digit.
    assert_eq!(clipped(1.0), clipped(4096.0));
    let length = |grads: crate::ByPath| grads.values().flatten().map(|x| x * x).sum::<f64>().sqrt();
    assert!((length(clipped(4096.0)) / 0.01 - 1.0).abs() < 1e-5);
}

/// A run of 40 steps whose first scale is far too high.
fn overflowing(directory: &Path, precision: Precision) -> RunConfig {
    let mut config = config(directory, Packing::Shuffled);
    config.run.precision = precision;
    config.training.max_steps = 40;
    config.training.loss_scale.initial = 2f64.powi(30);
    config.training.loss_scale.growth_interval = 5;
    config.optimizer.learning_rate = 1e-2;
    config.eval.every = 0;
    config.checkpoint.every = 0;
    config
}

#[test]
fn an_overflow_is_left_out_and_the_scale_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let config = overflowing(directory.path(), Precision::F16Mixed);
    let (report, heard) = run(&config, None, None);
    assert_eq!(report.unwrap().step, 40);
    let scales: Vec<f64> = heard
        .steps
        .iter()
        .map(|step| step.loss_scale.unwrap())
        .collect();
    let skipped: Vec<u64> = heard.steps.iter().map(|step| step.skipped).collect();
    let (mut before, mut so_far, mut grown) = (2f64.powi(30), 0, 0);
    for (scale, skipped) in scales.iter().zip(&skipped) {
        match *skipped > so_far {
            true => assert_eq!(*scale, before / 2.0, "{scales:?} {skipped:?}"),
            false if *scale != before => {
                assert_eq!(*scale, before * 2.0, "{scales:?}");
                grown += 1;
            }
            false => {}
        }
        (before, so_far) = (*scale, *skipped);
    }
    assert!((3..30).contains(&so_far), "{skipped:?}");
    assert!(grown >= 2, "the scale never recovers: {scales:?}");
    let said = heard
        .messages
        .iter()
        .filter(|line| line.contains("overflow in f16"))
        .count();
    assert_eq!(said as u64, so_far);
    // What was left out changed nothing, and the rest learned.
    let losses: Vec<f64> = heard.steps.iter().filter_map(|step| step.loss).collect();
    assert!(losses.iter().all(|loss| loss.is_finite()));
    assert!(losses[39] < 0.8 * losses[0], "{losses:?}");
    let lines = metrics(&directory.path().join("run"));
    assert_eq!(lines[0]["train/loss_scale"], scales[0]);

    // Without half precision there is nothing to overflow, and no scale.
    let directory = tempfile::tempdir().unwrap();
    let (_, heard) = run(
        &overflowing(directory.path(), Precision::Bf16Mixed),
        None,
        None,
    );
    assert!(
        heard
            .steps
            .iter()
            .all(|step| step.skipped == 0 && step.loss_scale.is_none())
    );
}

#[test]
fn an_overflow_without_any_scaling_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = overflowing(directory.path(), Precision::F16Mixed);
    config.training.loss_scale.initial = 4.0;
    // One good step to where f16 does not reach.
    config.optimizer.learning_rate = 1e6;
    let error = run(&config, None, None).0.unwrap_err();
    let TrainError::Diverged { step, reason } = &error else {
        panic!("{error}");
    };
    assert_eq!(*step, 4, "after scales of 4, 2 and 1");
    assert!(
        reason.contains("overflows f16") && reason.contains("bf16-mixed"),
        "{error}"
    );
}

/// The files of a checkpoint name the formats of the tensors in them.
#[test]
fn runs_in_half_precision_learn_as_f32_does_and_keep_their_state_in_it() {
    let train = |precision: Precision| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), Packing::Shuffled);
        config.run.precision = precision;
        config.training.max_steps = 12;
        config.optimizer.name = OptimizerName::Muon;
        config.checkpoint.every = 12;
        let (report, heard) = run(&config, None, None);
        report.unwrap();
        let parts = ["model.bpk", "optim.bpk"].map(|part| {
            let path = format!("run/checkpoints/step-00000012/{part}");
            let bytes = fs::read(directory.path().join(path)).unwrap();
            bytes.windows(3).any(|word| word == b"F16")
        });
        let losses: Vec<f64> = heard.steps.iter().filter_map(|step| step.loss).collect();
        let said = heard.messages.join("\n");
        // As the processor has it.
        let ways = ["is emulated here", "with matrix products in bf16"];
        let is_said = ways.iter().any(|way| said.contains(way));
        assert_eq!(is_said, precision != Precision::F32, "{said}");
        (parts, losses)
    };
    let (half, exact) = train(Precision::F32);
    assert_eq!(half, [false, false]);
    for precision in [Precision::Bf16Mixed, Precision::F16Mixed] {
        let (half, losses) = train(precision);
        let ratio = compare(&losses, &exact, RUN);
        assert!(
            ratio.as_ref().is_ok_and(|ratio| *ratio > 0.0),
            "{precision}: {ratio:?}"
        );
        assert_eq!(half, [false, false], "{precision}");
    }
    let (half, losses) = train(Precision::Bf16True);
    assert!(losses[11] < losses[0], "{losses:?}");
    assert_eq!(half, [true, false], "parameters alone are bf16");
}
