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
pub mod tensors;

use crate::newton_schulz::tensors::newton_schulz_stacked;
use crate::operator::{self, Operator, gpu_kernel};
use crate::{each_in_pool, has_pool};
use burn::tensor::Tensor;

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// `μ`.
    pub momentum: f32,
    /// `s`: the gradient is this times what is given.
    pub scale: f64,
    /// `η`.
    pub rate: f64,
    /// `δ`.
    pub decay: f64,
    /// Whether decay is cautious.
    pub cautious: bool,
}

/// A matrix in front of its step: all of one shape, in `f32`, without autodiff.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The numbers of its step.
    pub rule: Muon,
    /// What is moved.
    pub weights: Tensor<2>,
    /// The gradient, times one over [`Muon::scale`].
    pub grad: Tensor<2>,
    /// `M`; before the first step there is none.
    pub velocity: Option<Tensor<2>>,
}

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
    let mut all_weights = Vec::new();
    let mut inputs = Vec::new();
    for Matrix {
        weights,
        grad,
        velocity,
        ..
    } in matrices
    {
        let velocity = velocity.unwrap_or_else(|| grad.zeros_like());
        inputs.extend([grad, velocity].map(Tensor::into_dispatch));
        all_weights.push(weights);
    }
    let mut results = operator::run(Momentum(rule), inputs);
    let velocities: Vec<Tensor<2>> = all_weights.iter().map(|_| results.take()).collect();
    let orthogonal = newton_schulz_stacked(results.take::<3>());
    let weights: Vec<Tensor<2>> = if rule.cautious && rule.decay != 0.0 {
        let one = |(i, weights)| {
            let orthogonal = orthogonal.clone().narrow(0, i, 1).squeeze_dim(0);
            tensors::moved(rule, weights, orthogonal)
        };
        all_weights.into_iter().enumerate().map(one).collect()
    } else {
        let n = all_weights.len();
        let weights = all_weights.into_iter().map(Tensor::into_dispatch);
        let inputs = std::iter::once(orthogonal.into_dispatch()).chain(weights);
        let mut results = operator::run(Moved(rule), inputs.collect());
        (0..n).map(|_| results.take()).collect()
    };
    weights.into_iter().zip(velocities).collect()
}

/// Gradient and momentum of one matrix after the other to the momenta, and all that is to be made orthogonal,
/// `[matrices, rows, columns]`.
#[derive(Clone, Debug)]
struct Momentum(#[cfg_attr(not(feature = "cube"), allow(dead_code))] Muon);

impl Operator for Momentum {
    const NAME: &'static str = "muon_momentum";

    gpu_kernel! {
        |self, specs| {
            let mut results: Vec<_> = specs.iter().skip(1).step_by(2).cloned().collect();
            let [rows, columns] = specs[0].shape.dims();
            let shape = [results.len(), rows, columns].into();
            let all = burn::backend::fusion::custom::TensorSpec::new(shape, specs[0].dtype);
            results.push(all);
            results
        };
        |self, inputs| gpu::momentum(self.0, inputs)
    }
}

/// Orthogonal updates `[matrices, rows, columns]` and the weights of every matrix to the weights after them.
#[derive(Clone, Debug)]
struct Moved(#[cfg_attr(not(feature = "cube"), allow(dead_code))] Muon);

impl Operator for Moved {
    const NAME: &'static str = "muon_moved";

    gpu_kernel! {
        |self, specs| specs[1..].to_vec();
        |self, inputs| gpu::moved(self.0, inputs)
    }
}
