//! What every way through a step takes and gives: a batch, the model that learns, its seeds.

use super::loss::Head;
use crate::config::{GradientCheckpointing, RunConfig};
use crate::data::HostBatch;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::layer::drawn_seed;
use infinity_model::{InfinityModel, ModelState};

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

/// A model that learns, with its way through a step.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model that learns.
    pub model: InfinityModel,
    #[module(skip)]
    loss_chunk: usize,
    #[module(skip)]
    pub(super) recompute: Recompute,
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

    /// What turns its hidden vectors into losses.
    pub(super) fn head(&self) -> Head {
        Head::of(&self.model, self.loss_chunk)
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
pub(super) fn untracked(model: &InfinityModel) -> InfinityModel {
    if !drops(model) {
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
pub(super) struct Learned {
    /// Sum of the losses of all targets that count.
    pub(super) loss_sum: f64,
    pub(super) grads: GradientsParams,
    /// The state after the batch, on whatever device.
    pub(super) state: ModelState,
}

/// What a batch gives besides gradients: numbers, no logits.
#[derive(Clone, Debug, Default)]
pub struct LmOutput {
    /// Sum of the losses in nats.
    pub loss_sum: f64,
    /// Targets that counted.
    pub n_tokens: usize,
    /// Global norm of the gradient, known after the backward pass.
    pub grad_norm: Option<f64>,
    /// The state after the batch, outside the graph.
    pub state: Option<ModelState>,
}

/// The seeds of one step, so that what is random falls the same way each time it is computed.
///
/// Dropout draws from the device's generator. A step that computes a part twice seeds it before
/// that part both times, with a seed that depends on the step, the segment and the part alone. All
/// ways through a step do so, hence they drop the same numbers where they cut the batch alike.
pub(super) struct Draws {
    device: Device,
    /// `None` where nothing is drawn.
    seed: Option<u64>,
}

impl Draws {
    /// Seeds for a step of `model`. Without a seed of the step's own, one is drawn.
    pub(super) fn new(model: &InfinityModel, seed: Option<u64>) -> Self {
        let device = model.device().inner();
        // The generator is the process's: what draws nothing leaves it to those that do.
        let drops = drops(model);
        if let (true, Some(seed)) = (drops, seed) {
            device.seed(seed);
        }
        let seed = drops.then(|| seed.unwrap_or_else(|| drawn_seed(&device)));
        Draws { device, seed }
    }

    /// Before a part of a segment: 0 is the embedding, `i + 1` is block `i`.
    pub(super) fn before(&self, segment: usize, part: usize) {
        if let Some(seed) = self.seed {
            let place = (segment as u64) << 16 | (part as u64 + 1);
            // Neighbouring steps have neighbouring seeds: an odd factor keeps places apart.
            self.device
                .seed(seed.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        }
    }
}

/// Whether a training step of a model drops anything.
pub(crate) fn drops(model: &InfinityModel) -> bool {
    let config = model.config();
    let adapters = model.lora().map_or(0.0, |lora| lora.dropout);
    config.hidden_dropout_prob > 0.0 || config.attention_probs_dropout_prob > 0.0 || adapters > 0.0
}
