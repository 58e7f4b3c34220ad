//! The optimizer: AdamW and Muon behind one type that owns their rates, their state and its file.
//!
//! | parameters | rule | peak rate | weight decay |
//! |---|---|---|---|
//! | hidden matrices | Muon, or AdamW | `muon_learning_rate`, or `learning_rate` | yes |
//! | gates | AdamW | `learning_rate` × `gate_learning_rate_multiplier` | no |
//! | embedding, norms, biases, convolutions | AdamW | `learning_rate` | no |
//!
//! Rules compute in f32 and keep their moments in f32, whatever the format of the parameters: in bf16 a
//! second moment with `beta2 = 0.999` never falls. AdamW's arithmetic is Burn's. Clipping is global and
//! happens before the update ([`clip()`]).
//!
//! Muon scales a matrix's update by √max(1, out/in). Parameters lie as `[in, out]` here, and the rate
//! carries that factor as √(out/in) · √max(1, in/out); the first of the two is in the weight decay too.

mod clip;
mod record;
mod schedule;

pub use clip::{clip, clip_scaled};
pub(crate) use clip::{measure, scaled};
pub use schedule::Schedule;

use crate::config::{LrSchedulerConfig, OptimizerConfig, OptimizerName};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamW, AdamWConfig, AdamWState, GradientsParams, Optimizer as _};
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::newton_schulz::newton_schulz;
use infinity_kernels::{each_in_pool, has_pool};
use std::collections::HashMap;

/// Words in the paths of the two-dimensional hidden matrices.
const HIDDEN_MATRICES: [&str; 8] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "output_gate_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Word in the path of every gate.
const GATES: &str = ".gates.";

/// Words in the paths of parameters that are never decayed, whatever the configuration says.
const NEVER_DECAYED: [&str; 3] = [GATES, "conv1d", "feature_map"];

/// How one parameter is updated.
#[derive(Clone, Debug)]
struct Rule {
    muon: bool,
    rate: Schedule,
    decays: bool,
}

/// What the rule of a parameter remembers, in f32.
#[derive(Clone)]
enum Moments {
    /// Of the parameter's numbers in a row.
    AdamW(AdamWState<1>),
    /// Muon's momentum.
    Muon(Tensor<2>),
}

/// One parameter: its rule and its moments, which are there from its first gradient on.
#[derive(Clone)]
struct Slot {
    path: String,
    dims: Vec<usize>,
    /// Where its moments are: the parameter's device, without autodiff.
    device: Device,
    rule: Rule,
    moments: Option<Moments>,
}

/// Updates a module's parameters from their gradients, by the rule of each.
#[derive(Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    base: Schedule,
    /// With weight decay, and without.
    adamw: [AdamW; 2],
    slots: HashMap<ParamId, Slot>,
}

impl Optimizer {
    /// The optimizer of `module`, for a run of `total_steps` optimizer steps. Parameters are known by
    /// their ids: it is made after weights have been loaded, which bring theirs along.
    pub fn new<M: Module>(
        config: &OptimizerConfig,
        schedule: &LrSchedulerConfig,
        total_steps: u64,
        module: &M,
    ) -> Self {
        let adamw = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(config.beta1 as f32)
                .with_beta_2(config.beta2 as f32)
                .with_epsilon(config.eps as f32)
                .with_weight_decay(weight_decay as f32)
                .build()
        };
        let rate = |peak: f64| Schedule::new(schedule, peak, total_steps);
        let mut slots = Slots {
            rule: |path: &str, dims: &[usize]| rule(config, &rate, path, dims),
            path: Vec::new(),
            found: HashMap::new(),
        };
        module.visit(&mut slots);
        Optimizer {
            config: config.clone(),
            base: rate(config.learning_rate),
            adamw: [adamw(config.weight_decay), adamw(0.0)],
            slots: slots.found,
        }
    }

    /// The same with its moments on `device`, which has no autodiff.
    pub(crate) fn to_device(mut self, device: &Device) -> Self {
        for slot in self.slots.values_mut() {
            slot.device = device.clone();
            slot.moments = slot.moments.take().map(|moments| match moments {
                Moments::AdamW(state) => Moments::AdamW(AdamW::to_device(state, device)),
                Moments::Muon(velocity) => Moments::Muon(velocity.to_device(device)),
            });
        }
        self
    }

    /// The rate of AdamW in step `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.base.at(step)
    }

    /// `module` after step `step`, counted from 0, with these gradients. A parameter without a gradient
    /// stays as it is.
    pub fn step<M: Module>(&mut self, module: M, mut grads: GradientsParams, step: u64) -> M {
        clip::pooled(&module.devices(), || {
            let mut begun = Begun {
                optimizer: self,
                grads: &mut grads,
                step,
                found: Vec::new(),
            };
            module.visit(&mut begun);
            let (ids, matrices): (Vec<ParamId>, Vec<Matrix>) = begun.found.into_iter().unzip();
            let device = matrices.first().map(|matrix| matrix.weights.device());
            let updated = device.map(|device| each_in_pool(&device, matrices, Matrix::updated));
            module.map(&mut Update {
                optimizer: self,
                grads: &mut grads,
                step,
                updated: ids.into_iter().zip(updated.into_iter().flatten()).collect(),
            })
        })
    }

    /// The values of a parameter after its step.
    fn update<const D: usize>(
        &mut self,
        id: ParamId,
        weights: Tensor<D>,
        grad: Tensor<D>,
        step: u64,
    ) -> Tensor<D> {
        let slot = self.slots.get_mut(&id).expect("a parameter of the module");
        if slot.rule.muon {
            let matrix = self.begin(id, weights, grad, step);
            return of_rank(matrix.updated());
        }
        let dims = weights.dims();
        let before = match slot.moments.take() {
            Some(Moments::AdamW(state)) => Some(state),
            _ => None,
        };
        let adamw = &self.adamw[usize::from(!slot.rule.decays)];
        let [weights, grad] = [weights, grad].map(|x| x.cast(DType::F32).reshape([-1]));
        let (weights, after) = adamw.step(slot.rule.rate.at(step), weights, grad, before);
        slot.moments = after.map(Moments::AdamW);
        weights.reshape(dims)
    }

    /// The step of a matrix under Muon, up to its orthogonal update.
    fn begin<const D: usize>(
        &mut self,
        id: ParamId,
        weights: Tensor<D>,
        grad: Tensor<D>,
        step: u64,
    ) -> Matrix {
        let slot = self.slots.get_mut(&id).expect("a parameter of the module");
        let [rows, columns] = [slot.dims[0], slot.dims[1]];
        let [weights, grad] = [weights, grad].map(|x| x.cast(DType::F32).reshape([rows, columns]));
        let momentum = self.config.muon_momentum as f32;
        let velocity = match slot.moments.take() {
            Some(Moments::Muon(velocity)) => grad.clone() + velocity * momentum,
            _ => grad.clone(),
        };
        slot.moments = Some(Moments::Muon(velocity.clone()));
        let rate = slot.rule.rate.at(step);
        let decay = match slot.rule.decays {
            true => self.config.weight_decay,
            false => 0.0,
        };
        Matrix {
            weights,
            decay: rate * decay,
            update: velocity * momentum + grad,
            rate: rate * (rows as f64 / columns as f64).max(1.0).sqrt(),
        }
    }
}

/// The rule of the parameter at `path`.
fn rule(
    config: &OptimizerConfig,
    rate: impl Fn(f64) -> Schedule,
    path: &str,
    dims: &[usize],
) -> Rule {
    let excluded = config
        .decay_exclude
        .iter()
        .any(|word| path.contains(&**word));
    let matrix = HIDDEN_MATRICES.iter().any(|word| path.contains(word));
    let muon = matrix && config.name == OptimizerName::Muon;
    let peak = match path.contains(GATES) {
        true => config.learning_rate * config.gate_learning_rate_multiplier,
        false if muon => config.muon_learning_rate * (dims[1] as f64 / dims[0] as f64).sqrt(),
        false => config.learning_rate,
    };
    Rule {
        muon,
        rate: rate(peak),
        decays: !excluded && (muon || !NEVER_DECAYED.iter().any(|word| path.contains(word))),
    }
}

/// Makes the slot of every parameter.
struct Slots<R> {
    rule: R,
    path: Vec<String>,
    found: HashMap<ParamId, Slot>,
}

impl<R: Fn(&str, &[usize]) -> Rule> ModuleVisitor for Slots<R> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (path, value) = (self.path.join("."), param.val());
        let dims = value.dims().to_vec();
        let slot = Slot {
            rule: (self.rule)(&path, &dims),
            path,
            dims,
            device: value.device().inner(),
            moments: None,
        };
        self.found.insert(param.id, slot);
    }
}

/// A matrix on its way through Muon's step: its orthogonal update is still to be taken.
struct Matrix {
    weights: Tensor<2>,
    /// Part of the weights that is lost.
    decay: f64,
    /// Momentum, to be orthogonalised.
    update: Tensor<2>,
    /// Factor of the orthogonal update.
    rate: f64,
}

impl Matrix {
    fn updated(self) -> Tensor<2> {
        let weights = match self.decay {
            0.0 => self.weights,
            decay => self.weights * (1.0 - decay),
        };
        weights - newton_schulz(self.update) * self.rate
    }
}

/// Begins Muon's step of every matrix, so that all are orthogonalised side by side: a matrix of a small
/// model is too small to be shared by threads. Where kernels share no threads that would hold all updates
/// at a time for nothing, and [`Update`] takes whole steps.
struct Begun<'a> {
    optimizer: &'a mut Optimizer,
    grads: &'a mut GradientsParams,
    step: u64,
    found: Vec<(ParamId, Matrix)>,
}

impl ModuleVisitor for Begun<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let slot = &self.optimizer.slots[&param.id];
        if slot.rule.muon
            && has_pool(&slot.device)
            && let Some(grad) = self.grads.remove::<D>(param.id)
        {
            let weights = param.val().inner();
            let matrix = self.optimizer.begin(param.id, weights, grad, self.step);
            self.found.push((param.id, matrix));
        }
    }
}

/// Puts every parameter's new value into its place, with the autodiff of the old one. (Burn's marks for
/// its own collective hooks, which nothing here uses, are not kept.)
struct Update<'a> {
    optimizer: &'a mut Optimizer,
    grads: &'a mut GradientsParams,
    step: u64,
    updated: HashMap<ParamId, Tensor<2>>,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let new = match (self.updated.remove(&id), self.grads.remove::<D>(id)) {
            (Some(matrix), _) => of_rank(matrix),
            (None, Some(grad)) => {
                self.optimizer
                    .update(id, old.clone().inner(), grad, self.step)
            }
            (None, None) => return Param::from_mapped_value(id, old, mapper),
        };
        let mut new = Tensor::from_inner(new.cast(old.dtype()));
        if let Some(strategy) = old.gradient_checkpointing_strategy() {
            new = new.with_gradient_checkpointing_strategy(strategy);
        }
        if old.is_require_grad() {
            new = new.require_grad();
        }
        Param::from_mapped_value(id, new, mapper)
    }
}

/// A matrix where the rank is a constant, which is 2.
fn of_rank<const D: usize>(matrix: Tensor<2>) -> Tensor<D> {
    let mut dims = [0; D];
    dims.copy_from_slice(&matrix.dims());
    matrix.reshape(dims)
}
