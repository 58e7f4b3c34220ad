//! A short run on another device gives the losses of Flex.

use super::common::{config, run_on};
use infinity_model::burn::tensor::Device;
use infinity_train::data::Packing;
use tempfile::tempdir;

/// Losses of the eight steps and the last validation.
fn losses(device: Device, seed: u64) -> Vec<f64> {
    let directory = tempdir().expect("a folder");
    let mut config = config(directory.path(), Packing::Random);
    config.run.seed = seed;
    let (report, heard) = run_on(device, &config, None, None);
    let eval = report.expect("a run").eval.expect("a validation");
    let mut losses: Vec<f64> = heard.steps.iter().map(|step| step.loss).collect();
    losses.push(eval.loss);
    losses
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// Nats.
const SAME: f64 = 1e-3;

#[test]
fn another_seed_is_another_run() {
    assert!(apart(&losses(Device::flex(), 1), &losses(Device::flex(), 2)) > SAME);
}

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
fn gives_the_losses_of_flex(device: Device) {
    let here = losses(device, 1);
    let distance = apart(&here, &losses(Device::flex(), 1));
    println!("{distance:.1e} nats apart");
    assert!(distance < SAME, "{distance} nats apart: {here:?}");
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_gives_the_losses_of_flex() {
    use infinity_model::burn::tensor::DeviceKind;
    gives_the_losses_of_flex(Device::wgpu(DeviceKind::DefaultDevice));
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_gives_the_losses_of_flex() {
    gives_the_losses_of_flex(Device::cuda(0));
}

#[cfg(feature = "rocm")]
#[test]
fn rocm_gives_the_losses_of_flex() {
    gives_the_losses_of_flex(Device::rocm(0));
}
