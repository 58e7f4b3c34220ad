//! A step shared by devices: every rank learns from its own rows of every micro-batch.
//!
//! ```text
//! gradient = Σ over ranks, Σ over micro-batches  ∂(Σ losses of the rank's rows) / targets of the step
//! ```
//!
//! It is a mean over the targets of the whole step, not a mean of the ranks' means, so that padding
//! that falls on one rank alone weighs nothing; it is added up in the order of the ranks, so that a
//! run gives the same bits again.
//!
//! Rank 0 is the main device. It computes on the loop's own thread with the learner's model. Every
//! other rank is a thread that gets the weights at the start of a step, keeps its gradient through
//! the step's micro-batches, and hands it over at its end.

use super::carried::Carried;
use super::replica::Replica;
use crate::data::HostBatch;
use crate::metrics::LmOutput;
use crate::step::{LmBatch, Trainee, drops, initialise};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use burn::train::TrainStep;

/// Keeps the seeds of ranks apart, as steps and places in a step have neighbouring ones.
const SEEDS_APART: u64 = 0xD1B5_4A32_D192_ED03;

/// The micro-batches of one optimizer step.
pub(super) struct Work {
    pub(super) hosts: Vec<HostBatch>,
    /// Factor on the gradient of a loss: the loss scale over the targets of the step.
    pub(super) scale: f64,
    /// Seed of the first micro-batch; the next ones count on from it.
    pub(super) seed: u64,
    /// Whether a micro-batch starts from what the one before leaves behind.
    pub(super) stateful: bool,
}

/// What all ranks together learned in a step, on the main device.
pub(super) struct Learned {
    pub(super) loss_sum: f64,
    pub(super) n_tokens: usize,
    pub(super) grads: GradientsParams,
}

/// The devices of a run at work.
pub(super) struct Ranks {
    main: Device,
    replicas: Vec<Replica>,
}

impl Ranks {
    /// Starts a thread for every device after the first. The devices have autodiff.
    pub(super) fn start(devices: &[Device]) -> Self {
        let (main, others) = devices.split_first().expect("a main device");
        Ranks {
            main: main.clone(),
            replicas: others.iter().cloned().map(Replica::start).collect(),
        }
    }

    fn count(&self) -> usize {
        1 + self.replicas.len()
    }

    /// Loss and gradient of a step of `trainee`, which is on the main device. `carried` is what the
    /// step before left behind and becomes what this one does.
    pub(super) fn learn(
        &mut self,
        trainee: &Trainee,
        work: Work,
        carried: &mut Option<Carried>,
    ) -> Learned {
        if !self.replicas.is_empty() {
            // What clones share before it is initialised is initialised by whichever comes first.
            initialise(trainee);
        }
        for replica in &self.replicas {
            replica.begin(trainee.clone());
        }
        let (mut loss_sum, mut n_tokens) = (0.0, 0);
        let mut grads = GradientsAccumulator::new();
        for (i, host) in work.hosts.into_iter().enumerate() {
            let seed = work.seed.wrapping_add(i as u64);
            let batches = self.share(host, carried.take(), work.scale, seed);
            let (outputs, own) = self.micro_step(trainee, batches);
            grads.accumulate(trainee, own);
            loss_sum += outputs.iter().map(|output| output.loss_sum).sum::<f64>();
            n_tokens += outputs.iter().map(|output| output.n_tokens).sum::<usize>();
            if work.stateful {
                *carried = outputs.into_iter().map(|output| output.state).collect();
            }
        }
        let main = self.main.clone().inner();
        for replica in &mut self.replicas {
            grads.accumulate(trainee, replica.finish(&main));
        }
        Learned {
            loss_sum,
            n_tokens,
            grads: grads.grads(),
        }
    }

    /// A micro-batch in parts, one a rank: rank `r` of `R` has the rows `B·r/R` to `B·(r + 1)/R`.
    fn share(
        &self,
        host: HostBatch,
        carried: Option<Carried>,
        scale: f64,
        seed: u64,
    ) -> Vec<LmBatch> {
        let carried = carried.filter(|carried| carried.rows() == host.rows);
        let (ranks, rows) = (self.count(), host.rows);
        let devices = std::iter::once(&self.main).chain(self.replicas.iter().map(Replica::device));
        let part = |(rank, device): (usize, &Device)| {
            let own = rows * rank / ranks..rows * (rank + 1) / ranks;
            let mut host = host.part(own.start, own.end);
            let device = device.clone().inner();
            let state = carried
                .as_ref()
                .map(|carried| carried.start(ranks, own, &mut host.carry, &device));
            LmBatch {
                host,
                state,
                scale,
                seed: Some(seed.wrapping_add((rank as u64).wrapping_mul(SEEDS_APART))),
            }
        };
        devices.enumerate().map(part).collect()
    }

    /// Outputs of all ranks in order, and the gradient of rank 0.
    fn micro_step(
        &mut self,
        trainee: &Trainee,
        batches: Vec<LmBatch>,
    ) -> (Vec<LmOutput>, GradientsParams) {
        let mut batches = batches.into_iter();
        let first = batches.next().expect("a part for rank 0");
        // A process has one random generator, which every rank seeds: where it is used, they take
        // turns.
        let in_turn = drops(trainee.model.config());
        if !in_turn {
            for (replica, batch) in self.replicas.iter().zip(batches.by_ref()) {
                replica.learn(batch);
            }
        }
        let own = TrainStep::step(trainee, first);
        let mut outputs = vec![own.item];
        for replica in &mut self.replicas {
            if in_turn {
                replica.learn(batches.next().expect("a part for every rank"));
            }
            outputs.push(replica.learned());
        }
        (outputs, own.grads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IGNORE_INDEX;
    use crate::step::Recompute;
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::Tensor;
    use infinity_kernels::testing::{Random, Tol, assert_close, compare, values};
    use infinity_model::ModelConfig;

    /// Worst RMS ratio of a gradient in several sums instead of one on Flex, 2026-11-24: 1.6e-7.
    const TOL: Tol = Tol {
        rms_ratio: 1.5e-6,
        worst_over_rms: 30.0,
        floor: 1e-9,
    };
    const LEN: usize = 20;
    const VOCABULARY: usize = 11;

    fn trainee(way: Recompute) -> Trainee {
        let config = ModelConfig {
            vocab_size: VOCABULARY,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            initializer_range: 0.1,
            ..ModelConfig::default()
        };
        let model = config.init_seeded(5, &Device::flex().autodiff());
        Trainee::new(model, 0).recomputing(way)
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
        }
    }

    /// Three micro-batches: rows go on with their own past, with a neighbour's, with nothing, and
    /// with that of a row of another rank.
    fn hosts() -> Vec<HostBatch> {
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

    /// Loss, gradient and what is carried on, with the gradient of every loss times `scale`.
    fn learned(
        ranks: usize,
        way: Recompute,
        hosts: Vec<HostBatch>,
        scale: f64,
    ) -> (f64, Vec<f64>, Carried) {
        let trainee = trainee(way);
        let work = Work {
            hosts,
            scale,
            seed: 7,
            stateful: true,
        };
        let mut carried = None;
        let learned =
            Ranks::start(&vec![trainee.model.device(); ranks]).learn(&trainee, work, &mut carried);
        let mut flat = Flat(&learned.grads, Vec::new());
        trainee.visit(&mut flat);
        let loss = learned.loss_sum / learned.n_tokens as f64;
        (loss, flat.1, carried.expect("a stream"))
    }

    fn mean(hosts: &[HostBatch]) -> f64 {
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
            let (loss, grads, carried) = learned(1, way, hosts(), scale);
            for ranks in [2, 3, 4] {
                let (other_loss, other, others) = learned(ranks, way, hosts(), scale);
                let name = format!("{ranks} ranks, {way:?}");
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
                assert_eq!(learned(ranks, way, hosts(), scale).1, other);
            }
        }
    }

    /// What is wrong in many a data-parallel loop, and what no optimizer that divides by the
    /// gradient's size would show.
    #[test]
    fn sums_and_means_of_means_are_caught() {
        let way = Recompute::Nothing;
        let hosts = vec![host(1, &[None; 4])];
        let (_, grads, _) = learned(1, way, hosts.clone(), mean(&hosts));
        let (_, sum, _) = learned(2, way, hosts.clone(), 2.0 * mean(&hosts));
        assert!(compare(&sum, &grads, TOL).is_err());
        let halves = [0, 2].map(|from| {
            let half = vec![hosts[0].part(from, from + 2)];
            let scale = 0.5 * mean(&half);
            learned(2, way, half, scale).1
        });
        let means: Vec<f64> = halves[0]
            .iter()
            .zip(&halves[1])
            .map(|(a, b)| a + b)
            .collect();
        assert!(compare(&means, &grads, TOL).is_err());
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn the_panic_of_a_rank_is_the_runs() {
        let mut hosts = hosts();
        let last = hosts[0].rows * LEN - 1;
        hosts[0].inputs[last] = 1 << 20;
        learned(2, Recompute::Nothing, hosts, 1.0);
    }
}
