//! The numbers of a step, and what it takes.

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
