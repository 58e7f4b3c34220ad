//! Whole runs that recompute, against one that does not.

use crate::alone;
use crate::common::{config, metrics, run};
use infinity_kernels::testing::{Tol, assert_close, compare};
use infinity_train::Resume;
use infinity_train::config::{GradientCheckpointing, RunConfig};
use infinity_train::data::Packing;
use tempfile::TempDir;

/// Worst RMS ratio of the losses of eight steps on Flex, 2026-11-24: 3.6e-8.
const RUN: Tol = Tol {
    rms_ratio: 3e-7,
    worst_over_rms: 30.0,
    floor: 0.0,
};

const WAYS: [GradientCheckpointing; 4] = [
    GradientCheckpointing::None,
    GradientCheckpointing::Ops,
    GradientCheckpointing::Blocks,
    GradientCheckpointing::Segments,
];

/// A run over windows of 16, in segments of 6 where it is cut into segments.
fn prepared(way: GradientCheckpointing) -> (TempDir, RunConfig) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), Packing::Contiguous);
    config.data.stateful = true;
    config.model.num_hidden_layers = 2;
    config.training.gradient_checkpointing = way;
    if way == GradientCheckpointing::Segments {
        config.training.checkpoint_segment = 6;
    }
    (directory, config)
}

/// The training losses that a run has logged.
fn losses(config: &RunConfig) -> Vec<f64> {
    let lines = metrics(&config.output_dir());
    let losses = lines.iter().filter_map(|line| line["train/loss"].as_f64());
    losses.collect()
}

#[test]
fn a_run_is_the_same_whatever_it_recomputes() {
    let _alone = alone();
    let runs = WAYS.map(|way| {
        let (_directory, config) = prepared(way);
        run(&config, None, None).0.unwrap();
        losses(&config)
    });
    assert_eq!(runs[0].len(), 8);
    for (way, found) in WAYS.iter().zip(&runs) {
        assert_close(&format!("{way:?}"), "losses", found, &runs[0], RUN);
    }
    let (_directory, mut other) = prepared(GradientCheckpointing::Blocks);
    other.data.stateful = false;
    run(&other, None, None).0.unwrap();
    assert!(compare(&losses(&other), &runs[0], RUN).is_err());
}

/// A run that ran out of memory goes on with less; one on a recomputing device goes on as well.
#[test]
fn a_run_goes_on_with_another_way() {
    let _alone = alone();
    let (_whole, config) = prepared(GradientCheckpointing::None);
    run(&config, None, None).0.unwrap();
    let expected = losses(&config);
    for pair in [[0, 2], [1, 1], [3, 0]].map(|pair| pair.map(|way| WAYS[way])) {
        let (_directory, mut config) = prepared(pair[0]);
        run(&config, None, Some(4)).0.unwrap();
        config.training.gradient_checkpointing = pair[1];
        config.training.checkpoint_segment = 0;
        let report = run(&config, Some(Resume::Latest), None).0.unwrap();
        assert_eq!(report.step, 8);
        assert_close(
            &format!("{pair:?}"),
            "losses",
            &losses(&config),
            &expected,
            RUN,
        );
    }
}

/// Gradients through two windows of 16 are gradients through one of 32.
#[test]
fn several_windows_are_one_for_the_gradient() {
    let _alone = alone();
    let of = |window: usize, chunks: usize, way| {
        let (_directory, mut config) = prepared(way);
        config.data.max_seq_length = window;
        config.data.tbptt_chunks = chunks;
        config.training.checkpoint_segment = 0;
        run(&config, None, None).0.unwrap();
        losses(&config)
    };
    let long = of(32, 1, GradientCheckpointing::None);
    for way in WAYS {
        let chunks = of(16, 2, way);
        assert_close(&format!("{way:?}"), "losses", &chunks, &long, RUN);
    }
    let truncated = of(16, 1, GradientCheckpointing::None);
    assert!(compare(&truncated, &long, RUN).is_err());
}
