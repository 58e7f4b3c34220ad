//! The InfinityFormer mixer: short convolution, feature map, norm, rotation, gates, memory scan,
//! output gate.

// `A_log` is Mamba's name, and the name in weight files.
#![allow(non_snake_case)]

use crate::config::{
    Decay, KernelType, MemoryRouting, MemoryUpdate, ModelConfig, OutputGateAct, QkNorm,
};
use crate::init::Init;
use crate::layer::{Layer, Pass, Residual, Stream, first_values, heads, layer_config};
use crate::precision::Formats;
use crate::state::{LayerState, Stateful};
use burn::module::{Module, Param};
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{DType, Tensor};
use infinity_kernels::feature_map::{self, FeatureMap};
use infinity_kernels::linear::joined;
use infinity_kernels::memory_gates::{DecayRule, GateInputs, GateRule, GateValues, memory_gates};
use infinity_kernels::memory_routing::memory_routing;
use infinity_kernels::memory_scan::memory_scan_packed;
use infinity_kernels::rms_norm::{GateAct, gated_rms_norm, rms_norm};
use infinity_kernels::rotary::Rotary;
use infinity_kernels::short_conv::{Conv, short_conv_silu_each};
use infinity_kernels::{Form, MemoryScanInputs, MemoryScanOutput};

layer_config! {
    /// An [`InfinityMixer`] alone, of a width and a number of heads.
    ///
    /// ```
    /// # use infinity_model::prelude::*;
    /// # use infinity_model::burn::tensor::{Device, Tensor};
    /// let device = Device::flex();
    /// let mixer = InfinityMixerConfig::new(64, 4).with_use_multi_scale_memory(false).init(&device);
    /// let (y, state) = mixer.forward(Tensor::zeros([2, 10, 64], &device), None);
    /// assert_eq!((y.dims(), state.position), ([2, 10, 64], vec![10, 10]));
    /// ```
    InfinityMixerConfig => InfinityMixer, needs hidden_size, num_attention_heads;
    set {
        num_hidden_layers: usize, head_dim: Option<usize>, value_head_dim: Option<usize>,
        conv_kernel_size: usize, kernel_type: KernelType, qk_norm: QkNorm,
        use_rotary_embeddings: bool, rotary_fraction: f64, rotary_embedding_base: f64,
        memory_update: MemoryUpdate, use_multi_scale_memory: bool, num_memory_scales: usize,
        memory_routing: MemoryRouting, decay: Decay, max_half_life: Option<f64>, use_gating: bool,
        gate_init_bias: f64,
        allow_neg_eigval: bool, use_output_gate: bool, output_gate_act: OutputGateAct,
        linear_num_key_heads: Option<usize>, linear_num_value_heads: Option<usize>,
        linear_key_head_dim: Option<usize>, linear_value_head_dim: Option<usize>,
        o_norm_eps: Option<f64>, qk_l2_eps: f64, initializer_range: f64, layer_norm_eps: f64,
    }
    fixed {}
}

/// Everything between a block's norm and its residual: linear time, constant state.
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
    value_residual: Option<Residual>,
    #[module(skip)]
    config: ModelConfig,
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

/// What becomes of the input: queries, keys and values `[B, T, H, ·]` after projection and
/// convolution, and all gates.
struct Projected {
    qkv: [Tensor<4>; 3],
    gates: GateValues,
    /// `[B, T, H·V]`.
    output_gate: Option<Tensor<3>>,
    tails: Vec<Tensor<3>>,
}

impl InfinityMixer {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (width, of) = (config.hidden_size, config.linear_heads());
        let (keys, values) = (of.key_width(), of.value_width());
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
                .then(|| LearnableMap::identity(of.keys, of.key_dim, init)),
            gates: Gates::new(config, init),
            output_gate_proj: config.use_output_gate.then(|| init.linear(width, values)),
            o_norm: init.norm(
                of.value_dim,
                config.o_norm_eps.unwrap_or(config.layer_norm_eps),
            ),
            o_proj: init.residual_out([values, width], config.num_hidden_layers, false),
            value_residual: Residual::new(config.value_residual, init),
            config: config.clone(),
        }
    }

    /// Everything that is linear in the input `[B, T, D]`, and the convolutions.
    fn projected(&self, x: &Tensor<3>, pass: &Pass, tails: Vec<Tensor<3>>) -> Projected {
        let formats = pass.formats;
        let mut linears = vec![&self.q_proj, &self.k_proj, &self.v_proj];
        linears.extend(&self.output_gate_proj);
        let gates: Vec<&Linear> = self.gates.projections().collect();
        let (all, gates) = formats.projections_and(&linears, x.clone(), &gates);
        let mut all = all.into_iter();
        let mut inputs: Vec<_> = all.by_ref().take(3).map(|x| formats.single(x)).collect();
        let mut next = Vec::with_capacity(3);
        if let (Some(q), Some(k), Some(v)) = (&self.q_conv1d, &self.k_conv1d, &self.v_conv1d) {
            let taps = [q, k, v].map(|conv| formats.kernels(conv.taps()));
            let convs = inputs.into_iter().zip(taps).zip(tails);
            let convs = convs.map(|((x, weight), tail)| Conv { x, weight, tail });
            let convolved = short_conv_silu_each(convs.collect(), &pass.borders);
            (inputs, next) = convolved.into_iter().unzip();
        }
        let of = self.config.linear_heads();
        let [q, k, v] = <[Tensor<3>; 3]>::try_from(inputs).expect("queries, keys and values");
        Projected {
            qkv: [heads(q, of.keys), heads(k, of.keys), heads(v, of.values)],
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

    /// Queries or keys `[B, T, Hk, K]` for every value head `[B, T, Hv, K]`.
    fn served(&self, x: Tensor<4>) -> Tensor<4> {
        let of = self.config.linear_heads();
        if of.keys == of.values {
            return x;
        }
        let [b, t, _, k] = x.dims();
        let each = x.reshape([b, t, of.keys, 1, k]);
        let each = each.expand([b, t, of.keys, of.values / of.keys, k]);
        each.reshape([b, t, of.values, k])
    }

    fn read_memory(
        &self,
        pass: &Pass,
        gates: GateValues,
        [q, k, v]: [Tensor<4>; 3],
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        let [q, k] = [q, k].map(|x| self.parameterised(x, pass.formats));
        let gates = self.gates.routed(gates, &pass.rotary, &q, &k);
        // Both have the same map.
        let ((q, map), (k, _)) = (q, k);
        let [q, k] = pass.rotary.units([q, k], map, self.config.qk_l2_eps);
        let [q, k] = [q, k].map(|x| self.served(x));
        self.scan(pass, gates, [q, k, v], memory)
    }

    /// Classic kernel attention: numerator over denominator, the latter by carrying ones as
    /// values. Only the numerator is rotated, so the denominator stays positive.
    fn read_normalised(
        &self,
        pass: &Pass,
        gates: GateValues,
        [q, k, v]: [Tensor<4>; 3],
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        let [q, k] = [q, k].map(|x| {
            let (x, map) = self.parameterised(x, pass.formats);
            self.served(map.apply(x))
        });
        let v_dim = self.config.linear_heads().value_dim;
        let ones = v.clone().narrow(3, 0, 1).ones_like();
        let sums = memory.clone().narrow(4, v_dim, 1);
        let below = self.scan(pass, gates.clone(), [q.clone(), k.clone(), ones], sums);
        let above = [pass.rotary.apply(q), pass.rotary.apply(k), v];
        let above = self.scan(pass, gates, above, memory.narrow(4, 0, v_dim));
        MemoryScanOutput {
            o: above.o / below.o.abs().clamp_min(1.0),
            state: Tensor::cat(vec![above.state, below.state], 4),
        }
    }

    fn scan(
        &self,
        pass: &Pass,
        gates: GateValues,
        [q, k, v]: [Tensor<4>; 3],
        memory: Tensor<5>,
    ) -> MemoryScanOutput {
        // A GPU's kernel reads half formats as they are; other forms, and who looks on, want `f32`.
        let as_they_are = pass.form == Form::Fused && pass.tap.is_none();
        let [q, k, v] = [q, k, v].map(|x| match as_they_are {
            true => pass.formats.in_half(x),
            false => pass.formats.kernels(x),
        });
        let inputs = MemoryScanInputs {
            q,
            k,
            v,
            log_decay: gates.log_decay,
            read: gates.read,
            write: gates.write,
            erase: gates.erase,
        };
        if let Some(tap) = &pass.tap {
            tap.put(&inputs);
        }
        memory_scan_packed(inputs, memory, pass.form, &pass.borders)
    }
}

impl Stateful for InfinityMixer {
    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

impl Layer for InfinityMixer {
    fn forward_in(&self, input: Stream, pass: &Pass, state: LayerState) -> (Stream, LayerState) {
        let LayerState::Infinity { memory, tails } = state else {
            panic!("the state belongs to another kind of mixer");
        };
        let Stream { x, input, values } = input;
        let [b, t, _] = x.dims();
        let formats = pass.formats;
        let Projected {
            qkv: [q, k, mut v],
            gates,
            output_gate,
            tails,
        } = self.projected(&x, pass, tails);
        let values = first_values(&self.value_residual, &self.config, &mut v, values);
        let out = match self.config.qk_norm {
            QkNorm::L2 => self.read_memory(pass, gates, [q, k, v], memory),
            QkNorm::Denominator => self.read_normalised(pass, gates, [q, k, v], memory),
        };
        let (weight, eps) = (self.o_norm.gamma.val(), self.o_norm.epsilon);
        let o = match output_gate {
            Some(gate) => {
                let act = match self.config.output_gate_act {
                    OutputGateAct::Sigmoid => GateAct::Sigmoid,
                    OutputGateAct::Silu => GateAct::Silu,
                };
                let (o, gate) = (formats.stream(out.o), formats.stream(gate));
                gated_rms_norm(o, weight, gate, act, eps)
            }
            None => rms_norm(formats.stream(out.o), weight, eps),
        };
        let o = o.reshape([b, t, self.config.linear_heads().value_width()]);
        let y = formats.stream(formats.linear(&self.o_proj, o));
        let memory = out.state;
        let output = Stream {
            x: y,
            input,
            values,
        };
        (output, LayerState::Infinity { memory, tails })
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
            .map(|i| f32::from(i / key_dim % key_dim == i % key_dim));
        LearnableMap {
            weight: init.values(eye.collect(), [n_heads, key_dim, key_dim]),
            bias: init.values(vec![0.0; n_heads * key_dim], [n_heads, key_dim]),
        }
    }
}

/// The gates of the memory: all linear in the normed input and kept in f32. What a configuration
/// does not use is not there; what becomes of the projections is [`memory_gates`]'s.
#[derive(Module, Debug)]
pub struct Gates {
    decay_proj: Option<Linear>,
    A_log: Option<Param<Tensor<2>>>,
    dt_bias: Option<Param<Tensor<2>>>,
    beta_proj: Linear,
    write_proj: Option<Linear>,
    read_proj: Option<Linear>,
    routing: Option<Routing>,
    memory_gate_proj: Option<Linear>,
    #[module(skip)]
    rule: GateRule,
}

/// Directions that keys and queries are compared with to choose states.
#[derive(Module, Debug)]
pub struct Routing {
    /// `[H, S, K]`.
    weight: Param<Tensor<3>>,
    /// `[H]`.
    log_temperature: Param<Tensor<1>>,
    /// Of the unit length of what is compared with them.
    #[module(skip)]
    eps: f64,
}

impl Routing {
    /// Where the temperature starts: at three times as much, routes are too soft to part anything.
    const TEMPERATURE: f32 = 0.1;

    fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (of, s) = (config.linear_heads(), config.num_states());
        let (h, k) = (of.values, of.key_dim);
        Routing {
            weight: init.directions([h, s, k]),
            log_temperature: init.values(vec![Self::TEMPERATURE.ln(); h], [h]),
            eps: config.qk_l2_eps,
        }
    }

    /// Weights of the states `[B, T, H, S]` for φ of queries or keys `[B, T, H, K]`.
    fn weights(&self, x: Tensor<4>, map: FeatureMap, unrotated: &Rotary) -> Tensor<4> {
        let unit = unrotated.unit(x, map, self.eps).cast(DType::F32);
        memory_routing(unit, self.weight.val(), self.log_temperature.val())
    }
}

/// Half-lives in tokens, log-spaced from the shortest to the longest over states and then heads, `[H, S]`.
fn half_lives(n_heads: usize, n_states: usize, [shortest, longest]: [f64; 2]) -> Vec<f64> {
    let steps = (n_heads * n_states - 1).max(1) as f64;
    let (low, high) = (shortest.log2(), longest.log2());
    let exponent = |rank: usize| low + (high - low) * rank as f64 / steps;
    (0..n_heads)
        .flat_map(|head| (0..n_states).map(move |state| state * n_heads + head))
        .map(|rank| exponent(rank).exp2())
        .collect()
}

impl Gates {
    fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (h, width) = (config.linear_heads().values, config.hidden_size);
        let (s, routed) = (config.num_states(), config.routes_by_content());
        let chosen = s > 1 && !routed;
        let longest = config.max_half_life();
        // A state that a query is sent to must still hold what was written there.
        let shortest = if routed { longest.min(64.0) } else { 4.0 };
        let start = |half_life: f64| (std::f64::consts::LN_2 / half_life).exp_m1().ln() as f32;
        let starts = half_lives(h, s, [shortest, longest]).into_iter().map(start);
        let learned = config.decay == Decay::Adaptive;
        let per_state = |values: Vec<f32>| {
            let param = || init.values(values, [h, s]).set_require_grad(learned);
            (config.decay != Decay::None).then(param)
        };
        let (dt_bias, a_log) = (per_state(starts.collect()), per_state(vec![0.0; h * s]));
        Gates {
            decay_proj: learned.then(|| init.linear(width, h * s)),
            A_log: a_log,
            dt_bias,
            beta_proj: init.linear(width, h),
            write_proj: chosen.then(|| init.linear_biased(width, h * s, Some(0.0))),
            read_proj: chosen.then(|| init.linear_biased(width, h * s, Some(0.0))),
            routing: routed.then(|| Routing::new(config, init)),
            memory_gate_proj: config
                .has_memory_gate()
                .then(|| init.linear_biased(width, h, Some(config.gate_init_bias))),
            rule: GateRule {
                n_heads: h,
                n_states: s,
                delta: config.memory_update == MemoryUpdate::Delta,
                doubled: config.allow_neg_eigval,
                routed,
                decay: match config.decay {
                    Decay::None => DecayRule::None,
                    Decay::Fixed => DecayRule::Fixed,
                    Decay::Adaptive => DecayRule::Adaptive,
                },
                memory_gate: config.has_memory_gate(),
            },
        }
    }

    /// The projections whose results [`values`](Self::values) takes side by side.
    fn projections(&self) -> impl Iterator<Item = &Linear> {
        let first = self.decay_proj.iter().chain([&self.beta_proj]);
        first.chain(self.biased().into_iter().flatten())
    }

    /// The projections that have biases.
    fn biased(&self) -> [&Option<Linear>; 3] {
        [&self.write_proj, &self.read_proj, &self.memory_gate_proj]
    }

    /// `gates` with the states that φ of queries and keys `[B, T, H, K]` choose, if they do.
    fn routed(
        &self,
        gates: GateValues,
        rotary: &Rotary,
        q: &(Tensor<4>, FeatureMap),
        k: &(Tensor<4>, FeatureMap),
    ) -> GateValues {
        let Some(routing) = &self.routing else {
            return gates;
        };
        let unrotated = rotary.unrotated();
        let read = routing.weights(q.0.clone(), q.1, &unrotated);
        let write = routing.weights(k.0.clone(), k.1, &unrotated);
        GateValues {
            log_decay: gates.log_decay,
            read: gates.read * read,
            write: gates.write * write.clone(),
            erase: gates.erase.map(|_| write),
        }
    }

    /// All gates for the normed input times the weights of all [`projections`](Self::projections), `[B, T, N]`.
    fn values(&self, projections: Tensor<3>) -> GateValues {
        let (h, s) = (self.rule.n_heads, self.rule.n_states);
        let device = projections.device();
        let dt_bias = self.dt_bias.iter().map(|bias| bias.val().reshape([h * s]));
        let biases = self.biased().into_iter().flatten();
        let biases = biases.flat_map(|proj| &proj.bias).map(|bias| bias.val());
        let biases: Vec<Tensor<1>> = dt_bias.chain(biases).collect();
        let inputs = GateInputs {
            projections: projections.cast(DType::F32),
            a_log: match &self.A_log {
                Some(a_log) => a_log.val(),
                None => Tensor::zeros([h, s], &device),
            },
            bias: match biases.is_empty() {
                false => joined(biases),
                true => Tensor::zeros([1], &device),
            },
        };
        memory_gates(self.rule, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_lives_are_log_spaced_states_first() {
        let lives = half_lives(2, 3, [4.0, 128.0]);
        // Rank s·H + i: head 0 has ranks 0, 2, 4 and head 1 ranks 1, 3, 5 of 0..=5.
        let expected = [4.0, 16.0, 64.0, 8.0, 32.0, 128.0];
        for (life, expected) in lives.iter().zip(expected) {
            assert!((life - expected).abs() < 1e-9, "{lives:?}");
        }
        assert_eq!(half_lives(1, 1, [4.0, 64.0]), [4.0]);
    }
}
