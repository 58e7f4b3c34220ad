//! A run on several devices goes on exactly, and on another number of them as nearly as they agree.

use crate::common::{on_ranks, run, run_on};
use crate::{directory, result};
use infinity_kernels::testing::{Tol, assert_close, compare};
use infinity_model::burn::tensor::Device;
use infinity_model::from_pretrained;
use infinity_train::Resume;
use infinity_train::config::DistributedStrategy::{Ddp, Multi, Single};
use infinity_train::config::{DistributedStrategy, RunConfig};
use infinity_train::data::Packing;
use std::fs;
use std::path::Path;

/// Worst RMS ratio of all parameters after eight steps on Flex, 2026-11-24: 9.3e-8.
const WEIGHTS: Tol = Tol {
    rms_ratio: 8e-7,
    worst_over_rms: 1e3,
    floor: 0.0,
};

/// How many devices, and how they share the work.
type Ranks = (DistributedStrategy, usize);

/// Eight steps on several devices, the first four of them on `first`.
fn trained(
    first: Ranks,
    then: Ranks,
    packing: Packing,
    change: impl Fn(&mut RunConfig),
) -> Trained {
    let (directory, config) = directory(packing, change);
    let (on_first, devices) = on_ranks(&config, first.0, first.1);
    run_on(devices, &on_first, None, Some(4)).0.unwrap();
    let (on_then, devices) = on_ranks(&config, then.0, then.1);
    let (report, heard) = run_on(devices, &on_then, Some(Resume::Latest), None);
    assert_eq!(report.unwrap().step, 8);
    assert_eq!(heard.steps.first().map(|step| step.step), Some(5));
    Trained(directory, config)
}

struct Trained(tempfile::TempDir, RunConfig);

impl Trained {
    fn weights(&self) -> Vec<f64> {
        let path = self.1.output_dir().join("final");
        let loaded = from_pretrained(&path, &Device::flex()).unwrap();
        let parameters = crate::common::parameters(&loaded.model);
        parameters.into_values().flatten().collect()
    }

    /// Names, formats and shapes of what is carried over the last step.
    fn carried(&self) -> String {
        let path = self
            .1
            .output_dir()
            .join("checkpoints/step-00000008/stream.safetensors");
        header(&path)
    }
}

/// The header of a safetensors file, without the checksum of its numbers.
fn header(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let (len, rest) = bytes.split_at(8);
    let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&rest[..len]).unwrap();
    let metadata = header["__metadata__"].as_object_mut().unwrap();
    metadata.remove("checksum").unwrap();
    metadata.sort_keys();
    header.to_string()
}

fn stateful(config: &mut RunConfig) {
    config.data.stateful = true;
}

#[test]
fn two_devices_go_on_exactly() {
    let packing = Packing::Contiguous;
    for strategy in [Multi, Ddp] {
        let (whole, config) = directory(packing, stateful);
        let (config, devices) = on_ranks(&config, strategy, 2);
        run_on(devices, &config, None, None).0.unwrap();
        let here = (strategy, 2);
        let parts = trained(here, here, packing, stateful);
        assert!(result(&whole) == result(&parts.0), "not the same bits");
    }
}

/// What is dropped depends on seed, step and rank, in whatever order threads run.
#[test]
fn two_devices_that_drop_go_on_exactly() {
    let drops = |config: &mut RunConfig| config.model.hidden_dropout_prob = 0.1;
    for strategy in [Multi, Ddp] {
        let (whole, config) = directory(Packing::Shuffled, drops);
        let (config, devices) = on_ranks(&config, strategy, 2);
        let (report, heard) = run_on(devices, &config, None, None);
        report.unwrap();
        let told = |words| heard.messages.iter().any(|message| message.contains(words));
        assert!(told("devices take turns"), "{:?}", heard.messages);
        let here = (strategy, 2);
        let parts = trained(here, here, Packing::Shuffled, drops);
        assert!(result(&whole) == result(&parts.0), "not the same bits");
    }
}

#[test]
fn a_run_goes_on_with_other_devices_and_another_strategy() {
    let (_directory, config) = directory(Packing::Contiguous, stateful);
    run(&config, None, None).0.unwrap();
    let one = Trained(_directory, config);
    let (expected, header) = (one.weights(), one.carried());
    let alone = (Single, 1);
    for (first, then) in [
        ((Multi, 2), alone),
        (alone, (Multi, 2)),
        ((Multi, 4), (Multi, 2)),
        ((Ddp, 2), alone),
        (alone, (Ddp, 4)),
        ((Ddp, 4), (Multi, 2)),
        ((Multi, 2), (Ddp, 2)),
    ] {
        let other = trained(first, then, Packing::Contiguous, stateful);
        let name = format!("{first:?}, then {then:?}");
        assert_close(&name, "weights", &other.weights(), &expected, WEIGHTS);
        assert_eq!(other.carried(), header, "{name}: another file");
    }
    let forgets = trained((Multi, 2), alone, Packing::Contiguous, |_| ());
    assert!(compare(&forgets.weights(), &expected, WEIGHTS).is_err());
}

#[test]
fn another_number_of_rows_is_refused() {
    let (_directory, config) = directory(Packing::Shuffled, |_| ());
    run(&config, None, Some(4)).0.unwrap();
    let (mut more, devices) = on_ranks(&config, Ddp, 2);
    more.training.per_device_train_batch_size = 4;
    let error = run_on(devices, &more, Some(Resume::Latest), None).0;
    let message = error.unwrap_err().to_string();
    let words = "`training.per_device_train_batch_size` was 4 and is now 4 on each of 2 devices";
    assert!(message.contains(words), "{message}");
}
