//! The optimizer: AdamW and Muon behind one type that owns their rates, their state and its file.
//!
//! | parameters | rule | peak rate | weight decay |
//! |---|---|---|---|
//! | hidden matrices | Muon, or AdamW | `muon_learning_rate`, or `learning_rate` | yes |
//! | gates, scalars of residuals | AdamW | `learning_rate` × `gate_learning_rate_multiplier` | no |
//! | embedding, norms, biases, convolutions | AdamW | `learning_rate` | no |
//!
//! Rules compute in f32 and keep their moments in f32, whatever the format of the parameters: in bf16 a
//! second moment with `beta2 = 0.999` never falls. AdamW has the bits of Burn's. Clipping is global and
//! happens before the update ([`clip()`]).
//!
//! Muon scales a matrix's update by √max(1, out/in). Parameters lie as `[in, out]` here, and the rate
//! carries that factor as √(out/in) · √max(1, in/out); the first of the two is in the weight decay too.

mod clip;
mod record;
mod schedule;

pub use clip::{Clip, clip};
pub use schedule::Schedule;

use crate::config::{LrSchedulerConfig, OptimizerConfig, OptimizerName};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::adamw::{AdamW, Parameter, adamw};
use infinity_kernels::muon::tensors::cautious_decay;
use infinity_kernels::muon::{Matrix, Muon, muon};
use infinity_kernels::{has_pool, in_pool};
use infinity_model::parameters::ParameterRole;
use std::collections::HashMap;

/// What the rule of a parameter remembers of its numbers in a row, in f32.
#[derive(Clone)]
struct Moments {
    /// AdamW's steps; Muon does not count them.
    time: usize,
    /// AdamW's two moments, or Muon's momentum.
    rows: Vec<Tensor<1>>,
}

/// One parameter: its rule, which is Muon or AdamW, and its moments, which are there from its first gradient on.
#[derive(Clone)]
struct Slot {
    path: String,
    dims: Vec<usize>,
    muon: bool,
    rate: Schedule,
    decays: bool,
    /// Where its moments are: the parameter's device, without autodiff.
    device: Device,
    moments: Option<Moments>,
}

/// Updates a module's parameters from their gradients, by the rule of each.
#[derive(Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    base: Schedule,
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
        let mut slots = Slots {
            config,
            base: Schedule::new(schedule, config.learning_rate, total_steps),
            path: Vec::new(),
            found: HashMap::new(),
        };
        module.visit(&mut slots);
        Optimizer {
            config: config.clone(),
            base: slots.base,
            slots: slots.found,
        }
    }

    /// The same with its moments on `device`, which has no autodiff.
    pub(crate) fn on_device(mut self, device: &Device) -> Self {
        for slot in self.slots.values_mut() {
            slot.device = device.clone();
            for row in slot.moments.iter_mut().flat_map(|of| &mut of.rows) {
                *row = row.clone().to_device(device);
            }
        }
        self
    }

    /// The rate of AdamW in step `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.base.at(step)
    }

    /// `module` after step `step`, counted from 0, with these gradients. A parameter without a gradient
    /// stays as it is.
    pub fn step<M: Module>(&mut self, module: M, grads: GradientsParams, step: u64) -> M {
        self.step_scaled(module, grads, 1.0, step)
    }

    /// [`step`](Self::step) with the gradients times `factor`.
    pub fn step_scaled<M: Module>(
        &mut self,
        module: M,
        mut grads: GradientsParams,
        factor: f64,
        step: u64,
    ) -> M {
        in_pool_of(&module.devices(), || {
            let mut moving = Moving {
                optimizer: self,
                grads: &mut grads,
                factor,
                step,
                adamw: Vec::new(),
                muon: Vec::new(),
                moved: HashMap::new(),
            };
            module.visit(&mut moving);
            moving.move_rest();
            let mut put = Put(moving.moved);
            module.map(&mut put)
        })
    }
}

/// [`in_pool`] of a module's first device; one without parameters has none.
fn in_pool_of<R: Send>(devices: &[Device], work: impl FnOnce() -> R + Send) -> R {
    match devices.first() {
        Some(device) => in_pool(device, work),
        None => work(),
    }
}

/// What of a parameter is kept aside while it is moved.
struct Aside {
    id: ParamId,
    dtype: DType,
    /// AdamW's steps, this one included; 0 for Muon.
    time: usize,
    /// Its numbers before the step and the decay, where that is cautious.
    cautious: Option<(Tensor<1>, f64)>,
}

/// Takes parameters and gradients together and moves them: on a CPU one of AdamW's after the other, elsewhere all at
/// once, and Muon's matrices among themselves.
struct Moving<'a> {
    optimizer: &'a mut Optimizer,
    grads: &'a mut GradientsParams,
    factor: f64,
    step: u64,
    adamw: Vec<(Aside, Parameter)>,
    muon: Vec<(Aside, Matrix)>,
    moved: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Moving<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.remove::<D>(param.id) else {
            return;
        };
        let weights = param.val().inner();
        // What is scaled in a half format is rounded to it.
        let (grad, scale) = match grad.dtype() {
            DType::F32 => (grad, self.factor),
            _ if self.factor == 1.0 => (grad.cast(DType::F32), 1.0),
            _ => ((grad * self.factor).cast(DType::F32), 1.0),
        };
        let config = &self.optimizer.config;
        let slot = self.optimizer.slots.get_mut(&param.id);
        let slot = slot.expect("a parameter of the module");
        let rate = slot.rate.at(self.step);
        let mut aside = Aside {
            id: param.id,
            dtype: weights.dtype(),
            time: 0,
            cautious: None,
        };
        let weights = weights.cast(DType::F32);
        let decay = match slot.decays {
            true => config.weight_decay,
            false => 0.0,
        };
        if slot.muon {
            let [rows, columns] = [slot.dims[0], slot.dims[1]];
            let [weights, grad] = [weights, grad].map(|x| x.reshape([rows, columns]));
            let velocity = slot.moments.take().and_then(|mut of| of.rows.pop());
            let velocity = velocity.map(|velocity| velocity.reshape([rows, columns]));
            let rule = Muon {
                momentum: config.muon_momentum as f32,
                scale,
                rate: rate * (rows as f64 / columns as f64).max(1.0).sqrt(),
                decay: rate * decay,
                cautious: config.cautious_weight_decay,
            };
            let matrix = Matrix {
                rule,
                weights,
                grad,
                velocity,
            };
            return self.muon.push((aside, matrix));
        }
        let [weights, grad] = [weights, grad].map(|x| x.reshape([-1]));
        let fresh = || Moments {
            time: 0,
            rows: vec![weights.zeros_like(), weights.zeros_like()],
        };
        let Moments { time, rows } = slot.moments.take().unwrap_or_else(fresh);
        let moments = rows.try_into().expect("two moments");
        aside.time = time + 1;
        let cautious = slot.decays && config.cautious_weight_decay;
        aside.cautious = cautious.then(|| (weights.clone(), rate * decay));
        let rule = AdamW {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            eps: config.eps as f32,
            learning_rate: rate,
            // In f32, as Burn's optimizer keeps it.
            weight_decay: f64::from(if cautious { 0.0 } else { decay as f32 }),
            time: aside.time as i32,
            scale,
        };
        let one_by_one = has_pool(&weights.device());
        let parameter = Parameter {
            rule,
            weights,
            grad,
            moments,
        };
        self.adamw.push((aside, parameter));
        if one_by_one {
            self.move_by_adamw();
        }
    }
}

impl Moving<'_> {
    fn move_by_adamw(&mut self) {
        let (asides, parameters): (Vec<_>, Vec<_>) = self.adamw.drain(..).unzip();
        for (mut aside, (mut weights, moments)) in asides.into_iter().zip(adamw(parameters)) {
            if let Some((old, decay)) = aside.cautious.take() {
                let update = old.clone() - weights.clone();
                weights = weights - cautious_decay(old, update, decay);
            }
            self.keep(&aside, weights, moments.into());
        }
    }

    fn move_rest(&mut self) {
        self.move_by_adamw();
        let (asides, matrices): (Vec<_>, Vec<_>) = self.muon.drain(..).unzip();
        for (aside, (weights, velocity)) in asides.iter().zip(muon(matrices)) {
            let rows = vec![velocity.reshape([-1])];
            self.keep(aside, weights.reshape([-1]), rows);
        }
    }

    fn keep(&mut self, aside: &Aside, weights: Tensor<1>, rows: Vec<Tensor<1>>) {
        let slot = self.optimizer.slots.get_mut(&aside.id);
        let time = aside.time;
        slot.expect("a parameter of the module").moments = Some(Moments { time, rows });
        self.moved.insert(aside.id, weights.cast(aside.dtype));
    }
}

/// Makes the slot of every parameter.
struct Slots<'a> {
    config: &'a OptimizerConfig,
    base: Schedule,
    path: Vec<String>,
    found: HashMap<ParamId, Slot>,
}

impl ModuleVisitor for Slots<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (config, path, value) = (self.config, self.path.join("."), param.val());
        let (role, dims) = (ParameterRole::of(&path), value.dims().to_vec());
        let muon = role == ParameterRole::Matrix && config.name == OptimizerName::Muon;
        let peak = match role == ParameterRole::Gate {
            true => config.learning_rate * config.gate_learning_rate_multiplier,
            false if muon => config.muon_learning_rate * (dims[1] as f64 / dims[0] as f64).sqrt(),
            false => config.learning_rate,
        };
        let mut excluded = config.decay_exclude.iter();
        let slot = Slot {
            muon,
            rate: self.base.with_peak(peak),
            decays: role.may_decay() && !excluded.any(|word| path.contains(&**word)),
            path,
            dims,
            device: value.device().inner(),
            moments: None,
        };
        self.found.insert(param.id, slot);
    }
}

/// Puts every parameter's new numbers into its place, with the autodiff of the old one. (Burn's marks for
/// its own collective hooks, which nothing here uses, are not kept.)
struct Put(HashMap<ParamId, Tensor<1>>);

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let Some(new) = self.0.remove(&id) else {
            return Param::from_mapped_value(id, old, mapper);
        };
        let mut new = Tensor::from_inner(new.reshape(old.dims()));
        if let Some(strategy) = old.gradient_checkpointing_strategy() {
            new = new.with_gradient_checkpointing_strategy(strategy);
        }
        if old.is_require_grad() {
            new = new.require_grad();
        }
        Param::from_mapped_value(id, new, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LrSchedulerType;
    use crate::error::CheckpointError;
    use burn::optim::{AdamWConfig, ModuleOptimizer};
    use infinity_kernels::newton_schulz::reference;
    use infinity_kernels::testing::{Random, tensor, values};
    use std::path::Path;

    const WIDE: [usize; 2] = [8, 24];
    const RATE: f64 = 0.02;
    const DECAY: f64 = 0.1;

    /// Names that give parameters their rules: two of Muon's, one of AdamW's, and one without gradient.
    #[derive(Module, Debug)]
    struct Four {
        q_proj: Param<Tensor<2>>,
        o_proj: Param<Tensor<2>>,
        embed: Param<Tensor<2>>,
        k_proj: Param<Tensor<2>>,
    }

    fn matrix(seed: u64, dims: [usize; 2], dtype: DType, device: &Device) -> Tensor<2> {
        let values = Random(seed).values(dims[0] * dims[1], -1.0, 1.0);
        tensor(&values, dims, dtype, device)
    }

    fn module(dtype: DType) -> Four {
        let device = Device::flex().autodiff().gradient_checkpointing();
        let param = |seed, dims| Param::from_tensor(matrix(seed, dims, dtype, &device));
        Four {
            q_proj: param(1, WIDE),
            o_proj: param(2, WIDE),
            embed: param(3, [5, 4]),
            k_proj: param(4, WIDE),
        }
    }

    fn grads(of: &Four, step: u64) -> GradientsParams {
        let dtype = of.q_proj.val().dtype();
        let mut grads = GradientsParams::new();
        for (i, param) in [&of.q_proj, &of.o_proj, &of.embed].into_iter().enumerate() {
            let seed = 10 * (step + 1) + i as u64;
            let grad = matrix(seed, param.val().dims(), dtype, &Device::flex());
            grads.register(param.id, grad);
        }
        grads
    }

    fn optimizer(name: OptimizerName, module: &Four) -> Optimizer {
        let config = OptimizerConfig {
            name,
            learning_rate: RATE,
            muon_learning_rate: RATE,
            weight_decay: DECAY,
            ..OptimizerConfig::default()
        };
        let constant = LrSchedulerConfig {
            kind: LrSchedulerType::Constant,
            ..LrSchedulerConfig::default()
        };
        Optimizer::new(&config, &constant, 9, module)
    }

    fn all(module: &Four) -> [Vec<f64>; 4] {
        [
            &module.q_proj,
            &module.o_proj,
            &module.embed,
            &module.k_proj,
        ]
        .map(|param| values(param.val().inner()))
    }

    /// Against the step without decay: numbers that it makes smaller lose their part, no others do.
    #[test]
    fn cautious_decay_takes_from_what_becomes_smaller() {
        let before = module(DType::F32);
        let after = |decay: f64, cautious| {
            let mut optimizer = optimizer(OptimizerName::Muon, &before);
            optimizer.config.weight_decay = decay;
            optimizer.config.cautious_weight_decay = cautious;
            optimizer.config.decay_exclude.clear();
            let grads = grads(&before, 0);
            let module = optimizer.step(before.clone(), grads, 0);
            [&module.q_proj, &module.o_proj].map(|param| values(param.val().inner()))
        };
        let old = [&before.q_proj, &before.o_proj].map(|param| values(param.val().inner()));
        let (plain, cautious) = (after(0.0, false), after(0.5, true));
        let mut kinds = [0, 0];
        for (matrix, old) in old.iter().enumerate() {
            let dims = [WIDE, WIDE][matrix];
            let rate = RATE * (dims[1] as f64 / dims[0] as f64).sqrt();
            for (i, w) in old.iter().enumerate() {
                let (plain, found) = (plain[matrix][i], cautious[matrix][i]);
                let smaller = (w - plain) * w > 0.0;
                kinds[usize::from(smaller)] += 1;
                let expected = if smaller {
                    plain - w * rate * 0.5
                } else {
                    plain
                };
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{matrix} {i}: {found} {expected}"
                );
            }
        }
        assert!(kinds[0] > 20 && kinds[1] > 20, "both are seen: {kinds:?}");
    }

    /// AdamW's are Burn's to the bit; Muon's are by hand in f64, for Burn's has one polynomial for all its iterations.
    #[test]
    fn three_steps_are_those_of_burns_adamw_and_of_muon_by_hand() {
        let mut ours = module(DType::F32);
        let mut burns = ours.clone();
        let before = all(&ours);
        let mut by_hand = [0, 1].map(|i| (before[i].clone(), vec![0.0; before[i].len()]));
        let mut our_optimizer = optimizer(OptimizerName::Muon, &ours);
        let adamw = AdamWConfig::new().with_epsilon(1e-8);
        let mut burns_optimizer = ModuleOptimizer::from(adamw.with_weight_decay(0.0).build());
        let rate = RATE * (WIDE[1] as f64 / WIDE[0] as f64).sqrt();
        for step in 0..3 {
            let mut given = grads(&ours, step);
            let mut of_rest = GradientsParams::new();
            let rest = given.get::<2>(burns.embed.id).expect("a gradient");
            of_rest.register(burns.embed.id, rest);
            burns = burns_optimizer.step(RATE, burns, of_rest);
            for (id, (weights, velocity)) in
                [ours.q_proj.id, ours.o_proj.id].iter().zip(&mut by_hand)
            {
                let grad = values(given.remove::<2>(*id).expect("a gradient"));
                let blend = |velocity: &[f64]| -> Vec<f64> {
                    grad.iter()
                        .zip(velocity)
                        .map(|(g, v)| g + 0.95 * v)
                        .collect()
                };
                *velocity = blend(velocity);
                let update = reference::forward(WIDE, &blend(velocity));
                for (w, u) in weights.iter_mut().zip(update) {
                    *w -= rate * (DECAY * *w + u);
                }
            }
            let given = grads(&ours, step);
            ours = our_optimizer.step(ours, given, step);
        }
        let embed = all(&burns)[2].clone();
        let [(q_proj, _), (o_proj, _)] = by_hand;
        let expected = [q_proj, o_proj, embed, before[3].clone()];
        for (i, (ours, expected)) in all(&ours).iter().zip(&expected).enumerate() {
            let apart = |other: &[f64]| {
                let pairs = ours.iter().zip(other);
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
            };
            assert_eq!(apart(&before[i]) > 0.01, i < 3, "parameter {i}");
            let limit = if i == 2 { 0.0 } else { 8e-6 };
            assert!(
                apart(expected) <= limit,
                "parameter {i}: {}",
                apart(expected)
            );
        }
    }

    #[test]
    fn side_by_side_is_one_after_the_other_and_keeps_what_a_parameter_is() {
        for dtype in [DType::F32, DType::BF16] {
            let before = module(dtype);
            let mut together = before.clone();
            let mut alone = before.clone();
            let mut of_all = optimizer(OptimizerName::Muon, &before);
            let mut of_each = of_all.clone();
            for step in 0..3 {
                let given = grads(&together, step);
                together = of_all.step(together, given, step);
                for id in [before.q_proj.id, before.o_proj.id, before.embed.id] {
                    let mut one = GradientsParams::new();
                    let grad = grads(&alone, step).remove::<2>(id).expect("a gradient");
                    one.register(id, grad);
                    alone = of_each.step(alone, one, step);
                }
            }
            assert_eq!(all(&together), all(&alone), "{dtype:?}");
            let (after, was) = (all(&together), all(&before));
            assert!((0..3).all(|i| after[i] != was[i]));
            assert_eq!(after[3], was[3], "without a gradient");
            let value = together.q_proj.val();
            assert!(value.is_require_grad());
            assert_eq!(value.dtype(), dtype);
            let strategy = before.q_proj.val().gradient_checkpointing_strategy();
            assert!(strategy.is_some());
            assert_eq!(value.gradient_checkpointing_strategy(), strategy);
            // Moments are f32 in every precision.
            for slot in of_all.slots.values() {
                match &slot.moments {
                    Some(Moments { rows, .. }) => {
                        assert_eq!(rows.len(), if slot.muon { 1 } else { 2 });
                        assert!(rows.iter().all(|row| row.dtype() == DType::F32));
                    }
                    None => assert!(slot.path.contains("k_proj")),
                }
            }
        }
    }

    /// The factor counts as it would on the gradients, which are rounded to their own format.
    #[test]
    fn a_scaled_step_is_one_with_scaled_gradients() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let before = module(dtype);
            let mut scaled = optimizer(OptimizerName::Muon, &before);
            let [mut by_hand, mut whole] = [scaled.clone(), scaled.clone()];
            let factor = 0.3;
            let mut smaller = GradientsParams::new();
            for id in [before.q_proj.id, before.o_proj.id, before.embed.id] {
                let grad = grads(&before, 0).remove::<2>(id).expect("a gradient");
                smaller.register(id, grad * factor);
            }
            let expected = by_hand.step(before.clone(), smaller, 0);
            let found = scaled.step_scaled(before.clone(), grads(&before, 0), factor, 0);
            // In f32 the rules scale by themselves, which may round otherwise.
            let limit = if dtype == DType::F32 { 1e-5 } else { 0.0 };
            let same = |a: &[Vec<f64>], b: &[Vec<f64>]| {
                let apart = a
                    .concat()
                    .into_iter()
                    .zip(b.concat())
                    .map(|(a, b)| (a - b).abs());
                apart.fold(0.0, f64::max) <= limit
            };
            assert!(same(&all(&found), &all(&expected)), "{dtype:?}");
            whole.step(before.clone(), grads(&before, 0), 0);
            // A first step is nearly the same for all factors; what it leaves is not.
            let left = |of: &Optimizer, id| -> Vec<Vec<f64>> {
                let rows = &of.slots[id].moments.as_ref().expect("a gradient").rows;
                rows.iter().cloned().map(values).collect()
            };
            for id in [&before.q_proj.id, &before.embed.id] {
                assert!(same(&left(&scaled, id), &left(&by_hand, id)), "{dtype:?}");
                assert!(!same(&left(&scaled, id), &left(&whole, id)), "{dtype:?}");
            }
        }
    }

    #[test]
    fn a_module_without_parameters_is_clipped_and_moved() {
        let nothing = Vec::<Four>::new();
        let (grads, clip) = clip(&nothing, GradientsParams::new(), 1.0, 1.0);
        assert_eq!(clip.norm, 0.0);
        let mut optimizer = optimizer(OptimizerName::Muon, &module(DType::F32));
        assert!(optimizer.step(nothing, grads, 0).is_empty());
    }

    fn write(optimizer: &Optimizer, path: &Path) {
        infinity_files::write(path, &optimizer.to_bytes().unwrap()).unwrap();
    }

    fn loaded(
        path: &Path,
        name: OptimizerName,
        module: &Four,
    ) -> Result<Optimizer, CheckpointError> {
        let mut optimizer = optimizer(name, module);
        optimizer.load(path).map(|()| optimizer)
    }

    #[test]
    fn a_file_goes_on_as_if_there_had_been_no_end_and_is_refused_by_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.bpk");
        for name in [OptimizerName::Adamw, OptimizerName::Muon] {
            let mut trained = module(DType::F32);
            let mut first = optimizer(name, &trained);
            for step in 0..2 {
                let given = grads(&trained, step);
                trained = first.step(trained, given, step);
            }
            write(&first, &path);
            let mut second = loaded(&path, name, &trained).unwrap();
            let next = |optimizer: &mut Optimizer| {
                all(&optimizer.step(trained.clone(), grads(&trained, 2), 2))
            };
            let expected = next(&mut first);
            assert_eq!(next(&mut second), expected, "{name:?}");
            assert_ne!(next(&mut optimizer(name, &trained)), expected, "{name:?}");

            let other = loaded(&path, name, &module(DType::F32)).err().unwrap();
            assert!(other.to_string().contains("no parameter"), "{other}");
        }
        let trained = module(DType::F32);
        let reshaped = Four {
            embed: Param::initialized(trained.embed.id, trained.embed.val().transpose()),
            ..trained.clone()
        };
        let mut adamw = optimizer(OptimizerName::Adamw, &trained);
        adamw.step(trained.clone(), grads(&trained, 0), 0);
        write(&adamw, &path);
        let refused = loaded(&path, OptimizerName::Adamw, &reshaped)
            .err()
            .unwrap();
        let refused = refused.to_string();
        assert!(
            refused.contains("embed") && refused.contains("[5, 4]"),
            "{refused}"
        );
    }

    /// Devices that are told apart: a GPU by what it is taken for when nothing is said, and by its number.
    fn devices() -> Vec<Device> {
        [
            vec![Device::flex()],
            #[cfg(feature = "wgpu")]
            Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec(),
            #[cfg(feature = "cuda")]
            Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec(),
        ]
        .concat()
    }

    #[test]
    fn moments_are_read_onto_the_device_of_their_parameter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.bpk");
        let trained = module(DType::F32);
        let mut first = optimizer(OptimizerName::Muon, &trained);
        first.step(trained.clone(), grads(&trained, 0), 0);
        write(&first, &path);
        for device in devices() {
            let there = trained.clone().to_device(&device.clone().autodiff());
            let read = loaded(&path, OptimizerName::Muon, &there).unwrap();
            let mut seen = 0;
            for slot in read.slots.values() {
                let rows = slot.moments.iter().flat_map(|of| &of.rows);
                let found: Vec<Device> = rows.map(|row| row.device()).collect();
                seen += found.len();
                assert!(found.iter().all(|one| *one == device), "{}", slot.path);
            }
            assert!(seen > 2);
        }
    }

    /// Files of versions that used Burn's optimizer for the whole module.
    #[test]
    fn burns_own_record_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optim.bpk");
        let mut trained = module(DType::F32);
        let rule = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0);
        let mut burns = ModuleOptimizer::from(rule.build());
        for step in 0..2 {
            let given = grads(&trained, step);
            trained = burns.step(RATE, trained, given);
        }
        burns.save(&path).unwrap();
        let mut ours = loaded(&path, OptimizerName::Adamw, &trained).unwrap();
        let after = ours.step(trained.clone(), grads(&trained, 2), 2);
        let expected = burns.step(RATE, trained.clone(), grads(&trained, 2));
        // The others are decayed here.
        assert_eq!(all(&after)[2], all(&expected)[2]);
        let mut fresh = optimizer(OptimizerName::Adamw, &trained);
        let fresh = fresh.step(trained.clone(), grads(&trained, 2), 2);
        assert_ne!(all(&fresh)[2], all(&expected)[2]);
    }
}
