//! A rank beside the main one: a thread with a copy of the model on its own device.

use super::reduction::{AllReduce, Update, reduced};
use crate::optimizer::Optimizer;
use crate::step::{LmBatch, LmOutput, Trainee};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

type Task = Box<dyn FnOnce(&mut Rank) + Send>;

/// The weights and the optimizer that a replica has, if they are its own.
type Own = Option<(Trainee, Optimizer)>;

/// A replica, seen from the loop. It works until this is dropped.
pub(super) struct Replica {
    pub(super) device: Device,
    /// `None` while it is being dropped, which ends the thread.
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<Own>>,
}

impl Replica {
    /// Starts a thread that computes on `device`, which has autodiff.
    pub(super) fn start(device: Device) -> Self {
        let (tasks, to_do) = channel::<Task>();
        let own = device.clone();
        let work = move || {
            let mut rank = Rank {
                device: own,
                own: None,
                step: None,
                sum: None,
            };
            to_do.into_iter().for_each(|task| task(&mut rank));
            rank.own
        };
        Replica {
            device,
            tasks: Some(tasks),
            thread: Some(thread::spawn(work)),
        }
    }

    /// Gives it weights and their optimizer to keep.
    pub(super) fn own(&self, trainee: Trainee, optimizer: Optimizer) {
        self.ask(move |rank| {
            let optimizer = optimizer.on_device(&rank.device.clone().inner());
            rank.own = Some((trainee.fork(&rank.device), optimizer));
        });
    }

    /// Starts a step with the weights of `trainee`, or with its own.
    pub(super) fn begin(&self, trainee: Option<Trainee>) {
        self.ask(move |rank| {
            let trainee = match (trainee, &rank.own) {
                (Some(weights), _) => weights.fork(&rank.device),
                (None, Some((own, _))) => own.clone(),
                (None, None) => unreachable!("a step begins with weights"),
            };
            rank.step = Some((trainee, GradientsAccumulator::new()));
        });
    }

    /// Starts a micro-batch, whose gradient it keeps.
    pub(super) fn learn(&self, batch: LmBatch) -> Receiver<LmOutput> {
        self.ask(move |rank| {
            let (trainee, grads) = rank.step.as_mut().expect("a step has begun");
            let (output, own) = trainee.learn(batch);
            grads.accumulate(trainee, own);
            output
        })
    }

    /// Starts to end the step: its gradient, on the device `to`, which has no autodiff.
    pub(super) fn finish(&self, to: Device) -> Receiver<GradientsParams> {
        self.ask(move |rank| {
            let (trainee, grads) = rank.end_step();
            grads.to_device(&to, &trainee)
        })
    }

    /// Starts to add its gradient to those of all ranks. The replica keeps the sum.
    pub(super) fn reduce(&self, all_reduce: Arc<AllReduce>) -> Receiver<()> {
        self.ask(move |rank| {
            let (trainee, grads) = rank.end_step();
            rank.sum = Some(reduced(&trainee, grads, &*all_reduce));
        })
    }

    /// Starts to update its own weights: by `grads`, on whatever device, or by the sum that it keeps.
    pub(super) fn update(&self, update: Update, grads: Option<GradientsParams>) -> Receiver<()> {
        self.ask(move |rank| {
            let (trainee, optimizer) = rank.own.as_mut().expect("its own weights");
            let grads = match grads {
                Some(grads) => grads.to_device(&rank.device.clone().inner(), trainee),
                None => rank.sum.take().expect("a sum that was kept"),
            };
            update.apply(trainee, optimizer, grads);
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Rank) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (answer, answered) = channel();
        // Who does not wait for an answer does not miss it.
        let task = move |rank: &mut Rank| drop(answer.send(task(rank)));
        // A thread that is no more says so where its answer is waited for.
        let tasks = self.tasks.as_ref().expect("not being dropped");
        drop(tasks.send(Box::new(task)));
        answered
    }

    /// Waits for what was asked. Where the replica has panicked, this does.
    pub(super) fn wait<T>(&mut self, answer: Receiver<T>) -> T {
        if let Ok(answer) = answer.recv() {
            return answer;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("a replica answers what it is asked, or panics"),
        }
    }

    /// Ends the thread: what it kept of its own.
    #[cfg(test)]
    pub(super) fn end(mut self) -> Own {
        self.tasks = None;
        self.thread.take()?.join().ok()?
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // Only after a panic elsewhere can it have failed unnoticed.
            let _ = thread.join();
        }
    }
}

struct Rank {
    device: Device,
    own: Own,
    /// Weights and gradient of the step.
    step: Option<(Trainee, GradientsAccumulator<Trainee>)>,
    /// The gradient of all ranks, until the update.
    sum: Option<GradientsParams>,
}

impl Rank {
    /// The weights of a step, which are not kept beside the next ones, and its gradient.
    fn end_step(&mut self) -> (Trainee, GradientsParams) {
        let (trainee, mut grads) = self.step.take().expect("a step has begun");
        (trainee, grads.grads())
    }
}
