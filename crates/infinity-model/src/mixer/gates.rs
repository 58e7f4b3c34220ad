//! The gates of the memory: parameters and projections, all linear in the normed input and kept in
//! f32. What becomes of the projections is [`memory_gates`]'s.

// `A_log` is Mamba's name, and the name in weight files.
#![allow(non_snake_case)]

use crate::config::{Decay, MemoryUpdate, ModelConfig};
use crate::init::Init;
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use infinity_kernels::linear::linear;
use infinity_kernels::memory_gates::{DecayRule, GateInputs, GateRule, GateValues, memory_gates};

/// Projections and constants of the gates. What a configuration does not use is not there.
#[derive(Module, Debug)]
pub struct Gates {
    pub(crate) decay_proj: Option<Linear>,
    pub(crate) A_log: Option<Param<Tensor<2>>>,
    pub(crate) dt_bias: Option<Param<Tensor<2>>>,
    pub(crate) beta_proj: Linear,
    pub(crate) write_proj: Option<Linear>,
    pub(crate) read_proj: Option<Linear>,
    pub(crate) memory_gate_proj: Option<Linear>,
    #[module(skip)]
    rule: GateRule,
}

/// Half-lives in tokens, log-spaced from 4 to the longest over states and then heads, `[H, S]`.
fn half_lives(n_heads: usize, n_states: usize, longest: f64) -> Vec<f64> {
    let steps = (n_heads * n_states - 1).max(1) as f64;
    let exponent = |rank: usize| 2.0 + (longest.log2() - 2.0) * rank as f64 / steps;
    (0..n_heads)
        .flat_map(|head| (0..n_states).map(move |state| state * n_heads + head))
        .map(|rank| exponent(rank).exp2())
        .collect()
}

impl Gates {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let (h, s, width) = (
            config.num_attention_heads,
            config.num_states(),
            config.hidden_size,
        );
        let starts: Vec<f32> = half_lives(h, s, config.max_half_life())
            .into_iter()
            .map(|half_life| (std::f64::consts::LN_2 / half_life).exp_m1().ln() as f32)
            .collect();
        let learned = config.decay == Decay::Adaptive;
        let per_state = |values: Vec<f32>| {
            let param: Param<Tensor<2>> = init.values(values, [h, s]);
            param.set_require_grad(learned)
        };
        let decays = config.decay != Decay::None;
        let dt_bias = decays.then(|| per_state(starts));
        let a_log = decays.then(|| per_state(vec![0.0; h * s]));
        Gates {
            decay_proj: learned.then(|| init.linear(width, h * s)),
            A_log: a_log,
            dt_bias,
            beta_proj: init.linear(width, h),
            write_proj: (s > 1).then(|| init.linear_with_bias(width, h * s, 0.0)),
            read_proj: (s > 1).then(|| init.linear_with_bias(width, h * s, 0.0)),
            memory_gate_proj: config
                .has_memory_gate()
                .then(|| init.linear_with_bias(width, h, config.gate_init_bias)),
            rule: GateRule {
                n_heads: h,
                n_states: s,
                delta: config.memory_update == MemoryUpdate::Delta,
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

    /// One weight `[D, N]` for all gates: alone, each is far too thin for a product.
    pub(super) fn weight(&self) -> Tensor<2> {
        let weights = self.projections().map(|proj| proj.weight.val());
        Tensor::cat(weights.collect(), 1)
    }

    /// All gates for the normed input `[B, T, D]`.
    pub(super) fn forward(&self, x: &Tensor<3>) -> GateValues {
        self.values(linear(x.clone(), self.weight()))
    }

    /// All gates for the normed input times [`weight`](Self::weight), `[B, T, N]`.
    pub(super) fn values(&self, projections: Tensor<3>) -> GateValues {
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
                false => Tensor::cat(biases, 0),
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
        let lives = half_lives(2, 3, 128.0);
        // Rank s·H + i: head 0 has ranks 0, 2, 4 and head 1 ranks 1, 3, 5 of 0..=5.
        let expected = [4.0, 16.0, 64.0, 8.0, 32.0, 128.0];
        for (life, expected) in lives.iter().zip(expected) {
            assert!((life - expected).abs() < 1e-9, "{lives:?}");
        }
        assert_eq!(half_lives(1, 1, 64.0), [4.0]);
    }
}
