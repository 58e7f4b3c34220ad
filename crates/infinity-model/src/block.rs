//! One block, pre-norm: `x ← x + mixer(norm(x))`, then `x ← x + feed_forward(norm(x))`; around attention
//! with `attn_norm_order = "post"`, `x ← x + norm(mixer(x))` and so on. The
//! feed-forward is SwiGLU (Shazeer 2020, arXiv:2002.05202), `W_down (silu(W_gate x) ⊙ W_up x)`. With
//! `input_residual` a block after the first starts with `x ← λ₁ x + λ₂ x₀`, x₀ the embedding.

use crate::config::{
    self, AttnNormOrder, AttnQkNorm, Decay, KernelType, MemoryRouting, MemoryUpdate, ModelConfig,
    QkNorm,
};
use crate::init::Init;
use crate::layer::{Layer, Pass, Residual, Stream, layer_config};
use crate::mixer::Mixer;
use crate::precision::{Formats, Precision};
use crate::state::{LayerState, Stateful};
use burn::module::Module;
use burn::nn::{Dropout, Linear, RmsNorm};
use burn::tensor::Tensor;
use infinity_kernels::rms_norm::rms_norm;
use infinity_kernels::swiglu::swiglu;

layer_config! {
    /// A [`Block`] alone, of a width and a number of heads.
    BlockConfig => Block, needs hidden_size, num_attention_heads;
    set {
        num_hidden_layers: usize, head_dim: Option<usize>, value_head_dim: Option<usize>,
        intermediate_size: Option<usize>, mixer: config::Mixer, conv_kernel_size: usize,
        kernel_type: KernelType, qk_norm: QkNorm, use_rotary_embeddings: bool,
        rotary_fraction: f64, rotary_embedding_base: f64, memory_update: MemoryUpdate,
        use_multi_scale_memory: bool, num_memory_scales: usize, memory_routing: MemoryRouting, decay: Decay,
        max_half_life: Option<f64>, allow_neg_eigval: bool, use_gating: bool, gate_init_bias: f64, use_output_gate: bool,
        output_gate_act: config::OutputGateAct, o_norm_eps: Option<f64>, qk_l2_eps: f64,
        linear_num_key_heads: Option<usize>, linear_num_value_heads: Option<usize>,
        linear_key_head_dim: Option<usize>, linear_value_head_dim: Option<usize>,
        sliding_window: Option<usize>, layer_types: Option<Vec<config::LayerType>>,
        num_key_value_heads: Option<usize>, attn_qk_norm: AttnQkNorm, attn_output_gate: bool,
        attn_norm_order: AttnNormOrder, attention_bias: bool, qkv_bias: bool, mlp_bias: bool,
        rope_parameters: config::RopeParameters,
        hidden_dropout_prob: f64, attention_probs_dropout_prob: f64, initializer_range: f64,
        layer_norm_eps: f64,
    }
    fixed {}
}

layer_config! {
    /// A [`FeedForward`] alone, of a width.
    ///
    /// ```
    /// # use infinity_model::prelude::*;
    /// # use infinity_model::burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let feed_forward = FeedForwardConfig::new(32).with_intermediate_size(Some(64)).init(&device);
    /// let y = feed_forward.forward(Tensor::zeros([2, 5, 32], &device));
    /// assert_eq!(y.dims(), [2, 5, 32]);
    /// ```
    FeedForwardConfig => FeedForward, needs hidden_size;
    set {
        num_hidden_layers: usize, intermediate_size: Option<usize>, mlp_bias: bool, initializer_range: f64,
    }
    fixed { num_attention_heads: 1 , head_dim: Some(1) }
}

/// One layer of the network.
#[derive(Module, Debug)]
pub struct Block {
    input_residual: Option<Residual>,
    input_layernorm: RmsNorm,
    mixer: Mixer,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
    dropout: Dropout,
}

/// The position-wise half of a block.
#[derive(Module, Debug)]
pub struct FeedForward {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Block {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let config = &config.of_layer(init.layer);
        Block {
            input_residual: Residual::new(config.input_residual, init),
            input_layernorm: init.norm(config.hidden_size, config.layer_norm_eps),
            mixer: Mixer::new(config, init),
            post_attention_layernorm: init.norm(config.hidden_size, config.layer_norm_eps),
            mlp: FeedForward::new(config, init),
            dropout: init.dropout(config.hidden_dropout_prob),
        }
    }

    /// Sets what drops out in training.
    pub(crate) fn drop_out(&mut self, hidden: f64, attention: f64) {
        self.dropout.prob = hidden;
        if let Mixer::Softmax(mixer) = &mut self.mixer {
            mixer.dropout.prob = attention;
        }
    }

    /// The residual stream as this block has it, from what the one before made of it and from what
    /// the `first` block read.
    fn entered(&self, x: Tensor<3>, first: &Option<Tensor<3>>, formats: Formats) -> Tensor<3> {
        match (&self.input_residual, first) {
            (Some(residual), Some(first)) => {
                let first = formats.single(first.clone());
                formats.stream(residual.add(formats.single(x), first))
            }
            _ => x,
        }
    }
}

impl Stateful for Block {
    fn config(&self) -> &ModelConfig {
        self.mixer.config()
    }
}

impl Layer for Block {
    fn forward_in(&self, input: Stream, pass: &Pass, state: LayerState) -> (Stream, LayerState) {
        let Stream { x, input, values } = input;
        let input = input.or_else(|| self.config().input_residual.then(|| x.clone()));
        let x = self.entered(x, &input, pass.formats);
        let post = matches!(self.mixer, Mixer::Softmax(_))
            && self.config().attn_norm_order == AttnNormOrder::Post;
        // A norm stands on one side of what it belongs to.
        let before = |module, x: &Tensor<3>| match post {
            true => x.clone(),
            false => norm(module, x.clone()),
        };
        let after = |module, y| match post {
            true => norm(module, y),
            false => y,
        };
        let read = Stream {
            x: before(&self.input_layernorm, &x),
            input: None,
            values,
        };
        let (mixed, state) = self.mixer.forward_in(read, pass, state);
        let x = x + self.dropout.forward(after(&self.input_layernorm, mixed.x));
        let read = before(&self.post_attention_layernorm, &x);
        let fed = self.mlp.forward_as(read, pass.formats);
        let fed = after(&self.post_attention_layernorm, fed);
        let output = Stream {
            x: x + self.dropout.forward(fed),
            input,
            values: mixed.values,
        };
        (output, state)
    }
}

impl FeedForward {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size());
        let bias = config.mlp_bias.then_some(0.0);
        FeedForward {
            gate_proj: init.linear_biased(width, inner, bias),
            up_proj: init.linear_biased(width, inner, bias),
            down_proj: init.residual_out([inner, width], config.num_hidden_layers, bias.is_some()),
        }
    }

    /// `[B, T, D]` → `[B, T, D]`, in f32.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let formats = Formats::new(Precision::F32, &x.device());
        self.forward_as(x, formats)
    }

    /// [`forward`](Self::forward) in other number formats.
    pub fn forward_as(&self, x: Tensor<3>, formats: Formats) -> Tensor<3> {
        let [gate, up] = formats
            .projections(&[&self.gate_proj, &self.up_proj], x)
            .try_into()
            .expect("two projections, two results");
        formats.stream(formats.linear(&self.down_proj, swiglu(gate, up)))
    }
}

/// Burn's module with the project's kernel.
pub(crate) fn norm(module: &RmsNorm, x: Tensor<3>) -> Tensor<3> {
    rms_norm(x, module.gamma.val(), module.epsilon)
}
