//! One block, pre-norm: `x ← x + mixer(norm(x))`, then `x ← x + feed_forward(norm(x))`.

use crate::config::ModelConfig;
use crate::feed_forward::FeedForward;
use crate::init::Init;
use crate::mixer::{Call, Mixer};
use crate::state::LayerState;
use burn::module::Module;
use burn::nn::{Dropout, RmsNorm};
use burn::tensor::Tensor;
use infinity_kernels::memory_gates::GateValues;
use infinity_kernels::rms_norm::rms_norm;

/// One layer of the network.
#[derive(Module, Debug)]
pub struct Block {
    input_layernorm: RmsNorm,
    mixer: Mixer,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
    dropout: Dropout,
}

impl Block {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        Block {
            input_layernorm: init.norm(config.hidden_size, config.layer_norm_eps),
            mixer: Mixer::new(config, init),
            post_attention_layernorm: init.norm(config.hidden_size, config.layer_norm_eps),
            mlp: FeedForward::new(config, init),
            dropout: init.dropout(config.hidden_dropout_prob),
        }
    }

    /// The mixer's gates for the block's input `[B, T, D]`, if it has any.
    pub(crate) fn gates(&self, x: &Tensor<3>) -> Option<GateValues> {
        self.mixer.gates(&norm(&self.input_layernorm, x.clone()))
    }

    /// `[B, T, D]` → `[B, T, D]`, with the layer's state going in and coming out.
    ///
    /// # Panics
    ///
    /// If `state` is of another kind of mixer than the block.
    pub fn forward(&self, x: Tensor<3>, call: &Call, state: LayerState) -> (Tensor<3>, LayerState) {
        let normed = norm(&self.input_layernorm, x.clone());
        let (mixed, state) = self.mixer.forward(normed, call, state);
        let x = x + self.dropout.forward(mixed);
        let normed = norm(&self.post_attention_layernorm, x.clone());
        let fed = self.mlp.forward(normed, call.formats());
        (x + self.dropout.forward(fed), state)
    }
}

/// Burn's module with the project's kernel.
pub(crate) fn norm(module: &RmsNorm, x: Tensor<3>) -> Tensor<3> {
    rms_norm(x, module.gamma.val(), module.epsilon)
}
