//! An optimizer on every device (`distributed.strategy = "ddp"`): how gradients become one sum, and
//! what every rank makes of it.
//!
//! Weights go out once, with the optimizer, when the ranks start. From then on all have the same
//! gradient in every step, the norm and the factor of the main device, and the same rules: on devices
//! that compute alike their weights stay the same without being sent. Nothing compares them. A rank that
//! fails before a sum ends the run; one that fails inside a collective one may leave the others waiting,
//! as NCCL does.

use super::Devices;
use crate::burn_train::words;
use crate::config::{DistributedConfig, DistributedStrategy};
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::step::Trainee;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Called by every rank on a thread of its own with its part of a sum, in the same order; gives
/// every rank the whole.
pub(crate) type AllReduce = dyn Fn(Tensor<1>) -> Tensor<1> + Send + Sync;

/// How long devices may take to find each other for the first sum.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 120 });

/// How the gradients of the ranks become one sum that every rank has.
#[derive(Clone)]
pub(crate) enum Reduction {
    /// On the main device, in the order of the ranks, and from there to every other: the same bits
    /// on every rank and in every run, on any devices.
    Process,
    /// Between the devices, without a main one.
    Collective(Arc<AllReduce>),
}

impl Reduction {
    /// The one between `devices`, which has been tried; none where `config` gives the main device
    /// alone an optimizer.
    pub(crate) fn of(
        config: &DistributedConfig,
        devices: &Devices,
    ) -> Result<Option<Self>, TrainError> {
        if config.strategy != DistributedStrategy::Ddp {
            return Ok(None);
        }
        let reduction = Reduction::choose(devices);
        reduction.check(devices)?;
        Ok(Some(reduction))
    }

    /// Collective where every rank has a CUDA device of its own: Burn has it for those alone.
    fn choose(devices: &Devices) -> Self {
        let devices = plain(devices);
        match devices.len() > 1 && are_distinct(&devices, &cuda_devices()) {
            true => between(devices),
            false => Reduction::Process,
        }
    }

    /// Adds up a one from each of `devices`, every one on its own thread, as steps will add up
    /// gradients: a collective operation may give another sum, or none.
    fn check(&self, devices: &Devices) -> Result<(), TrainError> {
        let Reduction::Collective(all_reduce) = self else {
            return Ok(());
        };
        let devices = plain(devices);
        let count = devices.len();
        let (answers, answered) = channel();
        // On threads that nobody waits for: a rank that never comes to the sum keeps the others there.
        for device in devices {
            let (all_reduce, answers) = (all_reduce.clone(), answers.clone());
            thread::spawn(move || {
                let one = || all_reduce(Tensor::ones([1], &device)).into_scalar::<f32>();
                let sum = catch_unwind(AssertUnwindSafe(one));
                // Where somebody else has failed, nobody listens any more.
                let _ = answers.send(sum.map_err(|panic| words(&*panic).to_owned()));
            });
        }
        for rank in 0..count {
            let reason = match answered.recv_timeout(PATIENCE) {
                Ok(Ok(sum)) if sum == count as f32 => continue,
                Ok(Ok(sum)) => format!("{count} ones were added up to {sum}"),
                Ok(Err(words)) => words,
                Err(_) => format!(
                    "only {rank} of {count} devices have come to a sum of ones within {} seconds",
                    PATIENCE.as_secs()
                ),
            };
            return Err(TrainError::Failed(format!(
                "`distributed.strategy` is \"ddp\", but NCCL does not add up between these devices: {reason}; \
                 \"multi\" needs no NCCL"
            )));
        }
        Ok(())
    }

    /// For the log.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Reduction::Process => "gradients are added up on the main device",
            Reduction::Collective(_) => "gradients are added up between the devices, by NCCL",
        }
    }
}

fn between(devices: Vec<Device>) -> Reduction {
    Reduction::Collective(Arc::new(move |part| {
        all_reduce(part, ReduceOperation::Sum, devices.clone()).resolve()
    }))
}

/// The devices without autodiff, by rank.
fn plain(devices: &Devices) -> Vec<Device> {
    let plain = |device: &Device| device.clone().without_autodiff();
    devices.iter().map(plain).collect()
}

/// Whether all `devices` are `among` these, each once.
fn are_distinct<D: PartialEq>(devices: &[D], among: &[D]) -> bool {
    let mut numbered = devices.iter().enumerate();
    numbered.all(|(i, device)| among.contains(device) && !devices[..i].contains(device))
}

fn cuda_devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    return Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
    #[cfg(not(feature = "cuda"))]
    Vec::new()
}

/// The sum of the gradients of all ranks, of which `grads` are this one's. Which parameters have a
/// gradient depends on the configuration alone, so that all ranks call in the same order.
pub(super) fn reduced(
    trainee: &Trainee,
    mut grads: GradientsParams,
    all_reduce: &AllReduce,
) -> GradientsParams {
    struct Reduce<'a>(&'a mut GradientsParams, &'a AllReduce);
    impl ModuleVisitor for Reduce<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(part) = self.0.remove::<D>(param.id) {
                let dims = part.dims();
                let sum = (self.1)(part.reshape([-1]));
                self.0.register(param.id, sum.reshape(dims));
            }
        }
    }
    trainee.visit(&mut Reduce(&mut grads, all_reduce));
    grads
}

/// The same gradients once more.
pub(super) fn copy(trainee: &Trainee, grads: &GradientsParams) -> GradientsParams {
    struct Copy<'a>(&'a GradientsParams, GradientsParams);
    impl ModuleVisitor for Copy<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.1.register(param.id, grad);
            }
        }
    }
    let mut copy = Copy(grads, GradientsParams::new());
    trainee.visit(&mut copy);
    copy.1
}

/// What a rank with an optimizer does at the end of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// The step, counted from 0: its place in the schedule.
    pub(crate) step: u64,
    /// The gradient is multiplied by this: clipped, and brought to its right scale.
    pub(crate) factor: f64,
    /// Whether weights change; a step that is left out changes nothing.
    pub(crate) taken: bool,
}

impl Update {
    pub(super) fn apply(
        self,
        trainee: &mut Trainee,
        optimizer: &mut Optimizer,
        grads: GradientsParams,
    ) {
        if self.taken {
            *trainee = optimizer.step_scaled(trainee.clone(), grads, self.factor, self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::replica::Replica;
    use super::super::tests::{TOL, added, hosts, learner, mean, meeting, start, work};
    use super::*;
    use crate::optimizer::clip;
    use crate::step::Recompute;
    use infinity_kernels::testing::{Tol, assert_close, compare, values};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Worst RMS ratio of all parameters after three steps on Flex, 2026-11-26: 1.3e-7.
    const WEIGHTS: Tol = Tol {
        rms_ratio: 8e-7,
        worst_over_rms: 1e3,
        floor: 0.0,
    };
    const MAX_NORM: f64 = 0.5;
    /// A loss scale, and one under which every gradient overflows.
    const FINE: f64 = 1024.0;
    const TOO_HIGH: f64 = f64::INFINITY;

    /// What some steps gave.
    struct Given {
        norms: Vec<f64>,
        /// Of every rank that has its own.
        weights: Vec<Vec<f64>>,
    }

    fn flat(trainee: &Trainee) -> Vec<f64> {
        struct Flat(Vec<f64>);
        impl ModuleVisitor for Flat {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.extend(values(param.val().inner()));
            }
        }
        let mut flat = Flat(Vec::new());
        trainee.visit(&mut flat);
        flat.0
    }

    /// A step under each of `loss_scales`, left out where it is not finite.
    fn steps(ranks: usize, reduction: Option<Reduction>, loss_scales: &[f64]) -> Given {
        let (mut trainee, mut optimizer) = learner(Recompute::Nothing);
        let mut ranks = start(ranks, reduction, &trainee, &optimizer);
        let (mut carried, mut norms) = (None, Vec::new());
        for (step, loss_scale) in loss_scales.iter().enumerate() {
            let work = work(hosts(), loss_scale * mean(&hosts()));
            let (_, grads) = ranks.learn(&trainee, work, &mut carried);
            let (grads, clip) = clip(&trainee, grads, *loss_scale, MAX_NORM);
            let update = Update {
                step: step as u64,
                factor: clip.factor,
                taken: clip.norm.is_finite(),
            };
            ranks.update(&mut trainee, &mut optimizer, grads, update);
            norms.push(clip.norm);
        }
        let others = ranks.replicas.into_iter().filter_map(Replica::end);
        let mut weights = vec![flat(&trainee)];
        weights.extend(others.map(|(own, _)| flat(&own)));
        Given { norms, weights }
    }

    /// Both ways for so many ranks.
    fn ways(ranks: usize) -> [Reduction; 2] {
        [Reduction::Process, meeting(ranks, added)]
    }

    #[test]
    fn all_ranks_have_the_weights_of_one() {
        let start = steps(1, None, &[]);
        // The third step is left out by all, and the schedule goes on.
        let scales = [FINE, FINE, TOO_HIGH, FINE];
        let one = steps(1, None, &scales);
        assert!(one.weights[0] != start.weights[0], "nothing was learned");
        for ranks in [2, 3, 4] {
            for reduction in ways(ranks) {
                let name = format!("{ranks} ranks, {}", reduction.describe());
                let given = || steps(ranks, Some(reduction.clone()), &scales);
                let Given { norms, weights } = given();
                assert_close(&name, "norms", &norms[..2], &one.norms[..2], TOL);
                assert!(norms[1] > MAX_NORM && !norms[2].is_finite(), "{norms:?}");
                assert_close(&name, "weights", &weights[0], &one.weights[0], WEIGHTS);
                assert_eq!(weights.len(), ranks, "{name}");
                let same = weights.iter().all(|own| *own == weights[0]);
                assert!(same, "{name}: other bits on another rank");
                assert!(given().weights == weights, "{name}: other bits again");
            }
            // Weights that are sent are those that every rank makes for itself.
            let sent = steps(ranks, None, &scales);
            let own = steps(ranks, Some(Reduction::Process), &scales);
            assert_eq!(sent.weights.len(), 1);
            assert!(sent.weights[0] == own.weights[0]);
        }
    }

    #[test]
    fn a_step_that_is_left_out_changes_no_rank() {
        for reduction in ways(3) {
            let given = |scales: &[f64]| steps(3, Some(reduction.clone()), scales);
            let (before, after) = (given(&[FINE]), given(&[FINE, TOO_HIGH]));
            assert!(before.weights == after.weights);
        }
    }

    #[test]
    fn a_wrong_reduction_is_caught() {
        let one = steps(1, None, &[FINE]);
        type Sum = fn(Vec<Vec<f64>>) -> Vec<f64>;
        let wrong: [Sum; 2] = [
            |parts| added(parts[1..].to_vec()),
            |parts| added([&parts[..], &parts[..1]].concat()),
        ];
        for sum in wrong {
            let given = steps(3, Some(meeting(3, sum)), &[FINE]);
            assert!(compare(&given.norms, &one.norms, TOL).is_err());
            assert!(compare(&given.weights[0], &one.weights[0], WEIGHTS).is_err());
        }
        let alone = Reduction::Collective(Arc::new(|part| part));
        let alone = steps(3, Some(alone), &[FINE]);
        assert!(alone.weights[1] != alone.weights[0] && alone.weights[2] != alone.weights[1]);
    }

    #[test]
    fn a_collective_takes_devices_that_have_one_each() {
        assert!(are_distinct(&[2, 0], &[0, 1, 2]));
        assert!(!are_distinct(&[2, 2], &[0, 1, 2]));
        assert!(!are_distinct(&[2, 3], &[0, 1, 2]));
        let twice = Devices::new(Device::flex(), vec![Device::flex()]);
        assert!(matches!(Reduction::choose(&twice), Reduction::Process));
    }

    #[test]
    fn a_collective_that_does_not_add_up_is_an_error() {
        let devices = Devices::new(Device::flex(), vec![Device::flex(); 2]);
        let checked = |reduction: Reduction| {
            let error = reduction.check(&devices).err();
            error.map_or(String::new(), |error| error.to_string())
        };
        for reduction in ways(3) {
            assert_eq!(checked(reduction), "");
        }
        let alone = Reduction::Collective(Arc::new(|part| part));
        let message = checked(alone);
        assert!(message.contains("3 ones were added up to 1;"), "{message}");
        // One that fails before it comes to the sum, where the others wait for it.
        let first = AtomicBool::new(true);
        let Reduction::Collective(all) = meeting(3, added) else {
            unreachable!("ranks meet")
        };
        let message = checked(Reduction::Collective(Arc::new(move |part| {
            assert!(!first.swap(false, Ordering::AcqRel), "no way to the others");
            all(part)
        })));
        assert!(message.contains("no way to the others"), "{message}");
        let message = checked(meeting(4, added));
        assert!(message.contains("only 0 of 3 devices"), "{message}");
        // Burn has no collective operations on the processor.
        let message = checked(between(plain(&devices)));
        assert!(message.contains("not supported"), "{message}");
        assert!(message.contains("\"multi\""), "{message}");
    }
}
