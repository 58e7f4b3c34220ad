//! Newton–Schulz iteration towards the nearest matrix with orthonormal rows or columns: what Muon
//! does to its momentum (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>).
//!
//! ```text
//! A = X Xᵀ      X ← G / ‖G‖,  X ← X / ‖A²‖^¼      three times: X ← a X + (b A + c A²) X
//! ```
//!
//! `‖A²‖^¼` is the eighth root of the sum of the eighth powers of the singular values: no less than the largest of them, and
//! hardly more. Every step has coefficients of its own. They take singular values from 0.01 of it on to (0.71, 1.29), not to
//! 1: that is enough for an update and needs few steps.

#[cfg(feature = "flex")]
mod cpu;
pub mod reference;
pub mod tensors;

use crate::operator::{self, Operator, cpu_kernel};
use burn::tensor::Tensor;

/// The iteration for `g` `[rows, columns]`. Not differentiable: give it a tensor without autodiff.
pub fn newton_schulz(g: Tensor<2>) -> Tensor<2> {
    if operator::on_cpu(&g.device()) {
        return operator::run(NewtonSchulz, vec![g.into_dispatch()]).take();
    }
    tensors::newton_schulz(g)
}

/// A matrix to its iteration.
#[derive(Clone, Debug)]
struct NewtonSchulz;

impl Operator for NewtonSchulz {
    const NAME: &'static str = "newton_schulz";

    cpu_kernel!(|self, [g]| [cpu::forward(g)]);
}
