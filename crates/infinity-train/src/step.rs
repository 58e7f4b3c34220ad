//! One step of learning: a batch in, gradients and numbers out.

use crate::data::HostBatch;
use crate::loss::{evaluation_loss, training_loss};
use crate::metrics::LmOutput;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use infinity_model::{InfinityModel, ModelState};

/// A batch on its way through the model.
#[derive(Clone, Debug)]
pub struct LmBatch {
    /// Tokens and targets.
    pub host: HostBatch,
    /// The state its rows start from; `None` is the empty one.
    pub state: Option<ModelState>,
    /// Factor on the gradient: one over the targets of all micro-batches of the step, so that
    /// accumulated gradients are a mean over tokens.
    pub scale: f64,
    /// Seed of what is random in the step (dropout); `None` leaves the device's generator alone.
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

    fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        let HostBatch { rows, len, .. } = self.host;
        Tensor::from_data(
            TensorData::new(self.host.inputs.clone(), [rows, len]),
            device,
        )
    }

    /// The state its rows start from: of the rows that the batch names, else empty.
    pub fn start(&self, model: &InfinityModel) -> ModelState {
        match &self.state {
            Some(state) => state.clone().gather_rows(&self.host.carry),
            None => model.initial_state(self.host.rows),
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
}

impl Trainee {
    /// Wraps a model; `loss_chunk` as in `training.loss_chunk`.
    pub fn new(model: InfinityModel, loss_chunk: usize) -> Self {
        Trainee { model, loss_chunk }
    }
}

impl TrainStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> TrainOutput<LmOutput> {
        let device = self.model.device().inner();
        if let Some(seed) = batch.seed {
            device.seed(seed);
        }
        let start = batch.start(&self.model);
        let (hidden, state) = self.model.forward_hidden(batch.tokens(&device), start);
        let weight = self.model.output_weight();
        let host = &batch.host;
        let loss = training_loss(hidden, weight, &host.targets, batch.scale, self.loss_chunk);
        let mut grads = loss.surrogate.backward();
        let output = LmOutput {
            loss_sum: loss.sum,
            n_tokens: host.valid,
            grad_norm: None,
            state: Some(state.detach()),
        };
        TrainOutput {
            grads: GradientsParams::from_module(&mut grads, self),
            item: output,
        }
    }
}

impl InferenceStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> LmOutput {
        let device = self.model.device();
        let start = batch.start(&self.model);
        let (hidden, state) = self.model.forward_hidden(batch.tokens(&device), start);
        let weight = self.model.output_weight();
        let loss_sum = evaluation_loss(hidden, weight, &batch.host.targets, self.loss_chunk);
        LmOutput {
            loss_sum,
            n_tokens: batch.host.valid,
            grad_norm: None,
            state: Some(state),
        }
    }
}
