//! One step of learning: a batch in, gradients and numbers out.
//!
//! Loss and gradients are the same whichever way a step takes; the ways differ in what they keep
//! for the backward pass and what they compute again.
//!
//! | file | keeps |
//! |---|---|
//! | `whole.rs` | everything |
//! | `blocks.rs` | what every block reads |
//! | `segments.rs` | the state at every border between segments of the sequence |
//! | `draws.rs` | (what is random falls the same way each time) |

mod blocks;
mod draws;
mod segments;
mod whole;

use crate::config::{GradientCheckpointing, RunConfig};
use crate::data::HostBatch;
use crate::loss::evaluation_loss;
use crate::metrics::LmOutput;
use crate::muon::together;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
pub(crate) use draws::drops;
use infinity_kernels::in_pool;
use infinity_model::{InfinityModel, ModelState};
pub use segments::default_segment;

/// A batch on its way through the model.
#[derive(Clone, Debug)]
pub struct LmBatch {
    /// Tokens and targets.
    pub host: HostBatch,
    /// The state its rows start from; `None` is the empty one.
    pub state: Option<ModelState>,
    /// Factor on the gradient: one over the targets of all micro-batches of the step, so that
    /// accumulated gradients are a mean over tokens; and the loss scale, in f16.
    pub scale: f64,
    /// Seed of what is random in the step (dropout); `None` lets the device draw one.
    pub seed: Option<u64>,
}

impl LmBatch {
    /// A batch alone: mean gradient over its own targets, empty state.
    pub fn alone(host: HostBatch) -> Self {
        let scale = 1.0 / host.valid.max(1) as f64;
        LmBatch {
            host,
            state: None,
            scale,
            seed: None,
        }
    }

    /// `[rows, len]` of the tokens from `from` to `to` in every row.
    pub(crate) fn tokens(&self, from: usize, to: usize, device: &Device) -> Tensor<2, Int> {
        let tokens = self.host.columns(&self.host.inputs, from, to);
        Tensor::from_data(TensorData::new(tokens, [self.host.rows, to - from]), device)
    }

    /// The state its rows start from: of the rows that the batch names, else empty.
    pub fn start(&self, model: &InfinityModel) -> ModelState {
        match &self.state {
            Some(state) => state.clone().gather_rows(&self.host.carry),
            None => model.initial_state(self.host.rows),
        }
    }
}

/// What a training step computes again in its backward pass instead of keeping it.
///
/// What Burn recomputes by itself, operation by operation, is a property of the device that the
/// model is on: `Device::gradient_checkpointing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing.
    Nothing,
    /// Whole blocks: the activations of one exist at a time.
    Blocks,
    /// Segments of the sequence, of so many tokens (the last may be shorter).
    Segments(usize),
}

impl Recompute {
    /// What `config` asks for, for its training windows.
    pub fn of(config: &RunConfig) -> Self {
        match config.training.gradient_checkpointing {
            GradientCheckpointing::None | GradientCheckpointing::Ops => Recompute::Nothing,
            GradientCheckpointing::Blocks => Recompute::Blocks,
            GradientCheckpointing::Segments => Recompute::Segments(config.checkpoint_segment()),
        }
    }
}

/// The model as burn-train's learner sees it.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model that learns.
    pub model: InfinityModel,
    /// Tokens whose logits exist at one time; 0 is all of a batch.
    #[module(skip)]
    loss_chunk: usize,
    #[module(skip)]
    recompute: Recompute,
}

impl Trainee {
    /// Wraps a model; `loss_chunk` as in `training.loss_chunk`.
    pub fn new(model: InfinityModel, loss_chunk: usize) -> Self {
        Trainee {
            model,
            loss_chunk,
            recompute: Recompute::Nothing,
        }
    }

    /// The same with another way through a training step.
    pub fn recomputing(self, recompute: Recompute) -> Self {
        Trainee { recompute, ..self }
    }
}

/// Initialises every parameter that is not yet.
pub(crate) fn initialise<M: Module>(module: &M) {
    struct Initialise;
    impl ModuleVisitor for Initialise {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    module.visit(&mut Initialise);
}

/// The model without gradients, for a pass whose graph nobody needs.
fn untracked(model: &InfinityModel) -> InfinityModel {
    if !drops(model.config()) {
        return model.valid();
    }
    // Without autodiff dropout would not drop. With it, each operation leaves a node behind until
    // the next backward pass, which is why this is not the way for all.
    //
    // A parameter that is not initialised yet shares that future with its clones, and `no_grad` on
    // one of them would switch off the gradient of all.
    initialise(model);
    model.clone().no_grad()
}

/// What a way through a step gives.
struct Learned {
    /// Sum of the losses of all targets that count.
    loss_sum: f64,
    grads: GradientsParams,
    /// The state after the batch, on whatever device.
    state: ModelState,
}

impl TrainStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> TrainOutput<LmOutput> {
        let learned = in_pool(&self.model.device(), || match self.recompute {
            Recompute::Blocks => blocks::learn(self, &batch),
            Recompute::Segments(len) if len < batch.host.len => {
                segments::learn(self, &batch, len.max(1))
            }
            Recompute::Segments(_) | Recompute::Nothing => whole::learn(self, &batch),
        });
        let output = LmOutput {
            loss_sum: learned.loss_sum,
            n_tokens: batch.host.valid,
            grad_norm: None,
            state: Some(learned.state.detach().compact()),
        };
        TrainOutput {
            grads: learned.grads,
            item: output,
        }
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        rates: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        in_pool(&self.model.device(), || {
            together(|| optim.step(rates, self, grads))
        })
    }
}

impl InferenceStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> LmOutput {
        in_pool(&self.model.device(), || self.evaluate(batch))
    }
}

impl Trainee {
    fn evaluate(&self, batch: LmBatch) -> LmOutput {
        let device = self.model.device();
        let start = batch.start(&self.model);
        let (hidden, state) = self
            .model
            .forward_hidden(batch.tokens(0, batch.host.len, &device), start);
        let weight = self.model.output_weight();
        let (targets, formats) = (&batch.host.targets, self.model.formats());
        let loss_sum = evaluation_loss(hidden, weight, targets, self.loss_chunk, formats);
        LmOutput {
            loss_sum,
            n_tokens: batch.host.valid,
            grad_norm: None,
            state: Some(state),
        }
    }
}
