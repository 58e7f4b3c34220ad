//! Causal softmax attention with rotary positions: the baseline in the same block.

use super::{Call, heads};
use crate::config::ModelConfig;
use crate::init::Init;
use crate::state::LayerState;
use burn::module::Module;
use burn::nn::{Dropout, Linear};
use burn::tensor::Tensor;
use infinity_kernels::softmax_attention::softmax_attention;

/// Projections around softmax attention.
#[derive(Module, Debug)]
pub struct SoftmaxMixer {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    dropout: Dropout,
    n_heads: usize,
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
            n_heads: config.num_attention_heads,
        }
    }

    /// `[B, T, D]` → `[B, T, D]`; the cache grows by `T`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        call: &Call,
        cache: Option<(Tensor<4>, Tensor<4>)>,
    ) -> (Tensor<3>, LayerState) {
        let [b, t, _] = x.dims();
        let formats = call.formats();
        let [q, k, mut v]: [Tensor<4>; 3] = formats
            .projections(&[&self.q_proj, &self.k_proj, &self.v_proj], x)
            .into_iter()
            .map(|y| heads(formats.single(y), self.n_heads))
            .collect::<Vec<_>>()
            .try_into()
            .expect("three projections, three results");
        let q = formats.kernels(call.rotated(q));
        let mut k = formats.kernels(call.rotated(k));
        if let Some((keys, values)) = cache {
            k = Tensor::cat(vec![keys, k], 1);
            v = Tensor::cat(vec![values, v], 1);
        }
        let drop = |weights| self.dropout.forward(weights);
        let o = softmax_attention(q, k.clone(), v.clone(), drop);
        let [.., v_dim] = v.dims();
        let o = formats.products(o.reshape([b, t, self.n_heads * v_dim]));
        (
            formats.stream(formats.linear(&self.o_proj, o)),
            LayerState::Softmax {
                cache: Some((k, v)),
            },
        )
    }
}
