//! The global norm of the gradient, and clipping by it.

use super::in_pool_of;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use infinity_kernels::has_pool;
use infinity_kernels::square_sum::square_sum;

/// The norm of all gradients together, and what they are to be multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    /// Their norm, in the right scale.
    pub norm: f64,
    /// What brings them to their right scale and, where the norm is above its limit, down to that; 1 where it is not
    /// finite.
    pub factor: f64,
}

/// Measures gradients that are `scale` times too large, for a norm of at most `max_norm` (0: of any).
pub fn clip<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    scale: f64,
    max_norm: f64,
) -> (GradientsParams, Clip) {
    // On a CPU each of these small operations would wake a thread.
    in_pool_of(&model.devices(), || {
        let mut squares = Squares {
            grads: &grads,
            sum: None,
            others: Vec::new(),
        };
        model.visit(&mut squares);
        let Squares { sum, others, .. } = squares;
        let sum = sum.or_else(|| (!others.is_empty()).then(|| square_sum(others)));
        let norm = sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt()) / scale;
        let factor = match max_norm > 0.0 && norm > max_norm {
            _ if !norm.is_finite() => 1.0,
            true => max_norm / norm / scale,
            false => 1.0 / scale,
        };
        (grads, Clip { norm, factor })
    })
}

/// The sum of all squares: on a CPU as far as it has come, elsewhere of what is still to be added up together.
struct Squares<'a> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<1>>,
    others: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            if !has_pool(&grad.device()) {
                return self.others.push(grad.reshape([-1]));
            }
            let square = grad.cast(DType::F32).square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}
