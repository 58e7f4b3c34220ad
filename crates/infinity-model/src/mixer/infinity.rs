//! The InfinityFormer mixer: short convolution, feature map, norm, rotation, gates, memory scan,
//! output gate.

use super::gates::Gates;
use super::{Call, heads};
use crate::config::{KernelType, ModelConfig, QkNorm};
use crate::init::Init;
use crate::precision::Formats;
use crate::state::LayerState;
use burn::module::{Module, Param};
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::feature_map::{self, FeatureMap};
use infinity_kernels::memory_gates::GateValues;
use infinity_kernels::rms_norm::{gated_rms_norm, rms_norm};
use infinity_kernels::short_conv::short_conv_silu;
use infinity_kernels::{MemoryScanInputs, MemoryScanOutput, memory_scan};

/// Everything between a block's norm and its residual.
#[derive(Module, Debug)]
pub struct InfinityMixer {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    q_conv1d: Option<ShortConv>,
    k_conv1d: Option<ShortConv>,
    v_conv1d: Option<ShortConv>,
    feature_map: Option<LearnableMap>,
    gates: Gates,
    output_gate_proj: Option<Linear>,
    o_norm: RmsNorm,
    o_proj: Linear,
    #[module(skip)]
    config: MixerConfig,
}

/// Taps of a depthwise convolution.
#[derive(Module, Debug)]
pub struct ShortConv {
    /// `[channels, 1, kernel]`.
    weight: Param<Tensor<3>>,
}

/// The learnable feature map, shared by queries and keys.
#[derive(Module, Debug)]
pub struct LearnableMap {
    /// `[H, K, K]`.
    weight: Param<Tensor<3>>,
    /// `[H, K]`.
    bias: Param<Tensor<2>>,
}

/// The choices a forward pass looks at.
#[derive(Clone, Debug)]
struct MixerConfig {
    n_heads: usize,
    value_dim: usize,
    kernel_type: KernelType,
    qk_norm: QkNorm,
}

/// What becomes of the input: queries, keys and values `[B, T, H, ·]` after projection and
/// convolution, and all gates.
struct Projected {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    gates: GateValues,
    /// `[B, T, H·V]`.
    output_gate: Option<Tensor<3>>,
    tails: Vec<Tensor<3>>,
}

/// Zero memory and zero tails on `device`.
pub(super) fn initial_state(config: &ModelConfig, batch: usize, device: &Device) -> LayerState {
    let (h, s) = (config.num_attention_heads, config.num_states());
    let (keys, values) = (config.key_dim_total(), config.value_dim_total());
    let carried = match config.qk_norm {
        QkNorm::L2 => config.value_head_dim(),
        QkNorm::Denominator => config.value_head_dim() + 1,
    };
    let tails = match config.conv_kernel_size {
        0 => Vec::new(),
        kernel => [keys, keys, values]
            .map(|channels| Tensor::zeros([batch, channels, kernel - 1], device))
            .to_vec(),
    };
    LayerState::Infinity {
        memory: Tensor::zeros([batch, h, s, config.head_dim(), carried], device),
        tails,
    }
}

impl InfinityMixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, h, k) = (
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim(),
        );
        let (keys, values) = (config.key_dim_total(), config.value_dim_total());
        let kernel = config.conv_kernel_size;
        let conv = |channels, init: &mut Init| {
            (kernel > 0).then(|| ShortConv {
                weight: init.conv(channels, kernel),
            })
        };
        InfinityMixer {
            q_proj: init.linear(width, keys),
            k_proj: init.linear(width, keys),
            v_proj: init.linear(width, values),
            q_conv1d: conv(keys, init),
            k_conv1d: conv(keys, init),
            v_conv1d: conv(values, init),
            feature_map: (config.kernel_type == KernelType::Learnable)
                .then(|| LearnableMap::identity(h, k, init)),
            gates: Gates::new(config, init),
            output_gate_proj: config.use_output_gate.then(|| init.linear(width, values)),
            o_norm: init.norm(config.value_head_dim(), config.layer_norm_eps),
            o_proj: init.residual_out(values, width, config.num_hidden_layers),
            config: MixerConfig {
                n_heads: h,
                value_dim: config.value_head_dim(),
                kernel_type: config.kernel_type,
                qk_norm: config.qk_norm,
            },
        }
    }

    /// `[B, T, D]` → `[B, T, D]`, reading and writing `memory` `[B, H, S, K, V]`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        call: &Call,
        memory: Tensor<5>,
        tails: Vec<Tensor<3>>,
    ) -> (Tensor<3>, LayerState) {
        let [b, t, _] = x.dims();
        let formats = call.formats();
        let mut projected = self.projected(&x, formats, tails);
        let tails = std::mem::take(&mut projected.tails);
        let output_gate = projected.output_gate.take();
        let out = match self.config.qk_norm {
            QkNorm::L2 => self.read_memory(projected, call, memory),
            QkNorm::Denominator => self.read_normalised(projected, call, memory),
        };
        let (weight, eps) = (self.o_norm.gamma.val(), self.o_norm.epsilon);
        let o = match output_gate {
            Some(gate) => gated_rms_norm(formats.stream(out.o), weight, formats.stream(gate), eps),
            None => rms_norm(formats.stream(out.o), weight, eps),
        };
        let o = o.reshape([b, t, self.config.n_heads * self.config.value_dim]);
        (
            formats.stream(formats.linear(&self.o_proj, formats.products(o))),
            LayerState::Infinity {
                memory: out.state,
                tails,
            },
        )
    }

    /// All gates for the normed input `[B, T, D]`.
    pub(super) fn gates(&self, x: &Tensor<3>) -> GateValues {
        self.gates.forward(&x.clone().cast(DType::F32))
    }

    /// Everything that is linear in the input `[B, T, D]`, and the convolutions.
    fn projected(&self, x: &Tensor<3>, formats: Formats, tails: Vec<Tensor<3>>) -> Projected {
        let mut linears = vec![&self.q_proj, &self.k_proj, &self.v_proj];
        linears.extend(&self.output_gate_proj);
        let (all, gates) = formats.projections_and(&linears, x.clone(), self.gates.weight());
        let mut all = all.into_iter();
        let mut tails = tails.into_iter();
        let mut next = Vec::with_capacity(3);
        let mut convolved = |conv: &Option<ShortConv>| {
            let mut y = formats.single(all.next().expect("a result for every projection"));
            if let Some(conv) = conv {
                let tail = tails.next().expect("a tail for every convolution");
                let (convolved, tail) = short_conv_silu(y, formats.kernels(conv.taps()), tail);
                next.push(tail);
                y = convolved;
            }
            heads(y, self.config.n_heads)
        };
        let [q, k, v] = [&self.q_conv1d, &self.k_conv1d, &self.v_conv1d].map(&mut convolved);
        Projected {
            q,
            k,
            v,
            gates: self.gates.values(gates),
            output_gate: all.next(),
            tails: next,
        }
    }

    /// What is left of the feature map once its parameters, if it has any, have been applied.
    fn parameterised(&self, x: Tensor<4>, formats: Formats) -> (Tensor<4>, FeatureMap) {
        match (&self.feature_map, self.config.kernel_type) {
            (Some(map), _) => {
                let (x, weight) = (formats.kernels(x), formats.kernels(map.weight.val()));
                let x = feature_map::learnable(x, weight, formats.single(map.bias.val()));
                (x, FeatureMap::Identity)
            }
            (None, KernelType::Elu) => (x, FeatureMap::EluPlusOne),
            (None, KernelType::Relu) => (x, FeatureMap::Relu),
            (None, _) => (x, FeatureMap::Identity),
        }
    }

    fn read_memory(
        &self,
        projected: Projected,
        call: &Call,
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        let Projected { q, k, v, gates, .. } = projected;
        let [q, k] = [q, k].map(|x| {
            let (x, map) = self.parameterised(x, call.formats);
            call.rotary.unit(x, map)
        });
        self.scan(call, gates, [q, k, v], memory)
    }

    /// Classic kernel attention: numerator over denominator, the latter by carrying ones as
    /// values. Only the numerator is rotated, so the denominator stays positive.
    fn read_normalised(
        &self,
        projected: Projected,
        call: &Call,
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        let Projected { q, k, v, gates, .. } = projected;
        let [q, k] = [q, k].map(|x| {
            let (x, map) = self.parameterised(x, call.formats);
            map.apply(x)
        });
        let v_dim = self.config.value_dim;
        let ones = v.clone().narrow(3, 0, 1).ones_like();
        let sums = memory.clone().narrow(4, v_dim, 1);
        let below = self.scan(call, gates.clone(), [q.clone(), k.clone(), ones], sums);
        let above = [call.rotated(q), call.rotated(k), v];
        let above = self.scan(call, gates, above, memory.narrow(4, 0, v_dim));
        MemoryScanOutput {
            o: above.o / below.o.abs().clamp_min(1.0),
            state: Tensor::cat(vec![above.state, below.state], 4),
        }
    }

    fn scan(
        &self,
        call: &Call,
        gates: GateValues,
        [q, k, v]: [Tensor<4>; 3],
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        let inputs = MemoryScanInputs {
            q: call.formats.kernels(q),
            k: call.formats.kernels(k),
            v: call.formats.kernels(v),
            log_decay: gates.log_decay,
            read: gates.read,
            write: gates.write,
            erase: gates.erase,
        };
        memory_scan(inputs, memory, call.form)
    }
}

impl ShortConv {
    /// `[channels, kernel]`.
    fn taps(&self) -> Tensor<2> {
        let [channels, _, kernel] = self.weight.dims();
        self.weight.val().reshape([channels, kernel])
    }
}

impl LearnableMap {
    fn identity(n_heads: usize, key_dim: usize, init: &Init) -> Self {
        let eye = (0..n_heads * key_dim * key_dim)
            .map(|i| {
                if i / key_dim % key_dim == i % key_dim {
                    1.0
                } else {
                    0.0
                }
            })
            .collect();
        LearnableMap {
            weight: init.values(eye, [n_heads, key_dim, key_dim]),
            bias: init.values(vec![0.0; n_heads * key_dim], [n_heads, key_dim]),
        }
    }
}
