//! What mixes positions in a block: the recurrent memory, or softmax attention.

mod attention;
mod infinity;

use crate::config::{self, ModelConfig};
use crate::init::Init;
use crate::layer::{Layer, Pass, Stream};
use crate::state::{LayerState, Stateful};
pub use attention::{SoftmaxMixer, SoftmaxMixerConfig};
use burn::module::Module;
pub use infinity::{Gates, InfinityMixer, InfinityMixerConfig, LearnableMap, Routing, ShortConv};

/// The mixer of one block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a layer; parameters are handles anyway.
pub enum Mixer {
    /// Linear time, constant state.
    Infinity(InfinityMixer),
    /// Quadratic time, growing state.
    Softmax(SoftmaxMixer),
}

impl Mixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        match config.mixer {
            config::Mixer::Infinity => Mixer::Infinity(InfinityMixer::new(config, init)),
            config::Mixer::Softmax => Mixer::Softmax(SoftmaxMixer::new(config, init)),
        }
    }
}

impl Stateful for Mixer {
    fn config(&self) -> &ModelConfig {
        match self {
            Mixer::Infinity(mixer) => mixer.config(),
            Mixer::Softmax(mixer) => mixer.config(),
        }
    }
}

impl Layer for Mixer {
    fn forward_in(&self, input: Stream, pass: &Pass, state: LayerState) -> (Stream, LayerState) {
        match self {
            Mixer::Infinity(mixer) => mixer.forward_in(input, pass, state),
            Mixer::Softmax(mixer) => mixer.forward_in(input, pass, state),
        }
    }
}
