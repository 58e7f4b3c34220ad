//! What a norm does beside its inputs.

use burn::tensor::{Tensor, activation};

/// What becomes of a gate before it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateAct {
    /// `σ(g)`.
    Sigmoid,
    /// `g σ(g)`.
    Silu,
}

impl GateAct {
    /// The activation on tensors.
    pub fn apply<const D: usize>(self, gate: Tensor<D>) -> Tensor<D> {
        match self {
            GateAct::Sigmoid => activation::sigmoid(gate),
            GateAct::Silu => activation::silu(gate),
        }
    }
}

/// Inputs, weight and, where there is one, gate to the norm.
#[derive(Clone, Copy, Debug)]
pub(super) struct RmsNorm {
    pub(super) eps: f32,
    /// Of the gate.
    pub(super) act: GateAct,
}
