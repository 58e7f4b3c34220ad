//! Two devices equal one: whole runs, with clipping and accumulation, on one processor named twice.

use super::common::{config, on_ranks, run, run_on};
use super::{metrics, weights};
use infinity_kernels::testing::{Tol, assert_close, compare};
use infinity_model::burn::tensor::Device;
use infinity_train::TrainError;
use infinity_train::config::DistributedStrategy::{Ddp, Multi};
use infinity_train::config::{
    DistributedStrategy, GradientCheckpointing, OptimizerName, Precision, RunConfig,
};
use infinity_train::data::Packing;
use tempfile::{TempDir, tempdir};

/// Worst RMS ratio of losses and norms over a run of eight steps on Flex, 2026-11-26: 5.8e-8.
const RUN: Tol = Tol {
    rms_ratio: 4e-7,
    worst_over_rms: 30.0,
    floor: 0.0,
};
/// Worst RMS ratio of all parameters after such a run on Flex, 2026-11-26: 6.1e-8.
const WEIGHTS: Tol = Tol {
    rms_ratio: 6e-7,
    worst_over_rms: 1e3,
    floor: 0.0,
};

/// The same in f16-mixed, where sums of half-precision numbers are apart by their rounding: 2.3e-4.
const HALF: Tol = Tol {
    rms_ratio: 6e-4,
    worst_over_rms: 1e3,
    floor: 0.0,
};

/// Clips below this. The gradients of the runs here are longer.
const MAX_NORM: f64 = 0.5;

/// Rows of a micro-batch, for two, three or four ranks.
const ROWS: usize = 12;

/// A run of eight steps of two micro-batches, clipped.
fn prepared(packing: Packing, change: impl Fn(&mut RunConfig)) -> (TempDir, RunConfig) {
    let directory = tempdir().expect("a folder");
    let mut config = config(directory.path(), packing);
    config.training.per_device_train_batch_size = ROWS;
    config.training.gradient_accumulation_steps = 2;
    config.training.max_grad_norm = MAX_NORM;
    change(&mut config);
    (directory, config)
}

/// What a run gave: losses, norms, validation losses, weights.
struct Given([(&'static str, Vec<f64>, Tol); 4]);

impl Given {
    fn of(config: &RunConfig) -> Self {
        let lines = metrics(&config.output_dir());
        let numbers = |key: &str| lines.iter().filter_map(|line| line[key].as_f64()).collect();
        Given([
            ("training loss", numbers("train/loss"), RUN),
            ("gradient norm", numbers("train/grad_norm"), RUN),
            ("validation loss", numbers("eval/loss"), RUN),
            (
                "weights",
                weights(&config.output_dir().join("final")),
                WEIGHTS,
            ),
        ])
    }

    fn has_the_bits_of(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|((_, found, _), (_, expected, _))| found == expected)
    }

    fn assert_is(&self, expected: &Self, name: &str) {
        for ((what, found, tol), (_, expected, _)) in self.0.iter().zip(&expected.0) {
            assert!(!found.is_empty(), "{name}: no {what}");
            assert_close(name, what, found, expected, *tol);
        }
    }
}

fn on_one(packing: Packing, change: impl Fn(&mut RunConfig)) -> Given {
    let (_directory, config) = prepared(packing, change);
    run(&config, None, None).0.expect("a run");
    Given::of(&config)
}

fn on_several(
    strategy: DistributedStrategy,
    ranks: usize,
    packing: Packing,
    change: impl Fn(&mut RunConfig),
) -> Given {
    let (_directory, config) = prepared(packing, change);
    let (config, devices) = on_ranks(&config, strategy, ranks);
    let (report, heard) = run_on(devices, &config, None, None);
    report.expect("a run");
    // As many tokens as one device sees.
    assert_eq!(
        heard.steps.last().map(|step| step.tokens),
        Some(8 * 2 * ROWS as u64 * 16)
    );
    let told = |words| heard.messages.iter().any(|message| message.contains(words));
    assert_eq!(told("reduction gradients are added up"), strategy == Ddp);
    Given::of(&config)
}

fn equals_one(packing: Packing, change: impl Fn(&mut RunConfig)) {
    let one = on_one(packing, &change);
    for (strategy, ranks) in [(Multi, 2), (Multi, 4), (Ddp, 2), (Ddp, 3), (Ddp, 4)] {
        let several = on_several(strategy, ranks, packing, &change);
        several.assert_is(&one, &format!("{strategy:?}, {ranks} ranks, {packing:?}"));
    }
    assert!(one.0[1].1.iter().all(|norm| *norm > MAX_NORM), "clipped");
}

#[test]
fn shuffled_windows_on_two_devices_equal_one() {
    equals_one(Packing::Shuffled, |_| ());
}

/// Padding falls on some ranks and not on others.
#[test]
fn documents_on_two_devices_equal_one() {
    equals_one(Packing::Documents, |config| config.data.stateful = true);
}

/// Documents begin in some rows of a rank and not in others.
#[test]
fn packed_documents_on_two_devices_equal_one() {
    equals_one(Packing::Packed, |config| config.data.stateful = true);
}

#[test]
fn a_stream_on_two_devices_equals_one() {
    equals_one(Packing::Contiguous, |config| config.data.stateful = true);
}

/// Rows start from states that other ranks have.
#[test]
fn a_mixture_of_initial_states_on_two_devices_equals_one() {
    equals_one(Packing::Contiguous, |config| {
        config.data.stateful = true;
        config.data.initial_state.other = 0.4;
        config.data.initial_state.zero = 0.2;
    });
}

#[test]
fn every_way_through_a_step_on_two_devices_equals_one() {
    for way in [
        GradientCheckpointing::Ops,
        GradientCheckpointing::Blocks,
        GradientCheckpointing::Segments,
    ] {
        let change = |config: &mut RunConfig| {
            config.training.gradient_checkpointing = way;
            if way == GradientCheckpointing::Segments {
                config.training.checkpoint_segment = 7;
            }
            config.optimizer.name = OptimizerName::Muon;
            config.optimizer.muon_learning_rate = 1e-3;
        };
        let one = on_one(Packing::Shuffled, change);
        let several = |strategy| on_several(strategy, 2, Packing::Shuffled, change);
        let sent = several(Multi);
        sent.assert_is(&one, &format!("{way:?}"));
        // Weights that are sent are those that every rank makes for itself, by whatever rule.
        assert!(
            several(Ddp).has_the_bits_of(&sent),
            "{way:?}: not the same bits"
        );
    }
}

/// The scale is one for all ranks: it is the step that overflows or does not.
#[test]
fn a_scaled_loss_on_several_devices_equals_one() {
    let change = |config: &mut RunConfig| config.run.precision = Precision::F16Mixed;
    let one = on_one(Packing::Shuffled, change);
    for (strategy, ranks) in [(Multi, 2), (Ddp, 3)] {
        let several = on_several(strategy, ranks, Packing::Shuffled, change);
        for ((what, found, _), (_, expected, _)) in several.0.iter().zip(&one.0) {
            let name = format!("{strategy:?} in f16-mixed");
            assert_close(&name, what, found, expected, HALF);
        }
    }
    // Sums over fewer rows overflow at another scale, but under both strategies in the same steps.
    let too_high = |config: &mut RunConfig| {
        change(config);
        config.training.loss_scale.initial = 2f64.powi(26);
    };
    let several = |strategy| on_several(strategy, 3, Packing::Shuffled, too_high);
    let sent = several(Multi);
    let norms = sent.0[1].1.len();
    assert!(
        (1..8).contains(&norms),
        "{norms} of 8 steps did not overflow"
    );
    assert!(several(Ddp).has_the_bits_of(&sent), "not the same bits");
}

/// Less clipping, or other windows, is another run.
#[test]
fn another_batch_is_caught() {
    let one = on_one(Packing::Shuffled, |_| ());
    type Change = fn(&mut RunConfig);
    let changes: [Change; 2] = [
        |config| config.training.max_grad_norm = 2.0 * MAX_NORM,
        |config| config.run.seed += 1,
    ];
    for change in changes {
        for strategy in [Multi, Ddp] {
            let other = on_several(strategy, 2, Packing::Shuffled, change);
            assert!(compare(&other.0[3].1, &one.0[3].1, WEIGHTS).is_err());
        }
    }
}

#[test]
fn a_run_gets_the_devices_it_asks_for() {
    let (_directory, config) = prepared(Packing::Shuffled, |_| ());
    for strategy in [Multi, Ddp] {
        let (asks, devices) = on_ranks(&config, strategy, 2);
        let message = |error: TrainError| error.to_string();
        let error = run_on(Device::flex(), &asks, None, None).0.unwrap_err();
        assert!(message(error).contains("asks for 2 devices, and the run was given 1"));
        let error = run_on(devices, &config, None, None).0.unwrap_err();
        assert!(message(error).contains("asks for 1 devices, and the run was given 2"));
    }
}
