//! Muon's step of matrices (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>): momentum, made
//! orthogonal by [`newton_schulz`](crate::newton_schulz), is what moves the weights.
//!
//! ```text
//! M ← s G + μ M        U = newton_schulz(s G + μ M)        W ← (1 − δ) W − η U
//! ```
//!
//! Cautious decay takes `δ W` only where `U` makes `W` smaller (Chen et al. 2025, arXiv:2510.12402).

#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
mod rule;
pub mod tensors;

pub use rule::{Matrix, Muon};

use crate::operator::{self, Operator, gpu_kernel};
use crate::{each_in_pool, has_pool};
use burn::tensor::Tensor;

/// Weights and momentum of each of `matrices` after its step. On a CPU its threads take them among themselves; on a
/// GPU those of one shape and rule take the launches of one.
pub fn muon(matrices: Vec<Matrix>) -> Vec<(Tensor<2>, Tensor<2>)> {
    let Some(device) = matrices.first().map(|matrix| matrix.weights.device()) else {
        return Vec::new();
    };
    if has_pool(&device) || !operator::has_gpu_kernels(&device) {
        return each_in_pool(&device, matrices, tensors::muon);
    }
    let alike = |matrix: &Matrix| (matrix.rule, matrix.weights.dims());
    operator::by_key(matrices, alike, |(rule, _), matrices| {
        let n = matrices.len();
        let inputs = matrices.into_iter().flat_map(|matrix| {
            let velocity = matrix.velocity.unwrap_or_else(|| matrix.grad.zeros_like());
            [matrix.weights, matrix.grad, velocity].map(Tensor::into_dispatch)
        });
        let mut results = operator::run(Step(rule), inputs.collect());
        (0..n).map(|_| (results.take(), results.take())).collect()
    })
}

/// Weights, gradient and momentum of one matrix after the other to weights and momentum of each, on GPUs.
#[derive(Clone, Debug)]
struct Step(#[cfg_attr(not(feature = "cube"), allow(dead_code))] Muon);

impl Operator for Step {
    const NAME: &'static str = "muon";

    gpu_kernel! {
        |self, specs| specs.chunks(3).flat_map(|one| [one[0].clone(), one[2].clone()]).collect::<Vec<_>>();
        |self, inputs| gpu::step(self.0, inputs)
    }
}
