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
    let mut groups: Vec<(Muon, [usize; 2], Vec<usize>)> = Vec::new();
    for (i, matrix) in matrices.iter().enumerate() {
        let (rule, dims) = (matrix.rule, matrix.weights.dims());
        match groups.iter_mut().find(|(r, d, _)| *r == rule && *d == dims) {
            Some((.., all)) => all.push(i),
            None => groups.push((rule, dims, vec![i])),
        }
    }
    let mut matrices: Vec<_> = matrices.into_iter().map(Some).collect();
    let mut moved: Vec<_> = matrices.iter().map(|_| None).collect();
    for (rule, _, of) in groups {
        let group = of.iter().flat_map(|i| matrices[*i].take());
        for (i, result) in of.iter().zip(together(rule, group.collect())) {
            moved[*i] = Some(result);
        }
    }
    moved.into_iter().flatten().collect()
}

/// Matrices of one shape.
fn together(rule: Muon, matrices: Vec<Matrix>) -> Vec<(Tensor<2>, Tensor<2>)> {
    let n = matrices.len();
    let inputs = matrices.into_iter().flat_map(|matrix| {
        let Matrix {
            weights,
            grad,
            velocity,
            ..
        } = matrix;
        let velocity = velocity.unwrap_or_else(|| grad.zeros_like());
        [weights, grad, velocity].map(Tensor::into_dispatch)
    });
    let mut results = operator::run(Step(rule), inputs.collect());
    (0..n).map(|_| (results.take(), results.take())).collect()
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
