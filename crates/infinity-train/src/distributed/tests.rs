//! Several ranks are one, whatever way their gradients take, and an end of one is the run's.

use super::*;
use crate::config::{LrSchedulerConfig, OptimizerConfig};
use crate::data::IGNORE_INDEX;
use crate::step::Recompute;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use infinity_kernels::testing::{Random, Tol, assert_close, compare, values};
use infinity_model::ModelConfig;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

/// Worst RMS ratio of a gradient in several sums instead of one on Flex, 2026-11-26: 1.7e-7.
pub(in crate::distributed) const TOL: Tol = Tol {
    rms_ratio: 1.5e-6,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
const LEN: usize = 20;
const VOCABULARY: usize = 11;

/// What learns, at a rate that changes from step to step.
pub(in crate::distributed) fn learner(way: Recompute) -> (Trainee, Optimizer) {
    let config = ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        initializer_range: 0.1,
        ..ModelConfig::first()
    };
    let model = config.init_seeded(5, &Device::flex().autodiff());
    let trainee = Trainee::new(model, 0).recomputing(way);
    let rules = OptimizerConfig {
        learning_rate: 3e-3,
        ..OptimizerConfig::default()
    };
    let optimizer = Optimizer::new(&rules, &LrSchedulerConfig::default(), 9, &trainee);
    (trainee, optimizer)
}

/// Four rows, of which the last ones are mostly padding.
fn host(seed: u64, carry: &[Option<usize>; 4]) -> HostBatch {
    let mut random = Random(seed);
    let mut ids = || -> Vec<i32> {
        let values = random.values(4 * LEN, 0.0, VOCABULARY as f64);
        values.iter().map(|x| *x as i32).collect()
    };
    let (inputs, mut targets) = (ids(), ids());
    for (row, targets) in targets.chunks_mut(LEN).enumerate() {
        targets[LEN - 6 * row..].fill(IGNORE_INDEX);
    }
    HostBatch {
        valid: targets.iter().filter(|id| **id != IGNORE_INDEX).count(),
        inputs,
        targets,
        rows: 4,
        len: LEN,
        carry: carry.to_vec(),
        borders: Default::default(),
    }
}

/// Three micro-batches: rows go on with their own past, with a neighbour's, with nothing, and
/// with that of a row of another rank.
pub(in crate::distributed) fn hosts() -> Vec<HostBatch> {
    vec![
        host(1, &[None; 4]),
        host(2, &[Some(0), Some(1), Some(2), Some(3)]),
        host(3, &[Some(3), Some(1), None, Some(2)]),
    ]
}

struct Flat<'a>(&'a GradientsParams, Vec<f64>);

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.0.get::<D>(param.id).expect("every parameter learns");
        self.1.extend(values(grad));
    }
}

/// The first `ranks` ranks of `trainee`, on its device.
pub(in crate::distributed) fn start(
    ranks: usize,
    reduction: Option<Reduction>,
    trainee: &Trainee,
    optimizer: &Optimizer,
) -> Ranks {
    let device = trainee.model.device();
    Ranks::start(&vec![device; ranks], reduction, trainee, optimizer)
}

/// A step's work, with the gradient of every loss times `scale`.
pub(in crate::distributed) fn work(hosts: Vec<HostBatch>, scale: f64) -> Work {
    Work {
        hosts,
        scale,
        seed: 7,
        stateful: true,
    }
}

/// A collective operation in the process: every rank comes with its part and waits for all
/// others, and `sum` makes one of them, which are in the same order on every rank.
pub(in crate::distributed) fn meeting(
    ranks: usize,
    sum: impl Fn(Vec<Vec<f64>>) -> Vec<f64> + Send + Sync + 'static,
) -> Reduction {
    let (parts, all) = (Mutex::new(Vec::new()), Barrier::new(ranks));
    Reduction::Collective(Arc::new(move |part| {
        parts.lock().unwrap().push(values(part.clone()));
        all.wait();
        let mut met: Vec<Vec<f64>> = parts.lock().unwrap().clone();
        met.sort_by_key(|part| part.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        let sum: Vec<f32> = sum(met).into_iter().map(|x| x as f32).collect();
        if all.wait().is_leader() {
            parts.lock().unwrap().clear();
        }
        all.wait();
        Tensor::from_data(&sum[..], &part.device())
    }))
}

/// Adds up `parts`.
pub(in crate::distributed) fn added(parts: Vec<Vec<f64>>) -> Vec<f64> {
    let sum = |i: usize| parts.iter().map(|part| part[i]).sum();
    (0..parts[0].len()).map(sum).collect()
}

/// Loss, gradient and what is carried on.
fn learned(
    ranks: usize,
    reduction: Option<Reduction>,
    way: Recompute,
    hosts: Vec<HostBatch>,
    scale: f64,
) -> (f64, Vec<f64>, Carried) {
    let (trainee, optimizer) = learner(way);
    let mut carried = None;
    let mut ranks = start(ranks, reduction, &trainee, &optimizer);
    let (output, grads) = ranks.learn(&trainee, work(hosts, scale), &mut carried);
    let mut flat = Flat(&grads, Vec::new());
    trainee.visit(&mut flat);
    let loss = output.loss_sum / output.n_tokens as f64;
    (loss, flat.1, carried.expect("a stream"))
}

pub(in crate::distributed) fn mean(hosts: &[HostBatch]) -> f64 {
    1.0 / hosts.iter().map(|host| host.valid).sum::<usize>() as f64
}

#[test]
fn ranks_together_learn_what_one_does() {
    for way in [
        Recompute::Nothing,
        Recompute::Blocks,
        Recompute::Segments(7),
    ] {
        let scale = mean(&hosts());
        let (loss, grads, carried) = learned(1, None, way, hosts(), scale);
        for (ranks, met) in [(2, false), (3, false), (4, false), (2, true), (3, true)] {
            let learned = || {
                let reduction = met.then(|| meeting(ranks, added));
                learned(ranks, reduction, way, hosts(), scale)
            };
            let (other_loss, other, others) = learned();
            let name = format!("{ranks} ranks, {way:?}, between them: {met}");
            assert_close(&name, "loss", &[other_loss], &[loss], TOL);
            assert_close(&name, "gradient", &other, &grads, TOL);
            let device = Device::flex();
            let (whole, expected) = (others.whole(&device), carried.whole(&device));
            assert_eq!(whole.position, expected.position);
            let apart = whole.inner_product(&whole).unwrap().into_scalar::<f32>();
            let norm = expected.inner_product(&expected).unwrap();
            let norm = f64::from(norm.into_scalar::<f32>());
            assert_close(&name, "carried", &[f64::from(apart)], &[norm], TOL);
            // The same bits again.
            assert_eq!(learned().1, other, "{name}");
        }
    }
}

/// What is wrong in many a data-parallel loop, and what no optimizer that divides by the
/// gradient's size would show.
#[test]
fn sums_and_means_of_means_are_caught() {
    let way = Recompute::Nothing;
    let hosts = vec![host(1, &[None; 4])];
    let (_, grads, _) = learned(1, None, way, hosts.clone(), mean(&hosts));
    let (_, sum, _) = learned(2, None, way, hosts.clone(), 2.0 * mean(&hosts));
    assert!(compare(&sum, &grads, TOL).is_err());
    let halves = [0, 2].map(|from| {
        let half = vec![hosts[0].part(from, from + 2)];
        let scale = 0.5 * mean(&half);
        learned(2, None, way, half, scale).1
    });
    let means: Vec<f64> = halves[0]
        .iter()
        .zip(&halves[1])
        .map(|(a, b)| a + b)
        .collect();
    assert!(compare(&means, &grads, TOL).is_err());
}

/// The words of the panic that ends `run`, which has to come.
fn panic_of(run: impl FnOnce() + Send + 'static) -> String {
    let (done, ended) = channel();
    thread::spawn(move || done.send(catch_unwind(AssertUnwindSafe(run))));
    let ended = ended.recv_timeout(Duration::from_secs(60));
    let panic = ended.expect("an end").expect_err("a panic");
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => (*panic.downcast::<&str>().expect("words")).to_owned(),
    }
}

#[test]
fn the_panic_of_a_rank_is_the_runs() {
    for row in 0..4 {
        for reduction in [None, Some(Reduction::Process), Some(meeting(4, added))] {
            let mut hosts = hosts();
            hosts[0].inputs[row * LEN] = 1 << 20;
            let words = panic_of(move || {
                learned(4, reduction, Recompute::Nothing, hosts, 1.0);
            });
            assert!(words.contains("out of bounds"), "rank {row}: {words}");
        }
    }
}

/// Another rank than the main one, in a sum that does not make the main one wait.
#[test]
fn the_panic_of_a_rank_that_nobody_waits_for_in_a_sum_is_the_runs() {
    let words = panic_of(|| {
        let main = thread::current().id();
        let reduction = Reduction::Collective(Arc::new(move |part| {
            assert!(thread::current().id() == main, "no way to the others");
            part
        }));
        learned(3, Some(reduction), Recompute::Nothing, hosts(), 1.0);
    });
    assert!(words.contains("no way to the others"), "{words}");
}
