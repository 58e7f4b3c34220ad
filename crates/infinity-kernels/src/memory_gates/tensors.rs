//! The gates on tensors, on any device.

use super::rule::{DecayRule, GateRule, Sections};
use burn::tensor::{Tensor, TensorData, activation};

/// What [`memory_gates`](super::memory_gates()) takes.
#[derive(Clone, Debug)]
pub struct GateInputs {
    /// `[B, T, width]`, in `f32`.
    pub projections: Tensor<3>,
    /// `[H, S]`; not read where nothing decays.
    pub a_log: Tensor<2>,
    /// `[bias_width]`; not read where that is 0.
    pub bias: Tensor<1>,
}

/// What `memory_scan` is given, `[B, T, H, S]` each.
#[derive(Clone, Debug)]
pub struct GateValues {
    /// Log decay, at most 0.
    pub log_decay: Tensor<4>,
    /// Weight of every state in the output.
    pub read: Tensor<4>,
    /// Weight of every state in a write.
    pub write: Tensor<4>,
    /// Weight of every state in what a write corrects; with delta writes only.
    pub erase: Option<Tensor<4>>,
}

/// The gates of every token, as [`memory_gates`](super::memory_gates()).
pub fn memory_gates(rule: GateRule, inputs: GateInputs) -> GateValues {
    let [b, t, _] = inputs.projections.dims();
    let gates = OnTensors {
        dims: [b, t, rule.n_heads, rule.n_states],
        of: Sections::of(&rule),
        inputs,
    };
    let log_decay = gates.log_decay();
    let beta = activation::sigmoid(gates.per_head(gates.of.beta));
    let beta = match rule.doubled {
        true => beta * rule.strongest(),
        false => beta,
    };
    let allocation = match gates.of.write {
        Some(at) => {
            let z = gates.per_state(at);
            (activation::log_softmax(z, 3) * 0.5).exp()
        }
        None => Tensor::ones(gates.dims, &log_decay.device()),
    };
    let written = allocation.clone() * beta.clone();
    // 1 − exp(2g) is −tanh(g) (exp(2g) + 1), which keeps its digits for slow decays.
    let keeps_size = !rule.delta && rule.decay != DecayRule::None;
    let write = match keeps_size {
        true => {
            let g = log_decay.clone();
            written * (g.clone().tanh().neg() * ((g * 2.0).exp() + 1.0)).sqrt()
        }
        false => written,
    };
    GateValues {
        log_decay,
        read: gates.read().unwrap_or_else(|| allocation.ones_like()),
        write,
        erase: rule.delta.then_some(allocation),
    }
}

/// Projections and biases with the places in them.
struct OnTensors {
    /// `[B, T, H, S]`.
    dims: [usize; 4],
    of: Sections,
    inputs: GateInputs,
}

impl OnTensors {
    fn per_head(&self, at: usize) -> Tensor<4> {
        let [b, t, h, _] = self.dims;
        let z = self.inputs.projections.clone().narrow(2, at, h);
        z.reshape([b, t, h, 1])
    }

    fn per_state(&self, [at, bias]: [usize; 2]) -> Tensor<4> {
        let [_, _, h, s] = self.dims;
        let z = self.inputs.projections.clone().narrow(2, at, h * s);
        z.reshape(self.dims) + self.bias(bias, s)
    }

    /// `each` values a head.
    fn bias(&self, at: usize, each: usize) -> Tensor<4> {
        let [_, _, h, _] = self.dims;
        let bias = self.inputs.bias.clone().narrow(0, at, h * each);
        bias.reshape([1, 1, h, each])
    }

    fn log_decay(&self) -> Tensor<4> {
        let [_, _, h, s] = self.dims;
        let Some(dt_bias) = self.of.decay else {
            return Tensor::zeros(self.dims, &self.inputs.projections.device());
        };
        let steps = match self.of.steps {
            Some(at) => self.per_state([at, dt_bias]),
            None => self.bias(dt_bias, s).expand(self.dims),
        };
        // softplus(x) = max(x, 0) + ln(1 + exp(−|x|)), which overflows nowhere.
        let softplus = activation::relu(steps.clone()) + steps.abs().neg().exp().log1p();
        let rate = self.inputs.a_log.clone().exp().neg();
        softplus * rate.reshape([1, 1, h, s])
    }

    /// Read weights, the memory-or-context gate included; `None` where all are one.
    fn read(&self) -> Option<Tensor<4>> {
        let [_, _, _, s] = self.dims;
        let read = self
            .of
            .read
            .map(|at| activation::sigmoid(self.per_state(at)) * (2.0 * (s as f64).powf(-0.5)));
        let Some([at, bias]) = self.of.memory else {
            return read;
        };
        let m = activation::sigmoid(self.per_head(at) + self.bias(bias, 1));
        // 2(1 − m) on state 0 and 2m on the others, as offset + slope · m.
        let row = |first: f32, others: f32| {
            let mut values = vec![others; s];
            values[0] = first;
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, s]), &m.device())
        };
        let side = m.clone() * row(-2.0, 2.0) + row(2.0, 0.0);
        Some(match read {
            Some(read) => read * side,
            None => side,
        })
    }
}
