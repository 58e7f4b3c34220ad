//! The numbers of an update, and what every body makes of them.

use burn::tensor::Tensor;

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
    /// The gradient is this times what is given.
    pub scale: f64,
}

/// A parameter in front of its update: all of one length, in `f32`, without autodiff. Moments begin as zeros.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The numbers of its update.
    pub rule: AdamW,
    /// What is updated.
    pub weights: Tensor<1>,
    /// The gradient, times one over [`AdamW::scale`].
    pub grad: Tensor<1>,
    /// First and second moment.
    pub moments: [Tensor<1>; 2],
}

/// The scalars of an update as every body uses them, in `f32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Factors {
    /// Of the gradient.
    pub(super) scale: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    /// `1 − β₁` and `1 − β₂`.
    pub(super) rest: [f32; 2],
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`.
    pub(super) corrections: [f32; 2],
    pub(super) eps: f32,
    pub(super) learning_rate: f32,
    /// `1 − η λ`.
    pub(super) kept: f32,
}

impl AdamW {
    pub(super) fn factors(&self) -> Factors {
        Factors {
            scale: self.scale as f32,
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
