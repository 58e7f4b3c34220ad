//! What a step of training does, against scalar references and against itself.

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod evaluation;
mod groups;
mod initial_state;
mod peft;
mod precision;
mod ranks;
mod stream;
mod tasks;

use common::{ByPath, config, gradients, metrics, parameters, run};
use infinity_kernels::testing::{Random, Tol, assert_close, compare};
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::optim::{GradientsAccumulator, GradientsParams};
use infinity_model::burn::tensor::{Device, Tensor};
use infinity_model::burn::train::TrainStep;
use infinity_model::{ModelConfig, from_pretrained};
use infinity_train::config::OptimizerName;
use infinity_train::data::{HostBatch, IGNORE_INDEX, Packing};
use infinity_train::optimizer::clip;
use infinity_train::step::{LmBatch, Recompute, Trainee};
use std::path::Path;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: usize = 11;
/// Worst RMS ratio on Flex, 2026-11-23: 7.9e-8.
const TOL: Tol = Tol {
    rms_ratio: 5e-7,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
/// Worst RMS ratio of a gradient in two sums instead of one on Flex, 2026-11-24: 1.0e-6.
const GRADS: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
/// Worst RMS ratio over a run of eight steps on Flex, 2026-11-23: 3.5e-8.
const RUN: Tol = Tol {
    rms_ratio: 3e-7,
    worst_over_rms: 30.0,
    floor: 0.0,
};

/// Worst RMS ratio of all parameters after such a run on Flex, 2026-11-24: 8.0e-8.
const WEIGHTS: Tol = Tol {
    rms_ratio: 1e-6,
    worst_over_rms: 1e3,
    floor: 0.0,
};

fn trainee(config: &ModelConfig) -> Trainee {
    let config = ModelConfig {
        vocab_size: VOCABULARY,
        ..config.clone()
    };
    Trainee::new(config.init_seeded(5, &Device::flex().autodiff()), 0)
}

/// `rows` windows of 20 random tokens, of which each row ignores the last few targets.
fn batch(rows: usize, seed: u64) -> HostBatch {
    const LEN: usize = 20;
    let mut random = Random(seed);
    let mut ids = |len| -> Vec<i32> {
        random
            .values(len, 0.0, VOCABULARY as f64)
            .iter()
            .map(|x| *x as i32)
            .collect()
    };
    let (inputs, mut targets) = (ids(rows * LEN), ids(rows * LEN));
    for (row, targets) in targets.chunks_mut(LEN).enumerate() {
        targets[LEN - 3 * row..].fill(IGNORE_INDEX);
    }
    let valid = targets
        .iter()
        .filter(|target| **target != IGNORE_INDEX)
        .count();
    HostBatch {
        inputs,
        targets,
        rows,
        len: LEN,
        carry: vec![None; rows],
        valid,
        borders: Default::default(),
    }
}

/// Rows `from..to` of a batch.
fn part(batch: &HostBatch, from: usize, to: usize) -> HostBatch {
    let cut = |ids: &[i32]| ids[from * batch.len..to * batch.len].to_vec();
    let targets = cut(&batch.targets);
    let valid = targets
        .iter()
        .filter(|target| **target != IGNORE_INDEX)
        .count();
    let carry = vec![None; to - from];
    HostBatch {
        inputs: cut(&batch.inputs),
        targets,
        rows: to - from,
        len: batch.len,
        carry,
        valid,
        borders: Default::default(),
    }
}

/// Loss and gradients of `batch` in `n` equal micro-batches, each scaled by one over `targets`.
fn accumulated(
    trainee: &Trainee,
    batch: &HostBatch,
    n: usize,
    mean_of_means: bool,
) -> (f64, ByPath) {
    let (mut accumulator, mut loss) = (GradientsAccumulator::new(), 0.0);
    let rows = batch.rows / n;
    for i in 0..n {
        let host = part(batch, i * rows, (i + 1) * rows);
        let targets = if mean_of_means {
            n * host.valid
        } else {
            batch.valid
        };
        let micro = LmBatch {
            scale: 1.0 / targets as f64,
            ..LmBatch::alone(host)
        };
        let output = TrainStep::step(trainee, micro);
        loss += output.item.loss_sum;
        accumulator.accumulate(trainee, output.grads);
    }
    (
        loss / batch.valid as f64,
        gradients(trainee, &accumulator.grads()),
    )
}

#[test]
fn micro_batches_add_up_to_one_batch() {
    let (trainee, batch) = (trainee(&common::model()), batch(4, 1));
    let (loss, grads) = accumulated(&trainee, &batch, 1, false);
    let ways = [
        Recompute::Nothing,
        Recompute::Blocks,
        Recompute::Segments(7),
    ];
    for (n, way) in [2, 4].into_iter().flat_map(|n| ways.map(|way| (n, way))) {
        let trainee = trainee.clone().recomputing(way);
        let (in_parts, grads_in_parts) = accumulated(&trainee, &batch, n, false);
        assert_close("accumulation", "loss", &[in_parts], &[loss], TOL);
        for (name, grad) in &grads {
            assert_close("accumulation", name, &grads_in_parts[name], grad, GRADS);
        }
        // Rows have different numbers of targets, so a mean of means is another thing.
        let (_, wrong) = accumulated(&trainee, &batch, n, true);
        assert!(
            grads
                .iter()
                .all(|(name, grad)| compare(&wrong[name], grad, GRADS).is_err())
        );
    }
}

/// Every parameter of a model directory, one behind the other.
fn weights(directory: &Path) -> Vec<f64> {
    let loaded = from_pretrained(directory, &Device::flex()).unwrap();
    parameters(&loaded.model).into_values().flatten().collect()
}

/// The same windows in two micro-batches of two rows or in one of four: the same run.
#[test]
fn a_run_does_not_depend_on_how_a_batch_is_cut() {
    let runs = [(4, 1), (2, 2), (4, 2)].map(|(rows, accumulated)| {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), Packing::Shuffled);
        config.training.per_device_train_batch_size = rows;
        config.training.gradient_accumulation_steps = accumulated;
        run(&config, None, None).0.unwrap();
        let numbers = |key: &str| -> Vec<f64> {
            metrics(&directory.path().join("run"))
                .iter()
                .filter_map(|line| line[key].as_f64())
                .collect()
        };
        (
            numbers("train/loss"),
            numbers("train/grad_norm"),
            numbers("eval/loss"),
            weights(&directory.path().join("run/final")),
        )
    });
    assert_close("a run", "training loss", &runs[1].0, &runs[0].0, RUN);
    assert_close("a run", "gradient norm", &runs[1].1, &runs[0].1, RUN);
    assert_close("a run", "validation loss", &runs[1].2, &runs[0].2, RUN);
    assert_close("a run", "weights", &runs[1].3, &runs[0].3, WEIGHTS);
    assert!(compare(&runs[2].3, &runs[0].3, WEIGHTS).is_err());
    assert!(
        compare(&runs[2].0, &runs[0].0, RUN).is_err(),
        "twice the batch is another run"
    );
}

/// Gradients as the optimizer takes them.
fn times(mut grads: ByPath, factor: f64) -> ByPath {
    grads.values_mut().flatten().for_each(|x| *x *= factor);
    grads
}

#[test]
fn clipping_is_one_norm_over_all_gradients() {
    let trainee = trainee(&common::model());
    let step = || TrainStep::step(&trainee, LmBatch::alone(batch(2, 3))).grads;
    let before = gradients(&trainee, &step());
    let norm = before.values().flatten().map(|x| x * x).sum::<f64>().sqrt();
    for (max_norm, factor) in [(0.0, 1.0), (2.0 * norm, 1.0), (norm / 3.0, 1.0 / 3.0)] {
        let (clipped, found) = clip(&trainee, step(), 1.0, max_norm);
        assert_close("clip", "norm", &[found.norm], &[norm], TOL);
        let clipped = times(gradients(&trainee, &clipped), found.factor);
        assert_eq!(clipped.len(), before.len());
        for (name, grad) in &before {
            let expected: Vec<f64> = grad.iter().map(|x| x * factor).collect();
            assert_close("clip", name, &clipped[name], &expected, TOL);
            if factor == 1.0 {
                assert_eq!(clipped[name], *grad, "left as they are, bit by bit");
            } else {
                assert!(compare(&clipped[name], grad, TOL).is_err());
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_is_told_and_changes_nothing() {
    struct Spoil<'a>(&'a mut GradientsParams, bool);
    impl ModuleVisitor for Spoil<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let (false, Some(grad)) = (self.1, self.0.remove::<D>(param.id)) {
                self.0.register(param.id, grad * f32::NAN);
                self.1 = true;
            }
        }
    }
    let trainee = trainee(&common::model());
    let mut grads = TrainStep::step(&trainee, LmBatch::alone(batch(2, 3))).grads;
    trainee.visit(&mut Spoil(&mut grads, false));
    let before = gradients(&trainee, &grads);
    let (after, found) = clip(&trainee, grads, 1.0, 0.1);
    assert!(found.norm.is_nan());
    let finite = |grads: &ByPath| {
        grads
            .values()
            .flatten()
            .filter(|x| x.is_finite())
            .copied()
            .collect()
    };
    let after = times(gradients(&trainee, &after), found.factor);
    let (before, after): (Vec<f64>, Vec<f64>) = (finite(&before), finite(&after));
    assert_eq!(before, after);
}

#[test]
fn the_loss_falls() {
    for (name, rate) in [(OptimizerName::Adamw, 1e-2), (OptimizerName::Muon, 5e-3)] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), Packing::Random);
        config.training.max_steps = 60;
        config.optimizer.name = name;
        config.optimizer.learning_rate = rate;
        config.eval.every = 30;
        config.checkpoint.every = 0;
        let (report, heard) = run(&config, None, None);
        let report = report.unwrap();
        let losses: Vec<f64> = heard.steps.iter().filter_map(|step| step.loss).collect();
        assert_eq!(
            (report.step, report.interrupted, losses.len()),
            (60, false, 60)
        );
        // Bytes at random cost ln 257 = 5.5 nats.
        assert!((5.0..6.0).contains(&losses[0]), "{name:?}: {losses:?}");
        let late = losses[50..].iter().sum::<f64>() / 10.0;
        assert!(late < 0.6 * losses[0], "{name:?}: {losses:?}");
        let evals: Vec<f64> = heard.evals.iter().map(|eval| eval.report.loss).collect();
        assert!(
            evals.len() == 2 && evals[1] < evals[0],
            "{name:?}: {evals:?}"
        );
        assert_eq!(report.eval.unwrap().loss, evals[1]);
    }
}

/// A rate of zero learns nothing: what the test above would say of it.
#[test]
fn without_a_rate_the_loss_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), Packing::Random);
    config.optimizer.learning_rate = 1e-12;
    let (_, heard) = run(&config, None, None);
    assert!(
        heard
            .steps
            .iter()
            .all(|step| step.loss.is_some_and(|loss| (5.0..6.0).contains(&loss)))
    );
}
