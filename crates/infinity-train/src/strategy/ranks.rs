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
//! other rank is a thread that keeps its gradient through the step's micro-batches, and gives it to
//! the sum at the end. Its weights are the main device's, which come at the start of every step, or
//! its own, with an optimizer of its own: `reduction.rs`.

use super::carried::Carried;
use super::reduction::{Reduction, reduced};
use super::replica::Replica;
use crate::data::HostBatch;
use crate::metrics::LmOutput;
use crate::step::{LmBatch, Trainee, drops, initialise};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use burn::train::{Learner, TrainStep};

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

/// What all ranks together learned in a step, on the main device. Where every rank has an optimizer,
/// each has the gradient, or gets it in [`Ranks::update`].
pub(super) struct Learned {
    pub(super) loss_sum: f64,
    pub(super) n_tokens: usize,
    pub(super) grads: GradientsParams,
}

/// The devices of a run at work.
pub(super) struct Ranks {
    main: Device,
    pub(super) replicas: Vec<Replica>,
    /// None where the main device alone has an optimizer.
    pub(super) reduction: Option<Reduction>,
}

impl Ranks {
    /// Starts a thread for every device after the first. The devices have autodiff. With a
    /// `reduction` every rank goes on from what `learner` is now.
    pub(super) fn start(
        devices: &[Device],
        reduction: Option<Reduction>,
        learner: &Learner<Trainee>,
    ) -> Self {
        let (main, others) = devices.split_first().expect("a main device");
        let replicas: Vec<Replica> = others.iter().cloned().map(Replica::start).collect();
        if reduction.is_some() && !replicas.is_empty() {
            initialise(&learner.model());
            for replica in &replicas {
                replica.own(learner.clone());
            }
        }
        Ranks {
            main: main.clone(),
            replicas,
            reduction,
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
            replica.begin(self.reduction.is_none().then(|| trainee.clone()));
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
        Learned {
            loss_sum,
            n_tokens,
            grads: self.sum(trainee, grads),
        }
    }

    /// The gradient of all ranks, of which `grads` are rank 0's.
    fn sum(
        &mut self,
        trainee: &Trainee,
        mut grads: GradientsAccumulator<Trainee>,
    ) -> GradientsParams {
        if let Some(Reduction::Collective(all_reduce)) = &self.reduction {
            // All have learned: no rank is waited for in a sum that it never comes to.
            for replica in &self.replicas {
                replica.reduce(all_reduce.clone());
            }
            let sum = reduced(trainee, grads.grads(), &**all_reduce);
            self.replicas.iter_mut().for_each(Replica::done);
            return sum;
        }
        let main = self.main.clone().inner();
        for replica in &mut self.replicas {
            grads.accumulate(trainee, replica.finish(&main));
        }
        grads.grads()
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
pub(super) mod tests;
