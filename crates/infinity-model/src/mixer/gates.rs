//! The gates of the memory, all linear in the normed input and kept in f32.
//!
//! ```text
//! g    = −exp(A_log) · softplus(W_g x + dt_bias)        log decay
//! beta = sigmoid(W_β x)                                 write strength
//! a    = sqrt(softmax_S(W_a x + c_a))                   allocation, ‖a‖₂ = 1
//! r    = S^(−1/2) · 2 · sigmoid(W_r x + c_r)            read weights
//! m    = sigmoid(W_m x + gate_init_bias)                memory or context
//! ```
//!
//! State 0 is the context, read with `2(1 − m)`; states 1.. are the memory, read with `2m`.

// `A_log` is Mamba's name, and the name in weight files.
#![allow(non_snake_case)]

use super::heads;
use crate::config::{Decay, MemoryUpdate, ModelConfig};
use crate::init::Init;
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor, TensorData, activation};

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
    n_heads: usize,
    n_states: usize,
    delta: bool,
}

/// What the operator is given, `[B, T, H, S]` each.
pub(super) struct GateValues {
    pub(super) log_decay: Tensor<4>,
    pub(super) read: Tensor<4>,
    pub(super) write: Tensor<4>,
    pub(super) erase: Option<Tensor<4>>,
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
            n_heads: h,
            n_states: s,
            delta: config.memory_update == MemoryUpdate::Delta,
        }
    }

    /// All gates for the normed input `[B, T, D]`.
    pub(super) fn forward(&self, x: &Tensor<3>) -> GateValues {
        let log_decay = self.log_decay(x);
        let beta = activation::sigmoid(self.project(&self.beta_proj, x));
        let write = self
            .write_proj
            .as_ref()
            .map(|proj| (activation::log_softmax(self.project(proj, x), 3) * 0.5).exp());
        let read = self.read(x, &beta);
        if self.delta {
            let erase = write.unwrap_or_else(|| beta.ones_like());
            return GateValues {
                log_decay,
                read,
                write: erase.clone() * beta,
                erase: Some(erase),
            };
        }
        let write = match write {
            Some(write) => write * beta,
            None => beta,
        };
        // sqrt(1 − exp(2g)) keeps the size of an additive memory; written with tanh, because
        // 1 − exp(2g) has no digits left for slow decays. Without decay there is nothing to keep.
        let write = match &self.dt_bias {
            Some(_) => {
                let g = log_decay.clone();
                write * (g.clone().tanh().neg() * ((g * 2.0).exp() + 1.0)).sqrt()
            }
            None => write,
        };
        GateValues {
            log_decay,
            read,
            write,
            erase: None,
        }
    }

    fn project(&self, proj: &Linear, x: &Tensor<3>) -> Tensor<4> {
        heads(proj.forward(x.clone()), self.n_heads).cast(DType::F32)
    }

    fn log_decay(&self, x: &Tensor<3>) -> Tensor<4> {
        let (h, s) = (self.n_heads, self.n_states);
        let [b, t, _] = x.dims();
        let (Some(a_log), Some(dt_bias)) = (&self.A_log, &self.dt_bias) else {
            return Tensor::zeros([b, t, h, s], &x.device());
        };
        let bias = dt_bias.val().reshape([1, 1, h, s]);
        let steps = match &self.decay_proj {
            Some(proj) => self.project(proj, x) + bias,
            None => bias.expand([b, t, h, s]),
        };
        // softplus(x) = max(x, 0) + ln(1 + exp(−|x|)), which overflows nowhere.
        let softplus = activation::relu(steps.clone()) + steps.abs().neg().exp().log1p();
        softplus * a_log.val().exp().neg().reshape([1, 1, h, s])
    }

    /// Read weights, the memory-or-context gate included.
    fn read(&self, x: &Tensor<3>, like: &Tensor<4>) -> Tensor<4> {
        let Some(proj) = &self.read_proj else {
            return like.ones_like();
        };
        let s = self.n_states;
        let scale = 2.0 * (s as f64).powf(-0.5);
        let read = activation::sigmoid(self.project(proj, x)) * scale;
        let Some(proj) = &self.memory_gate_proj else {
            return read;
        };
        let m = activation::sigmoid(self.project(proj, x)); // [B, T, H, 1]
        // 2(1 − m) on state 0 and 2m on the others, as offset + slope · m.
        let row = |first: f32, others: f32| {
            let values = (0..s)
                .map(|state| if state == 0 { first } else { others })
                .collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, s]), &x.device())
        };
        read * (m * row(-2.0, 2.0) + row(2.0, 0.0))
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
