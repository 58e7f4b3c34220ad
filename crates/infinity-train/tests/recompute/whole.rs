//! Every way through a step against the whole graph.

use crate::{Given, accumulated_in_halves, alone, batches, given, kinds, small, trainee};
use infinity_kernels::testing::{Tol, assert_close, compare};
use infinity_model::ModelConfig;
use infinity_model::burn::tensor::Device;
use infinity_model::config::Mixer;
use infinity_train::step::{LmBatch, Recompute, Trainee};

/// Worst RMS ratio on Flex, 2026-11-24: blocks and operations 0, segments 4.0e-7.
const TOL: Tol = Tol {
    rms_ratio: 1e-6,
    worst_over_rms: 40.0,
    floor: 1e-9,
};

/// Every gradient one behind the other.
fn all(given: &Given) -> Vec<f64> {
    given.gradients.values().flatten().copied().collect()
}

/// Loss, state, all gradients as one vector, and each gradient, which may be off by as much as
/// all of them are.
fn assert_same(name: &str, found: &Given, expected: &Given) {
    assert_eq!(found.position, expected.position, "{name}");
    let paths: Vec<_> = expected.gradients.keys().collect();
    assert_eq!(found.gradients.keys().collect::<Vec<_>>(), paths, "{name}");
    let (found_all, expected_all) = (all(found), all(expected));
    let squares: f64 = expected_all.iter().map(|x| x * x).sum();
    let each = Tol {
        floor: TOL.rms_ratio * (squares / expected_all.len() as f64).sqrt(),
        ..TOL
    };
    for (path, grad) in &expected.gradients {
        assert_close(name, path, &found.gradients[path], grad, each);
    }
    assert_close(name, "gradients", &found_all, &expected_all, TOL);
    assert_close(name, "loss", &[found.loss], &[expected.loss], TOL);
    assert_close(name, "state", &found.state, &expected.state, TOL);
}

#[test]
fn every_way_gives_the_gradients_of_the_whole_graph() {
    let device = Device::flex().autodiff();
    for (kind, config) in kinds() {
        // Each a model of its own: one whose parameters are not initialised yet is another case.
        let by = |way| trainee(&config, &device, way);
        let whole = by(Recompute::Nothing);
        let ops = device.clone().gradient_checkpointing();
        let ops = trainee(&config, &ops, Recompute::Nothing);
        let ways: [(&str, Trainee); 6] = [
            ("operations", ops),
            ("blocks", by(Recompute::Blocks)),
            ("segments of 1", by(Recompute::Segments(1))),
            ("segments of 7", by(Recompute::Segments(7))),
            ("segments of 10", by(Recompute::Segments(10))),
            ("one segment", by(Recompute::Segments(64))),
        ];
        for (start, batch) in batches(&config) {
            let expected = given(&whole, &batch);
            for (way, trainee) in &ways {
                let name = format!("{kind}, {start}, {way}");
                assert_same(&name, &given(trainee, &batch), &expected);
            }
        }
    }
}

/// What the test above would say of a gradient that stops at a border, or of a state forgotten.
#[test]
fn a_truncated_gradient_is_noticed() {
    let device = Device::flex().autodiff();
    let whole = trainee(&small(), &device, Recompute::Nothing);
    let [(_, fresh), (_, carried), (_, packed)] = batches(&small());
    let expected = given(&whole, &fresh);
    let halves = accumulated_in_halves(&whole, &fresh);
    assert_close("halves", "loss", &[halves.loss], &[expected.loss], TOL);
    assert_close("halves", "state", &halves.state, &expected.state, TOL);
    assert!(compare(&all(&halves), &all(&expected), TOL).is_err());
    let differ = expected.gradients.iter();
    let differ = differ.filter(|(path, g)| compare(&halves.gradients[*path], g, TOL).is_err());
    assert!(differ.count() > 10, "in most parameters");

    let open = given(&whole, &carried);
    let closed = given(&whole, &packed);
    assert!(compare(&all(&open), &all(&closed), TOL).is_err());

    let elsewhere = given(&whole.recomputing(Recompute::Blocks), &carried);
    assert!(compare(&all(&elsewhere), &all(&expected), TOL).is_err());
    assert!(compare(&elsewhere.state, &expected.state, TOL).is_err());
}

#[test]
fn blocks_drop_the_same_numbers_again() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    for mixer in [Mixer::Infinity, Mixer::Softmax] {
        let config = ModelConfig {
            mixer,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            ..small()
        };
        let whole = trainee(&config, &device, Recompute::Nothing);
        let blocks = whole.clone().recomputing(Recompute::Blocks);
        let [(_, batch), ..] = batches(&config);
        let seeded = |seed| LmBatch {
            seed: Some(seed),
            ..batch.clone()
        };
        let expected = given(&whole, &seeded(1));
        assert_same("dropout", &given(&blocks, &seeded(1)), &expected);
        let other = given(&blocks, &seeded(2));
        assert!(compare(&all(&other), &all(&expected), TOL).is_err());
        // Without a seed one is drawn: the passes agree, two steps do not.
        let [once, again] = [0, 1].map(|_| given(&blocks, &batch));
        assert!(once.loss.is_finite() && once.loss != again.loss);
    }
}
