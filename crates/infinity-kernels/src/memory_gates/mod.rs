//! The gates of the multi-scale memory, from one vector of projections a token.
//!
//! ```text
//! g    = −exp(A_log) · softplus(z_g + dt_bias)          log decay
//! beta = sigmoid(z_β), or 2 sigmoid(z_β)                write strength
//! a    = sqrt(softmax_S(z_a + c_a))                     allocation, ‖a‖₂ = 1
//! r    = S^(−1/2) · 2 · sigmoid(z_r + c_r)              read weights
//! m    = sigmoid(z_m + c_m)                             memory or context
//! ```
//!
//! With delta writes `erase = a`, `write = a beta`; additive ones `write = a beta sqrt(1 − exp(2g))`.
//! State 0 is the context, read with `2(1 − m) r`; states 1.. are the memory, read with `2m r`.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
mod rule;
pub mod tensors;

pub use rule::{DecayRule, GateRule};
pub use tensors::{GateInputs, GateValues};

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::assert_shape;

/// The gates of every token.
///
/// # Panics
///
/// If a shape is not what `rule` says.
#[track_caller]
pub fn memory_gates(rule: GateRule, inputs: GateInputs) -> GateValues {
    let (h, s) = (rule.n_heads, rule.n_states);
    assert_shape!(inputs.projections, [_, _, rule.width()]);
    if rule.decay != DecayRule::None {
        assert_shape!(inputs.a_log, [h, s]);
    }
    if rule.bias_width() > 0 {
        assert_shape!(inputs.bias, [rule.bias_width()]);
    }
    if !operator::has_row_kernels(&inputs.projections.device()) {
        return tensors::memory_gates(rule, inputs);
    }
    let (a_log, bias) = (inputs.a_log.into_dispatch(), inputs.bias.into_dispatch());
    let inputs = vec![inputs.projections.into_dispatch(), a_log, bias];
    let mut gates = operator::run(Gates(rule), inputs);
    GateValues {
        log_decay: gates.take(),
        read: gates.take(),
        write: gates.take(),
        erase: rule.delta.then(|| gates.take()),
    }
}

/// Projections, `A_log` and biases to log decay, read, write and, with delta writes, erase.
#[derive(Clone, Debug)]
struct Gates(GateRule);

impl Operator for Gates {
    const NAME: &'static str = "memory_gates";

    cpu_kernel! {
        |self, [z, a_log, bias]| cpu::forward(self.0, [z, a_log, bias]);
        |self, [z, a_log, bias], d| cpu::backward(self.0, [z, a_log, bias], d)
    }

    gpu_kernel! {
        |self, specs| {
            let [b, t, _] = specs[0].shape.dims();
            let shape = [b, t, self.0.n_heads, self.0.n_states];
            vec![operator::spec(shape, specs[0].dtype); 3 + usize::from(self.0.delta)]
        };
        |self, [z, a_log, bias]| gpu::forward(self.0, [z, a_log, bias]);
        |self, [z, a_log, bias], d| gpu::backward(self.0, [z, a_log, bias], d)
    }
}
