//! What mixes positions in a block: the multi-scale memory, or softmax attention as the baseline.

mod gates;
mod infinity;
mod softmax;

use crate::config::{self, ModelConfig};
use crate::init::Init;
use crate::state::LayerState;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
pub use gates::Gates;
pub use infinity::{InfinityMixer, LearnableMap, ShortConv};
use infinity_kernels::rotary::{Rotary, RotaryDims};
pub use softmax::SoftmaxMixer;

/// The mixer of one block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a layer; parameters are handles anyway.
pub enum Mixer {
    /// Linear time, constant state.
    Infinity(InfinityMixer),
    /// Quadratic time, growing state.
    Softmax(SoftmaxMixer),
}

/// Rotary tables of one call, shared by all layers; `None` without rotary embeddings.
pub(crate) type Positions = Option<Rotary>;

/// Tables for `t` tokens from `starts` on.
pub(crate) fn positions(
    config: &ModelConfig,
    starts: &[u64],
    t: usize,
    device: &Device,
) -> Positions {
    let dims = RotaryDims {
        key_dim: config.head_dim(),
        rotated: config.rotary_dim(),
        base: config.rotary_embedding_base,
    };
    (dims.rotated > 0).then(|| Rotary::new(starts, t, dims, device))
}

impl Mixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        match config.mixer {
            config::Mixer::Infinity => Mixer::Infinity(InfinityMixer::new(config, init)),
            config::Mixer::Softmax => Mixer::Softmax(SoftmaxMixer::new(config, init)),
        }
    }

    /// The state before the first token.
    pub(crate) fn initial_state(config: &ModelConfig, batch: usize, device: &Device) -> LayerState {
        match config.mixer {
            config::Mixer::Infinity => infinity::initial_state(config, batch, device),
            config::Mixer::Softmax => LayerState::Softmax { cache: None },
        }
    }

    /// `[B, T, D]` → `[B, T, D]`.
    ///
    /// # Panics
    ///
    /// If `state` is of the other kind of mixer.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        state: LayerState,
    ) -> (Tensor<3>, LayerState) {
        match (self, state) {
            (Mixer::Infinity(mixer), LayerState::Infinity { memory, tails }) => {
                mixer.forward(x, positions, memory, tails)
            }
            (Mixer::Softmax(mixer), LayerState::Softmax { cache }) => {
                mixer.forward(x, positions, cache)
            }
            _ => panic!("the state belongs to another kind of mixer"),
        }
    }
}

/// `[B, T, H·X]` → `[B, T, H, X]`.
fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [b, t, width] = x.dims();
    x.reshape([b, t, n_heads, width / n_heads])
}
