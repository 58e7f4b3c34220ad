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

/// What a replica is asked to do.
enum Task {
    /// Copy these weights and this optimizer, and keep them from now on.
    Own(Box<(Trainee, Optimizer)>),
    /// A step begins: copy these weights, or take one's own.
    Begin(Option<Box<Trainee>>),
    /// Add the gradient of a micro-batch.
    Learn(LmBatch),
    /// Hand the gradient over, on this device.
    Finish(Device),
    /// Add the gradient to those of all ranks, and keep the sum.
    Reduce(Arc<AllReduce>),
    /// Update one's own weights, by this gradient or by the sum that was kept.
    Update(Update, Option<GradientsParams>),
}

/// What it gives back.
enum Answer {
    Learned(LmOutput),
    Finished(GradientsParams),
    Done,
}

/// A replica, seen from the loop. It works until this is dropped.
pub(super) struct Replica {
    device: Device,
    /// `None` while it is being dropped, which ends the thread.
    tasks: Option<Sender<Task>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<Own>>,
}

/// The weights and the optimizer that a replica ends with, if it has its own.
type Own = Option<(Trainee, Optimizer)>;

impl Replica {
    /// Starts a thread that computes on `device`, which has autodiff.
    pub(super) fn start(device: Device) -> Self {
        let ((tasks, to_do), (done, answers)) = (channel(), channel());
        let own = device.clone();
        Replica {
            device,
            tasks: Some(tasks),
            answers,
            thread: Some(thread::spawn(move || work(own, &to_do, &done))),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Gives it weights and their optimizer to keep.
    pub(super) fn own(&self, trainee: Trainee, optimizer: Optimizer) {
        self.send(Task::Own(Box::new((trainee, optimizer))));
    }

    /// Starts a step with the weights of `trainee`, or with its own.
    pub(super) fn begin(&self, trainee: Option<Trainee>) {
        self.send(Task::Begin(trainee.map(Box::new)));
    }

    /// Starts a micro-batch, whose output is [`learned`](Self::learned).
    pub(super) fn learn(&self, batch: LmBatch) {
        self.send(Task::Learn(batch));
    }

    /// Waits for the output of a micro-batch.
    ///
    /// # Panics
    /// As every function that waits: if the replica has panicked, as it did.
    pub(super) fn learned(&mut self) -> LmOutput {
        match self.answers.recv() {
            Ok(Answer::Learned(output)) => output,
            _ => self.failed(),
        }
    }

    /// Ends the step: its gradient, on `device`, which has no autodiff.
    pub(super) fn finish(&mut self, device: &Device) -> GradientsParams {
        self.send(Task::Finish(device.clone()));
        match self.answers.recv() {
            Ok(Answer::Finished(grads)) => grads,
            _ => self.failed(),
        }
    }

    /// Starts to add its gradient to those of all ranks, until it is [`done`](Self::done). The
    /// replica keeps the sum.
    pub(super) fn reduce(&self, all_reduce: Arc<AllReduce>) {
        self.send(Task::Reduce(all_reduce));
    }

    /// Starts to update its own weights, until it is [`done`](Self::done): by `grads`, on whatever
    /// device, or by the sum that it keeps.
    pub(super) fn update(&self, update: Update, grads: Option<GradientsParams>) {
        self.send(Task::Update(update, grads));
    }

    /// Waits for the end of what gives nothing back.
    pub(super) fn done(&mut self) {
        match self.answers.recv() {
            Ok(Answer::Done) => (),
            _ => self.failed(),
        }
    }

    /// Ends the thread: what it kept of its own.
    #[cfg(test)]
    pub(super) fn end(mut self) -> Own {
        self.tasks = None;
        self.thread.take()?.join().ok()?
    }

    fn send(&self, task: Task) {
        let tasks = self.tasks.as_ref().expect("not being dropped");
        // A thread that is no more says so where its answer is waited for.
        let _ = tasks.send(task);
    }

    /// Goes on with the panic that ended the thread.
    fn failed(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("a replica answers what it is asked, or panics"),
        }
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

/// The thread: tasks in, answers out, until one of them has no other end.
fn work(device: Device, tasks: &Receiver<Task>, answers: &Sender<Answer>) -> Own {
    let mut rank = Rank {
        device,
        own: None,
        step: None,
        sum: None,
    };
    for task in tasks {
        if let Some(answer) = rank.does(task)
            && answers.send(answer).is_err()
        {
            break;
        }
    }
    rank.own
}

/// What a replica has.
struct Rank {
    device: Device,
    own: Own,
    /// Weights and gradient of the step.
    step: Option<(Trainee, GradientsAccumulator<Trainee>)>,
    /// The gradient of all ranks, until the update.
    sum: Option<GradientsParams>,
}

impl Rank {
    fn does(&mut self, task: Task) -> Option<Answer> {
        match task {
            Task::Own(given) => {
                let (trainee, optimizer) = *given;
                let optimizer = optimizer.on_device(&self.device.clone().inner());
                self.own = Some((trainee.fork(&self.device), optimizer));
                None
            }
            Task::Begin(weights) => {
                let trainee = match (weights, &self.own) {
                    (Some(weights), _) => weights.fork(&self.device),
                    (None, Some((own, _))) => own.clone(),
                    (None, None) => unreachable!("a step begins with weights"),
                };
                self.step = Some((trainee, GradientsAccumulator::new()));
                None
            }
            Task::Learn(batch) => {
                let (trainee, grads) = self.step.as_mut().expect("a step has begun");
                let (output, own) = trainee.learn(batch);
                grads.accumulate(trainee, own);
                Some(Answer::Learned(output))
            }
            Task::Finish(to) => {
                let (trainee, grads) = self.end_step();
                Some(Answer::Finished(grads.to_device(&to, &trainee)))
            }
            Task::Reduce(all_reduce) => {
                let (trainee, grads) = self.end_step();
                self.sum = Some(reduced(&trainee, grads, &*all_reduce));
                Some(Answer::Done)
            }
            Task::Update(update, given) => {
                let (trainee, optimizer) = self.own.as_mut().expect("its own weights");
                let grads = match given {
                    Some(grads) => grads.to_device(&self.device.clone().inner(), trainee),
                    None => self.sum.take().expect("a sum that was kept"),
                };
                update.apply(trainee, optimizer, grads);
                Some(Answer::Done)
            }
        }
    }

    /// The weights of a step, which are not kept beside the next ones, and its gradient.
    fn end_step(&mut self) -> (Trainee, GradientsParams) {
        let (trainee, mut grads) = self.step.take().expect("a step has begun");
        (trainee, grads.grads())
    }
}
