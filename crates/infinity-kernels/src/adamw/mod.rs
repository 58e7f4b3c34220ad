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
mod rule;
pub mod tensors;

pub use rule::AdamW;

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::{Tensor, assert_shape};

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
