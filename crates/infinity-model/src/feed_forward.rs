//! SwiGLU feed-forward (Shazeer 2020, arXiv:2002.05202).
//!
//! ```text
//! y = W_down (silu(W_gate x) ⊙ W_up x)
//! ```

use crate::config::ModelConfig;
use crate::init::Init;
use crate::precision::Formats;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use infinity_kernels::swiglu::swiglu;

/// The position-wise half of a block.
#[derive(Module, Debug)]
pub struct FeedForward {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl FeedForward {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size());
        FeedForward {
            gate_proj: init.linear(width, inner),
            up_proj: init.linear(width, inner),
            down_proj: init.residual_out(inner, width, config.num_hidden_layers),
        }
    }

    /// `[B, T, D]` → `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>, formats: Formats) -> Tensor<3> {
        let [gate, up] = formats
            .projections(&[&self.gate_proj, &self.up_proj], x)
            .try_into()
            .expect("two projections, two results");
        let inner = formats.products(swiglu(gate, up));
        formats.stream(formats.linear(&self.down_proj, inner))
    }
}
