//! Which rule and which rate every parameter gets.
//!
//! | parameters | rule | rate | weight decay |
//! |---|---|---|---|
//! | hidden matrices | Muon, or AdamW | `muon_learning_rate`, or `learning_rate` | yes |
//! | gates | AdamW | `learning_rate` × `gate_learning_rate_multiplier` | no |
//! | embedding, norms, biases, convolutions | AdamW | `learning_rate` | no |
//!
//! Rules compute in f32, and what they remember is f32, whatever the format of the parameters. The
//! update rules are Burn's; clipping is global and happens before them, in `clip`.

use crate::config::{LrSchedulerConfig, OptimizerConfig, OptimizerName};
use crate::in_single::InSingle;
use crate::muon::Muon;
use crate::schedule::Schedule;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::{AdamW, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Tensor};
use infinity_kernels::in_pool;
use infinity_model::ModelConfig;

/// The two-dimensional hidden matrices: a word of their path, and their widths in and out.
fn hidden_matrices(model: &ModelConfig) -> [(&'static str, usize, usize); 8] {
    let (width, inner) = (model.hidden_size, model.intermediate_size());
    let (keys, values) = (model.key_dim_total(), model.value_dim_total());
    [
        ("q_proj", width, keys),
        ("k_proj", width, keys),
        ("v_proj", width, values),
        ("o_proj", values, width),
        ("output_gate_proj", width, values),
        ("mlp.gate_proj", width, inner),
        ("mlp.up_proj", width, inner),
        ("mlp.down_proj", inner, width),
    ]
}

/// Word in the path of every gate.
const GATES: &str = ".gates.";

/// Words in the paths of parameters that are never decayed, whatever the configuration says.
const NEVER_DECAYED: [&str; 3] = [GATES, "conv1d", "feature_map"];

fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> ParamGroup {
    ParamGroup::from_any_predicates(words.into_iter().map(str::to_owned).collect())
}

fn adamw(config: &OptimizerConfig, weight_decay: f64) -> InSingle<AdamW> {
    let rule = AdamWConfig::new()
        .with_beta_1(config.beta1 as f32)
        .with_beta_2(config.beta2 as f32)
        .with_epsilon(config.eps as f32)
        .with_weight_decay(weight_decay as f32)
        .build();
    InSingle(rule)
}

fn muon(config: &OptimizerConfig, weight_decay: f64) -> InSingle<Muon> {
    InSingle(Muon::new(config.muon_momentum, weight_decay))
}

/// The optimizer for a whole model. Later groups win over earlier ones.
pub fn optimizer(config: &OptimizerConfig, model: &ModelConfig) -> ModuleOptimizer {
    let excluded = || config.decay_exclude.iter().map(String::as_str);
    let mut optimizer = ModuleOptimizer::from(adamw(config, config.weight_decay)).with_group(
        any_of(excluded().chain(NEVER_DECAYED)),
        adamw(config, 0.0),
        None,
    );
    if config.name == OptimizerName::Muon {
        let words = || hidden_matrices(model).map(|(word, ..)| word).into_iter();
        optimizer = optimizer.with_group(any_of(words()), muon(config, config.weight_decay), None);
        // A hidden matrix that is not to be decayed is still Muon's: its rate is.
        for (word, excluded) in words().flat_map(|word| excluded().map(move |ex| (word, ex))) {
            let both = ParamGroup::from_predicates(vec![word, excluded]);
            optimizer = optimizer.with_group(both, muon(config, 0.0), None);
        }
    }
    optimizer
}

/// The rates over a run of `total_steps` optimizer steps, by the same groups.
///
/// Muon scales a matrix's update by √max(1, out/in). Burn computes that from its own `[in, out]`
/// layout, which turns it upside down, √max(1, in/out); a factor of √(out/in) on the rate sets it
/// right, whichever is larger. Burn decays by the rate as it is given, so this factor is in the
/// weight decay too.
pub fn learning_rates(
    config: &OptimizerConfig,
    schedule: &LrSchedulerConfig,
    total_steps: u64,
    model: &ModelConfig,
) -> ModuleLrScheduler {
    let rate = |peak: f64| Schedule::new(schedule, peak, total_steps);
    let mut rates = ModuleLrScheduler::new(rate(config.learning_rate));
    if config.name == OptimizerName::Muon {
        for (word, from, to) in hidden_matrices(model) {
            let turned = (to as f64 / from as f64).sqrt();
            rates = rates.with_group(any_of([word]), rate(config.muon_learning_rate * turned));
        }
    }
    rates.with_group(
        any_of([GATES]),
        rate(config.learning_rate * config.gate_learning_rate_multiplier),
    )
}

/// The norm of all gradients together, and the gradients scaled down to `max_norm` (0: as they
/// are). A norm that is not finite is returned with the gradients untouched.
pub fn clip<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    max_norm: f64,
) -> (GradientsParams, f64) {
    clip_scaled(model, grads, 1.0, max_norm)
}

/// [`clip`] for gradients that are `scale` times too large: the norm is that of the right ones,
/// and they are divided by `scale`.
pub fn clip_scaled<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    scale: f64,
    max_norm: f64,
) -> (GradientsParams, f64) {
    let (grads, clip) = measure(model, grads, scale, max_norm);
    (scaled(model, grads, clip.factor), clip.norm)
}

/// What clipping does with gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clip {
    /// Their norm, in the right scale.
    pub(crate) norm: f64,
    /// They are multiplied by this; by 1 where the norm is not finite.
    pub(crate) factor: f64,
}

/// The first half of [`clip_scaled`]: the gradients as they are, and what is to be done with them.
pub(crate) fn measure<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    scale: f64,
    max_norm: f64,
) -> (GradientsParams, Clip) {
    pooled(model, || {
        let mut squares = Squares {
            grads: &grads,
            sum: None,
        };
        model.visit(&mut squares);
        let norm = squares
            .sum
            .map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
            / scale;
        let too_long = max_norm > 0.0 && norm > max_norm;
        let factor = match (norm.is_finite(), too_long) {
            (false, _) => 1.0,
            (true, true) => max_norm / norm / scale,
            (true, false) => 1.0 / scale,
        };
        (grads, Clip { norm, factor })
    })
}

/// The second half: the gradients times `factor`.
pub(crate) fn scaled<M: Module + Sync>(
    model: &M,
    mut grads: GradientsParams,
    factor: f64,
) -> GradientsParams {
    if factor == 1.0 {
        return grads;
    }
    pooled(model, || {
        model.visit(&mut Scale {
            grads: &mut grads,
            factor,
        });
        grads
    })
}

/// Runs `work` where the kernels' threads are: on a CPU each of these small operations would wake
/// one.
fn pooled<M: Module, R: Send>(model: &M, work: impl FnOnce() -> R + Send) -> R {
    match model.devices().first() {
        Some(device) => in_pool(device, work),
        None => work(),
    }
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let square = grad.cast(DType::F32).square().sum();
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
