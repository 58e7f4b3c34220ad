//! AdamW's update of parameters (Loshchilov and Hutter 2019, arXiv:1711.05101), in one pass.
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

pub use rule::{AdamW, Parameter};

use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::tensor::{Tensor, assert_shape};

/// Weights and moments of each parameter after its update, on a GPU in few launches for all.
///
/// # Panics
///
/// If lengths of one parameter differ.
#[track_caller]
pub fn adamw(parameters: Vec<Parameter>) -> Vec<(Tensor<1>, [Tensor<1>; 2])> {
    for one in &parameters {
        let [len] = one.weights.dims();
        assert_shape!(one.grad, [len]);
        assert_shape!(one.moments[0], [len]);
        assert_shape!(one.moments[1], [len]);
    }
    match parameters.first().map(|one| one.weights.device()) {
        Some(device) if operator::has_gpu_kernels(&device) => together(parameters),
        _ => parameters.into_iter().map(alone).collect(),
    }
}

fn alone(parameter: Parameter) -> (Tensor<1>, [Tensor<1>; 2]) {
    match operator::on_cpu(&parameter.weights.device()) {
        true => together(vec![parameter]).swap_remove(0),
        false => tensors::adamw(parameter),
    }
}

/// One operation for all parameters with the same numbers.
fn together(parameters: Vec<Parameter>) -> Vec<(Tensor<1>, [Tensor<1>; 2])> {
    let update = |one: &Parameter| Update(one.rule.factors());
    operator::by_key(parameters, update, |update, parameters| {
        let n = parameters.len();
        let inputs = parameters.into_iter().flat_map(|one| {
            let [first, second] = one.moments;
            [one.weights, one.grad, first, second].map(Tensor::into_dispatch)
        });
        let mut results = operator::run(update, inputs.collect());
        let mut updated = || (results.take(), [results.take(), results.take()]);
        (0..n).map(|_| updated()).collect()
    })
}

/// Weights, gradient and moments of one parameter after the other to weights and moments.
#[derive(Clone, Debug, PartialEq)]
struct Update(rule::Factors);

impl Operator for Update {
    const NAME: &'static str = "adamw";

    cpu_kernel!(|self, [w, g, m, v]| cpu::update(self.0, [w, g, m, v]));

    gpu_kernel! {
        |self, specs| specs.chunks(4).flat_map(|one| [&one[..1], &one[2..]].concat()).collect::<Vec<_>>();
        |self, inputs| gpu::update(self.0, inputs)
    }
}
