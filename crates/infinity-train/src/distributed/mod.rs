//! The devices of a run, and a step that they share: every rank learns from its own rows of every
//! micro-batch.
//!
//! ```text
//! gradient = Σ over ranks, Σ over micro-batches  ∂(Σ losses of the rank's rows) / targets of the step
//! ```
//!
//! It is a mean over the targets of the whole step, not a mean of the ranks' means, so that padding
//! that falls on one rank alone weighs nothing; it is added up in the order of the ranks, so that a
//! run gives the same bits again.
//!
//! Rank 0 is the main device and computes on the loop's own thread. Every other rank is a thread
//! (`replica.rs`) that keeps its gradient through the step's micro-batches and gives it to the sum at
//! the end. Its weights are the main device's, sent at the start of every step, or its own, with an
//! optimizer of its own (`reduction.rs`).

mod devices;
mod reduction;
mod replica;

pub use devices::Devices;
pub(crate) use reduction::{Reduction, Update};

use crate::data::HostBatch;
use crate::optimizer::Optimizer;
use crate::step::{LmBatch, LmOutput, Trainee, drops, initialise};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use infinity_model::ModelState;
use reduction::{copy, reduced};
use replica::Replica;
use std::ops::Range;
use std::sync::mpsc::Receiver;

/// The states of a batch's rows in order, in as many parts as there were ranks, each on the device
/// that computed it. A state from a checkpoint is one part.
#[derive(Clone, Debug)]
pub(crate) struct Carried(pub(crate) Vec<ModelState>);

impl Carried {
    /// All rows as one state on `device`, which has no autodiff.
    pub(crate) fn whole(&self, device: &Device) -> ModelState {
        match &self.0[..] {
            [whole] => whole.clone().to_device(device),
            parts => {
                let moved = parts.iter().map(|part| part.clone().to_device(device));
                ModelState::cat(moved.collect())
            }
        }
    }

    /// The state that the rows `own` of the next batch start from, on `device`, and in `carry` which
    /// of its rows each of them takes; before the call, `carry` names rows of the whole batch.
    ///
    /// Rows that go on with their own past stay where they are. All are fetched where one starts from
    /// a row that another device has, and where the parts are not this many ranks'.
    fn start(
        &self,
        ranks: usize,
        own: Range<usize>,
        carry: &mut [Option<usize>],
        device: &Device,
    ) -> ModelState {
        let stays = self.0.len() == ranks && carry.iter().flatten().all(|row| own.contains(row));
        let mut first = 0;
        for part in &self.0 {
            let rows = first..first + part.batch();
            if stays && rows == own {
                for row in carry.iter_mut().flatten() {
                    *row -= first;
                }
                return part.clone();
            }
            first = rows.end;
        }
        self.whole(device)
    }
}

/// Keeps the seeds of ranks apart, as steps and places in a step have neighbouring ones.
const SEEDS_APART: u64 = 0xD1B5_4A32_D192_ED03;

/// The micro-batches of one optimizer step.
pub(crate) struct Work {
    pub(crate) hosts: Vec<HostBatch>,
    /// Factor on the gradient of a loss: the loss scale over the targets of the step.
    pub(crate) scale: f64,
    /// Seed of the first micro-batch; the next ones count on from it.
    pub(crate) seed: u64,
    /// Whether a micro-batch starts from what the one before leaves behind.
    pub(crate) stateful: bool,
}

pub(crate) struct Ranks {
    main: Device,
    replicas: Vec<Replica>,
    /// None where the main device alone has an optimizer.
    reduction: Option<Reduction>,
}

impl Ranks {
    /// Starts a thread for every device after the first. The devices have autodiff. With a
    /// `reduction` every rank goes on with the weights and the optimizer given.
    pub(crate) fn start(
        devices: &[Device],
        reduction: Option<Reduction>,
        trainee: &Trainee,
        optimizer: &Optimizer,
    ) -> Self {
        let (main, others) = devices.split_first().expect("a main device");
        let replicas: Vec<Replica> = others.iter().cloned().map(Replica::start).collect();
        if reduction.is_some() && !replicas.is_empty() {
            initialise(trainee);
            for replica in &replicas {
                replica.own(trainee.clone(), optimizer.clone());
            }
        }
        Ranks {
            main: main.clone(),
            replicas,
            reduction,
        }
    }

    /// Loss and gradient of a step of `trainee`, both on the main device. `carried` is what the step before left
    /// behind and becomes what this one does. Where every rank has an optimizer, each has the gradient too, or gets it
    /// in [`update`](Self::update).
    pub(crate) fn learn(
        &mut self,
        trainee: &Trainee,
        work: Work,
        carried: &mut Option<Carried>,
    ) -> (LmOutput, GradientsParams) {
        if !self.replicas.is_empty() {
            // What clones share before it is initialised is initialised by whichever comes first.
            initialise(trainee);
        }
        for replica in &self.replicas {
            replica.begin(self.reduction.is_none().then(|| trainee.clone()));
        }
        let (mut all, mut grads) = (LmOutput::default(), GradientsAccumulator::new());
        for (i, host) in work.hosts.into_iter().enumerate() {
            let seed = work.seed.wrapping_add(i as u64);
            let batches = self.share(host, carried.take(), work.scale, seed);
            let (outputs, own) = self.micro_step(trainee, batches);
            grads.accumulate(trainee, own);
            all.loss_sum += outputs.iter().map(|output| output.loss_sum).sum::<f64>();
            all.n_tokens += outputs.iter().map(|output| output.n_tokens).sum::<usize>();
            if work.stateful {
                let states: Option<_> = outputs.into_iter().map(|output| output.state).collect();
                *carried = states.map(Carried);
            }
        }
        (all, self.sum(trainee, grads))
    }

    /// The gradient of all ranks, of which `grads` are rank 0's.
    fn sum(
        &mut self,
        trainee: &Trainee,
        mut grads: GradientsAccumulator<Trainee>,
    ) -> GradientsParams {
        if let Some(Reduction::Collective(all_reduce)) = &self.reduction {
            // All have learned: no rank is waited for in a sum that it never comes to.
            let reduce = |replica: &Replica| replica.reduce(all_reduce.clone());
            let reducing = self.replicas.iter().map(reduce).collect();
            let sum = reduced(trainee, grads.grads(), &**all_reduce);
            self.wait(reducing);
            return sum;
        }
        let main = self.main.clone().inner();
        for replica in &mut self.replicas {
            let own = replica.finish(main.clone());
            grads.accumulate(trainee, replica.wait(own));
        }
        grads.grads()
    }

    fn wait(&mut self, answers: Vec<Receiver<()>>) {
        for (replica, answer) in self.replicas.iter_mut().zip(answers) {
            replica.wait(answer);
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
        let (ranks, rows) = (1 + self.replicas.len(), host.rows);
        let all = |carried: &Carried| carried.0.iter().map(ModelState::batch).sum::<usize>();
        let carried = carried.filter(|carried| all(carried) == rows);
        let others = self.replicas.iter().map(|replica| &replica.device);
        let part = |(rank, device): (usize, &Device)| {
            let own = rows * rank / ranks..rows * (rank + 1) / ranks;
            let mut host = host.part(own.start, own.end);
            let (carried, device) = (carried.as_ref(), device.clone().inner());
            LmBatch {
                state: carried.map(|from| from.start(ranks, own, &mut host.carry, &device)),
                host,
                scale,
                seed: Some(seed.wrapping_add((rank as u64).wrapping_mul(SEEDS_APART))),
            }
        };
        let devices = std::iter::once(&self.main).chain(others);
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
        let learning: Vec<_> = match drops(&trainee.model) {
            true => Vec::new(),
            false => (self.replicas.iter().zip(batches.by_ref()))
                .map(|(replica, batch)| replica.learn(batch))
                .collect(),
        };
        let mut learning = learning.into_iter();
        let (output, own) = trainee.learn(first);
        let mut outputs = vec![output];
        for replica in &mut self.replicas {
            let in_turn = || batches.next().map(|batch| replica.learn(batch));
            let output = learning.next().or_else(in_turn);
            outputs.push(replica.wait(output.expect("a part for every rank")));
        }
        (outputs, own)
    }

    /// Ends a step on every rank that has an optimizer. `trainee` and `optimizer` are the main device's,
    /// and `grads` are what [`learn`](Self::learn) gave.
    pub(crate) fn update(
        &mut self,
        trainee: &mut Trainee,
        optimizer: &mut Optimizer,
        grads: GradientsParams,
        update: Update,
    ) {
        let mut updating = Vec::new();
        if let Some(reduction) = &self.reduction {
            for replica in &self.replicas {
                let sum = match reduction {
                    Reduction::Process => Some(copy(trainee, &grads)),
                    Reduction::Collective(_) => None,
                };
                updating.push(replica.update(update, sum));
            }
        }
        update.apply(trainee, optimizer, grads);
        self.wait(updating);
    }
}

#[cfg(test)]
pub(crate) mod tests;
