//! AdamW's update of one parameter (Loshchilov and Hutter 2019, arXiv:1711.05101), in one pass.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! w ← (1 − η λ) w − η · (m / (1 − β₁ᵗ)) / (sqrt(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! Operations and their order are those of Burn's optimizer, so the results have the same bits.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
pub mod tensors;

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::{Tensor, assert_shape};

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment, `β₁`.
    pub beta1: f32,
    /// Decay of the second moment, `β₂`.
    pub beta2: f32,
    /// Added to the root of the second moment, `ε`.
    pub eps: f32,
    /// `η`.
    pub learning_rate: f64,
    /// `λ`; the weights lose `η λ` of themselves.
    pub weight_decay: f64,
    /// The number of this update, `t`, counted from 1.
    pub time: i32,
}

/// The scalars of an update as every body uses them, in `f32`.
#[derive(Clone, Copy, Debug)]
struct Factors {
    beta1: f32,
    beta2: f32,
    /// `1 − β₁` and `1 − β₂`.
    rest: [f32; 2],
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`.
    corrections: [f32; 2],
    eps: f32,
    learning_rate: f32,
    /// `1 − η λ`.
    kept: f32,
}

impl AdamW {
    fn factors(&self) -> Factors {
        Factors {
            beta1: self.beta1,
            beta2: self.beta2,
            rest: [1.0 - self.beta1, 1.0 - self.beta2],
            corrections: [
                1.0 - self.beta1.powi(self.time),
                1.0 - self.beta2.powi(self.time),
            ],
            eps: self.eps,
            learning_rate: self.learning_rate as f32,
            kept: (1.0 - self.learning_rate * self.weight_decay) as f32,
        }
    }
}

/// Weights, first and second moment after an update, all of one length, given those before it and the
/// gradient; moments begin as zeros. In `f32`, without autodiff.
///
/// # Panics
///
/// If the lengths differ.
#[track_caller]
pub fn adamw(
    rule: AdamW,
    weights: Tensor<1>,
    grad: Tensor<1>,
    moments: [Tensor<1>; 2],
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let [len] = weights.dims();
    assert_shape!(grad, [len]);
    assert_shape!(moments[0], [len]);
    assert_shape!(moments[1], [len]);
    if !operator::has_row_kernels(&weights.device()) {
        return tensors::adamw(rule, weights, grad, moments);
    }
    let [first, second] = moments;
    let inputs = [weights, grad, first, second];
    let inputs = inputs.map(Tensor::into_dispatch).into();
    let mut results = operator::run(Update(rule), inputs);
    (results.take(), [results.take(), results.take()])
}

/// Weights, gradient and moments to weights and moments.
#[derive(Clone, Debug)]
struct Update(AdamW);

impl Operator for Update {
    const NAME: &'static str = "adamw";

    cpu_kernel!(|self, [w, g, m, v]| cpu::update(self.0.factors(), [w, g, m, v]));

    gpu_kernel! {
        |self, specs| [specs[0].clone(), specs[2].clone(), specs[3].clone()];
        |self, [w, g, m, v]| gpu::update(self.0.factors(), [w, g, m, v])
    }
}
