//! Softmax attention between its projections: heads that share keys and values, norms, biases and an
//! output gate as the families of models have them.

use crate::config::{AttnQkNorm, ModelConfig};
use crate::init::Init;
use crate::layer::{Layer, Pass, Residual, Stream, first_values, heads, layer_config};
use crate::precision::Formats;
use crate::state::{LayerState, Stateful};
use burn::module::Module;
use burn::nn::{Dropout, Linear, RmsNorm};
use burn::tensor::{Tensor, activation};
use infinity_kernels::rms_norm::rms_norm;
use infinity_kernels::softmax_attention::{softmax_attention_packed, softmax_attention_with};

layer_config! {
    /// A [`SoftmaxMixer`] alone, of a width and a number of heads.
    SoftmaxMixerConfig => SoftmaxMixer, needs hidden_size, num_attention_heads;
    set {
        num_hidden_layers: usize, head_dim: Option<usize>, value_head_dim: Option<usize>,
        num_key_value_heads: Option<usize>, attn_qk_norm: AttnQkNorm, attn_output_gate: bool,
        attention_bias: bool, qkv_bias: bool, rope_parameters: crate::config::RopeParameters,
        use_rotary_embeddings: bool, rotary_fraction: f64, rotary_embedding_base: f64,
        attention_probs_dropout_prob: f64, initializer_range: f64, layer_norm_eps: f64,
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
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    output_gate_proj: Option<Linear>,
    pub(crate) dropout: Dropout,
    value_residual: Option<Residual>,
    #[module(skip)]
    config: ModelConfig,
}

impl SoftmaxMixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, groups) = (config.hidden_size, config.num_key_value_heads());
        let (keys, values) = (config.key_dim_total(), config.value_dim_total());
        let (head_dim, value_head_dim) = (config.head_dim(), config.value_head_dim());
        let of_qkv = (config.attention_bias || config.qkv_bias).then_some(0.0);
        let n_layers = config.num_hidden_layers;
        let norm = |heads: usize, init: &Init| {
            let width = match config.attn_qk_norm {
                AttnQkNorm::None => return None,
                AttnQkNorm::Head => head_dim,
                AttnQkNorm::Full => heads * head_dim,
            };
            Some(init.norm(width, config.layer_norm_eps))
        };
        SoftmaxMixer {
            q_proj: init.linear_biased(width, keys, of_qkv),
            k_proj: init.linear_biased(width, groups * head_dim, of_qkv),
            v_proj: init.linear_biased(width, groups * value_head_dim, of_qkv),
            o_proj: init.residual_out([values, width], n_layers, config.attention_bias),
            q_norm: norm(config.num_attention_heads, init),
            k_norm: norm(groups, init),
            output_gate_proj: config.attn_output_gate.then(|| init.linear(width, values)),
            dropout: init.dropout(config.attention_probs_dropout_prob),
            value_residual: Residual::new(config.value_residual, init),
            config: config.clone(),
        }
    }

    /// Queries or keys `[B, T, heads · K]` as heads, normed, in f32.
    fn normed(&self, x: Tensor<3>, norm: &Option<RmsNorm>, formats: Formats) -> Tensor<4> {
        let n_heads = x.dims()[2] / self.config.head_dim();
        let Some(norm) = norm else {
            return heads(formats.single(x), n_heads);
        };
        let (x, weight, eps) = (formats.stream(x), norm.gamma.val(), norm.epsilon);
        formats.single(match self.config.attn_qk_norm {
            AttnQkNorm::Full => heads(rms_norm(x, weight, eps), n_heads),
            _ => rms_norm(heads(x, n_heads), weight, eps),
        })
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
        let [b, t, _] = x.dims();
        let (formats, window) = (pass.formats, self.config.attention_window());
        let mut linears = vec![&self.q_proj, &self.k_proj, &self.v_proj];
        linears.extend(&self.output_gate_proj);
        let mut all = formats.projections(&linears, x).into_iter();
        let mut next = || all.next().expect("a result for every projection");
        let [q, k, v] = [next(), next(), next()];
        let q = self.normed(q, &self.q_norm, formats);
        let k = self.normed(k, &self.k_norm, formats);
        let mut v = heads(formats.single(v), self.config.num_key_value_heads());
        let values = first_values(&self.value_residual, &self.config, &mut v, values);
        let q = formats.kernels(pass.attention_rotary.apply(q));
        let k = formats.kernels(pass.attention_rotary.apply(k));
        let cache = cache.push(k, v, window);
        let ([k, v], view) = cache.view(&pass.borders, window);
        let mut o = match self.dropout.prob > 0.0 && q.device().is_autodiff() {
            true => {
                let drop = |weights| self.dropout.forward(weights);
                softmax_attention_with(q, k, v, &view, drop)
            }
            false => softmax_attention_packed(q, k, v, &view),
        }
        .reshape([b, t, self.config.value_dim_total()]);
        if let Some(gate) = all.next() {
            o = o * activation::sigmoid(formats.single(gate));
        }
        let y = formats.stream(formats.linear(&self.o_proj, o));
        let cache = cache.left_by(t, &pass.borders, window);
        let output = Stream {
            x: y,
            input,
            values,
        };
        (output, LayerState::Softmax { cache })
    }
}
