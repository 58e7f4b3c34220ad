//! Which rule and which rate every parameter gets.
//!
//! | parameters | rule | rate | weight decay |
//! |---|---|---|---|
//! | hidden matrices | Muon, or AdamW | `muon_learning_rate`, or `learning_rate` | yes |
//! | gates | AdamW | `learning_rate` × `gate_learning_rate_multiplier` | no |
//! | embedding, norms, biases, convolutions | AdamW | `learning_rate` | no |
//!
//! The update rules are Burn's; clipping is global and happens before them, in `clip`.

use crate::config::{LrSchedulerConfig, OptimizerConfig, OptimizerName};
use crate::schedule::Schedule;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamW, AdamWConfig, GradientsParams, ModuleOptimizer, MuonConfig};
use burn::tensor::Tensor;

/// Words in the paths of the two-dimensional hidden matrices.
const HIDDEN_MATRICES: [&str; 6] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "output_gate_proj",
    "mlp.",
];

/// Wide matrices `[D, I]`, for which Muon's update is √(I/D) larger.
const WIDE: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];

/// Narrow matrices `[I, D]`.
const NARROW: &str = "mlp.down_proj";

/// Word in the path of every gate.
const GATES: &str = ".gates.";

/// Words in the paths of parameters that are never decayed, whatever the configuration says.
const NEVER_DECAYED: [&str; 3] = [GATES, "conv1d", "feature_map"];

fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> ParamGroup {
    ParamGroup::from_any_predicates(words.into_iter().map(str::to_owned).collect())
}

fn adamw(config: &OptimizerConfig, weight_decay: f64) -> AdamW {
    AdamWConfig::new()
        .with_beta_1(config.beta1 as f32)
        .with_beta_2(config.beta2 as f32)
        .with_epsilon(config.eps as f32)
        .with_weight_decay(weight_decay as f32)
        .build()
}

/// The optimizer for a whole model. Later groups win over earlier ones.
pub fn optimizer(config: &OptimizerConfig) -> ModuleOptimizer {
    let mut optimizer = ModuleOptimizer::from(adamw(config, config.weight_decay));
    if config.name == OptimizerName::Muon {
        let decay =
            (config.weight_decay > 0.0).then(|| WeightDecayConfig::new(config.weight_decay as f32));
        let momentum = MomentumConfig {
            momentum: config.muon_momentum,
            dampening: 0.0,
            nesterov: true,
        };
        let muon = MuonConfig::new()
            .with_weight_decay(decay)
            .with_momentum(momentum)
            .build();
        optimizer = optimizer.with_group(any_of(HIDDEN_MATRICES), muon, None);
    }
    let excluded = config.decay_exclude.iter().map(String::as_str);
    optimizer.with_group(
        any_of(excluded.chain(NEVER_DECAYED)),
        adamw(config, 0.0),
        None,
    )
}

/// The rates over a run of `total_steps` optimizer steps, by the same groups.
///
/// Muon scales a matrix's update by √max(1, out/in). Burn computes that from its own `[in, out]`
/// layout, which turns it upside down; `widening` = `intermediate_size / hidden_size` sets it
/// right.
pub fn learning_rates(
    config: &OptimizerConfig,
    schedule: &LrSchedulerConfig,
    total_steps: u64,
    widening: f64,
) -> ModuleLrScheduler {
    let rate = |peak: f64| Schedule::new(schedule, peak, total_steps);
    let mut rates = ModuleLrScheduler::new(rate(config.learning_rate));
    if config.name == OptimizerName::Muon {
        let peak = config.muon_learning_rate;
        let turned = widening.max(1.0).sqrt();
        rates = rates
            .with_group(any_of(HIDDEN_MATRICES), rate(peak))
            .with_group(any_of(WIDE), rate(peak * turned))
            .with_group(any_of([NARROW]), rate(peak / turned));
    }
    rates.with_group(
        any_of([GATES]),
        rate(config.learning_rate * config.gate_learning_rate_multiplier),
    )
}

/// The norm of all gradients together, and the gradients scaled down to `max_norm` (0: as they
/// are). A norm that is not finite is returned with the gradients untouched.
pub fn clip<M: Module>(
    model: &M,
    mut grads: GradientsParams,
    max_norm: f64,
) -> (GradientsParams, f64) {
    let mut squares = Squares {
        grads: &grads,
        sum: None,
    };
    model.visit(&mut squares);
    let norm = squares
        .sum
        .map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt());
    if max_norm > 0.0 && norm > max_norm && norm.is_finite() {
        model.visit(&mut Scale {
            grads: &mut grads,
            factor: max_norm / norm,
        });
    }
    (grads, norm)
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let square = grad.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad * self.factor);
        }
    }
}
