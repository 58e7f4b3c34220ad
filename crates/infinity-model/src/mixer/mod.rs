//! What mixes positions in a block: the multi-scale memory, or softmax attention as the baseline.

mod infinity;

use crate::config::{self, ModelConfig};
use crate::init::Init;
use crate::layer::{Layer, Pass, Residual, Stream, first_values, heads, layer_config};
use crate::state::{LayerState, Stateful};
use burn::module::Module;
use burn::nn::{Dropout, Linear};
use burn::tensor::Tensor;
pub use infinity::{Gates, InfinityMixer, InfinityMixerConfig, LearnableMap, Routing, ShortConv};
use infinity_kernels::softmax_attention::{softmax_attention_packed, softmax_attention_with};

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

layer_config! {
    /// A [`SoftmaxMixer`] alone, of a width and a number of heads.
    SoftmaxMixerConfig => SoftmaxMixer, needs hidden_size, num_attention_heads;
    set {
        num_hidden_layers: usize, head_dim: Option<usize>, value_head_dim: Option<usize>,
        use_rotary_embeddings: bool, rotary_fraction: f64, rotary_embedding_base: f64,
        attention_probs_dropout_prob: f64, initializer_range: f64,
    }
    fixed { mixer: crate::config::Mixer::Softmax }
}

/// Projections around softmax attention: quadratic time, a state that grows.
#[derive(Module, Debug)]
pub struct SoftmaxMixer {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    dropout: Dropout,
    value_residual: Option<Residual>,
    #[module(skip)]
    config: ModelConfig,
}

impl SoftmaxMixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, keys, values) = (
            config.hidden_size,
            config.key_dim_total(),
            config.value_dim_total(),
        );
        SoftmaxMixer {
            q_proj: init.linear(width, keys),
            k_proj: init.linear(width, keys),
            v_proj: init.linear(width, values),
            o_proj: init.residual_out(values, width, config.num_hidden_layers),
            dropout: init.dropout(config.attention_probs_dropout_prob),
            value_residual: Residual::new(config.value_residual, init),
            config: config.clone(),
        }
    }
}

impl Stateful for SoftmaxMixer {
    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

impl Layer for SoftmaxMixer {
    fn forward_in(&self, input: Stream, pass: &Pass, state: LayerState) -> (Stream, LayerState) {
        let LayerState::Softmax { cache } = state else {
            panic!("the state belongs to another kind of mixer");
        };
        let Stream { x, input, values } = input;
        let ([b, t, _], n_heads) = (x.dims(), self.config.num_attention_heads);
        let formats = pass.formats;
        let [q, k, mut v]: [Tensor<4>; 3] = formats
            .projections(&[&self.q_proj, &self.k_proj, &self.v_proj], x)
            .into_iter()
            .map(|y| heads(formats.single(y), n_heads))
            .collect::<Vec<_>>()
            .try_into()
            .expect("three projections, three results");
        let values = first_values(&self.value_residual, &self.config, &mut v, values);
        let q = formats.kernels(pass.rotary.apply(q));
        let mut k = formats.kernels(pass.rotary.apply(k));
        if let Some((keys, values)) = cache {
            k = Tensor::cat(vec![keys, k], 1);
            v = Tensor::cat(vec![values, v], 1);
        }
        let o = match self.dropout.prob > 0.0 && q.device().is_autodiff() {
            true => {
                let drop = |weights| self.dropout.forward(weights);
                softmax_attention_with(q, k.clone(), v.clone(), &pass.borders, drop)
            }
            false => softmax_attention_packed(q, k.clone(), v.clone(), &pass.borders),
        };
        if !pass.borders.is_none() {
            // As in a state whose rows were reset: what is forgotten is zero and stays in view.
            let total = k.dims()[1];
            let old = pass.borders.forgotten(b, t, total, &k.device());
            let old = old.reshape([b, total, 1, 1]);
            (k, v) = (k.mask_fill(old.clone(), 0.0), v.mask_fill(old, 0.0));
        }
        let o = formats.products(o.reshape([b, t, self.config.value_dim_total()]));
        let y = formats.stream(formats.linear(&self.o_proj, o));
        let cache = Some((k, v));
        let output = Stream {
            x: y,
            input,
            values,
        };
        (output, LayerState::Softmax { cache })
    }
}
