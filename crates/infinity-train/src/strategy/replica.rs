//! A rank beside the main one: a thread with a copy of the model on its own device.

use crate::metrics::LmOutput;
use crate::step::{LmBatch, Trainee};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use burn::train::TrainStep;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// What a replica is asked to do.
enum Task {
    /// Copy these weights; a step begins.
    Begin(Box<Trainee>),
    /// Add the gradient of a micro-batch.
    Learn(LmBatch),
    /// Hand the gradient over, on this device.
    Finish(Device),
}

/// What it gives back.
enum Answer {
    Learned(LmOutput),
    Finished(GradientsParams),
}

/// A replica, seen from the loop. It works until this is dropped.
pub(super) struct Replica {
    device: Device,
    /// `None` while it is being dropped, which ends the thread.
    tasks: Option<Sender<Task>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Replica {
    /// Starts a thread that computes on `device`, which has autodiff.
    pub(super) fn start(device: Device) -> Self {
        let ((tasks, to_do), (done, answers)) = (channel(), channel());
        let own = device.clone();
        Replica {
            device,
            tasks: Some(tasks),
            answers,
            thread: Some(thread::spawn(move || work(&own, &to_do, &done))),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Starts a step with the weights of `trainee`.
    pub(super) fn begin(&self, trainee: Trainee) {
        self.send(Task::Begin(Box::new(trainee)));
    }

    /// Starts a micro-batch, whose output is [`learned`](Self::learned).
    pub(super) fn learn(&self, batch: LmBatch) {
        self.send(Task::Learn(batch));
    }

    /// Waits for the output of a micro-batch.
    ///
    /// # Panics
    /// If the replica has panicked, as it did.
    pub(super) fn learned(&mut self) -> LmOutput {
        match self.answers.recv() {
            Ok(Answer::Learned(output)) => output,
            _ => self.failed(),
        }
    }

    /// Ends the step: its gradient, on `device`, which has no autodiff.
    ///
    /// # Panics
    /// If the replica has panicked, as it did.
    pub(super) fn finish(&mut self, device: &Device) -> GradientsParams {
        self.send(Task::Finish(device.clone()));
        match self.answers.recv() {
            Ok(Answer::Finished(grads)) => grads,
            _ => self.failed(),
        }
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
fn work(device: &Device, tasks: &Receiver<Task>, answers: &Sender<Answer>) {
    let mut step: Option<(Trainee, GradientsAccumulator<Trainee>)> = None;
    for task in tasks {
        let answer = match (task, &mut step) {
            (Task::Begin(trainee), step) => {
                *step = Some((trainee.fork(device), GradientsAccumulator::new()));
                continue;
            }
            (Task::Learn(batch), Some((trainee, grads))) => {
                let output = TrainStep::step(trainee, batch);
                grads.accumulate(trainee, output.grads);
                Answer::Learned(output.item)
            }
            (Task::Finish(to), Some((trainee, grads))) => {
                let grads = grads.grads().to_device(&to, trainee);
                // Weights that nobody needs are not kept beside the next ones.
                step = None;
                Answer::Finished(grads)
            }
            (_, None) => unreachable!("a step begins with its weights"),
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}
