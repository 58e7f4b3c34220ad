//! What mixes positions in a block: the multi-scale memory, or softmax attention as the baseline.

mod gates;
mod infinity;
mod softmax;

use crate::config::{self, ModelConfig};
use crate::init::Init;
use crate::precision::Formats;
use crate::state::LayerState;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
pub use gates::Gates;
pub use infinity::{InfinityMixer, LearnableMap, ShortConv};
use infinity_kernels::Form;
use infinity_kernels::memory_gates::GateValues;
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

/// What all blocks of one call share: the tables of its positions, and how it computes.
///
/// Made by [`InfinityModel::call`](crate::InfinityModel::call).
#[derive(Debug)]
pub struct Call {
    /// Rotary tables; without rotary embeddings they turn nothing.
    rotary: Rotary,
    /// The form of `memory_scan`.
    form: Form,
    /// Which operation computes in what.
    formats: Formats,
}

impl Call {
    /// Which operation computes in what.
    pub(crate) fn formats(&self) -> Formats {
        self.formats
    }

    /// `x` turned to its positions.
    fn rotated(&self, x: Tensor<4>) -> Tensor<4> {
        self.rotary.apply(x)
    }
}

/// A call with `t` tokens from `starts` on, in a form and in formats.
pub(crate) fn call(
    config: &ModelConfig,
    starts: &[u64],
    t: usize,
    (form, formats): (Form, Formats),
    device: &Device,
) -> Call {
    let dims = RotaryDims {
        key_dim: config.head_dim(),
        rotated: config.rotary_dim(),
        base: config.rotary_embedding_base,
    };
    let rotary = Rotary::new(starts, t, dims, device);
    Call {
        rotary,
        form,
        formats,
    }
}

impl Mixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        match config.mixer {
            config::Mixer::Infinity => Mixer::Infinity(InfinityMixer::new(config, init)),
            config::Mixer::Softmax => Mixer::Softmax(SoftmaxMixer::new(config, init)),
        }
    }

    /// The gates for the normed input `[B, T, D]`; softmax attention has none.
    pub(crate) fn gates(&self, x: &Tensor<3>) -> Option<GateValues> {
        match self {
            Mixer::Infinity(mixer) => Some(mixer.gates(x)),
            Mixer::Softmax(_) => None,
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
        call: &Call,
        state: LayerState,
    ) -> (Tensor<3>, LayerState) {
        match (self, state) {
            (Mixer::Infinity(mixer), LayerState::Infinity { memory, tails }) => {
                mixer.forward(x, call, memory, tails)
            }
            (Mixer::Softmax(mixer), LayerState::Softmax { cache }) => mixer.forward(x, call, cache),
            _ => panic!("the state belongs to another kind of mixer"),
        }
    }
}

/// `[B, T, H·X]` → `[B, T, H, X]`.
fn heads(x: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [b, t, width] = x.dims();
    x.reshape([b, t, n_heads, width / n_heads])
}
