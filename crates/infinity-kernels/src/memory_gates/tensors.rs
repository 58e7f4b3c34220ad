//! The gates on tensors, on any device.

use super::rule::{GateRule, Sections};
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
    let GateInputs {
        projections,
        a_log,
        bias,
    } = inputs;
    let ([b, t, _], device) = (projections.dims(), projections.device());
    let (h, s, of) = (rule.n_heads, rule.n_states, Sections::of(&rule));
    let dims = [b, t, h, s];
    // So many values a head, from one on; `both` adds the biases of a section.
    let values = |at: usize, each: usize| {
        let z = projections.clone().narrow(2, at, h * each);
        z.reshape([b, t, h, each])
    };
    let biases = |at: usize, each: usize| {
        let bias = bias.clone().narrow(0, at, h * each);
        bias.reshape([1, 1, h, each])
    };
    let both = |[at, bias]: [usize; 2], each| values(at, each) + biases(bias, each);

    let steps = of.decay.map(|bias| match of.steps {
        Some(at) => both([at, bias], s),
        None => biases(bias, s).expand(dims),
    });
    let log_decay = match steps {
        Some(steps) => {
            // softplus(x) = max(x, 0) + ln(1 + exp(−|x|)), which overflows nowhere.
            let softplus = activation::relu(steps.clone()) + steps.abs().neg().exp().log1p();
            softplus * a_log.exp().neg().reshape([1, 1, h, s])
        }
        None => Tensor::zeros(dims, &device),
    };
    let beta = activation::sigmoid(values(of.beta, 1));
    let beta = match rule.doubled {
        true => beta * rule.strongest(),
        false => beta,
    };
    let allocation = match of.write {
        Some(at) => (activation::log_softmax(both(at, s), 3) * 0.5).exp(),
        None => Tensor::ones(dims, &device),
    };
    let written = allocation.clone() * beta;
    // 1 − exp(2g) is −tanh(g) (exp(2g) + 1), which keeps its digits for slow decays.
    let write = match rule.keeps_size() {
        true => {
            let g = log_decay.clone();
            written * (g.clone().tanh().neg() * ((g * 2.0).exp() + 1.0)).sqrt()
        }
        false => written,
    };
    let scale = 2.0 * (s as f64).powf(-0.5);
    let open = of.read.map(|at| activation::sigmoid(both(at, s)) * scale);
    // 2(1 − m) on state 0 and 2m on the others, as offset + slope · m.
    let side = of.memory.map(|at| {
        let m = activation::sigmoid(both(at, 1));
        let row = |first: f32, others: f32| {
            let mut values = vec![others; s];
            values[0] = first;
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, s]), &device)
        };
        m * row(-2.0, 2.0) + row(2.0, 0.0)
    });
    let read = match (open, side) {
        (Some(open), Some(side)) => open * side,
        (open, side) => open.or(side).unwrap_or_else(|| allocation.ones_like()),
    };
    GateValues {
        log_decay,
        read,
        write,
        erase: rule.delta.then_some(allocation),
    }
}
