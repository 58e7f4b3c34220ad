//! The global norm of the gradient, and clipping by it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::square_sum::square_sum;
use infinity_kernels::{has_pool, in_pool};

/// The norm of all gradients together, and the gradients scaled down to `max_norm` (0: as they
/// are). A norm that is not finite is returned with the gradients untouched.
pub fn clip<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    max_norm: f64,
) -> (GradientsParams, f64) {
    clip_scaled(model, grads, 1.0, max_norm)
}

/// [`clip`] for gradients that are `scale` times too large: the norm is that of the right ones,
/// and they are divided by `scale`.
pub fn clip_scaled<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    scale: f64,
    max_norm: f64,
) -> (GradientsParams, f64) {
    let (mut grads, Clip { norm, factor }) = measure(model, grads, scale, max_norm);
    if factor != 1.0 {
        let grads = &mut grads;
        pooled(&model.devices(), || {
            model.visit(&mut Scale { grads, factor })
        });
    }
    (grads, norm)
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clip {
    /// Their norm, in the right scale.
    pub(crate) norm: f64,
    /// They are multiplied by this; by 1 where the norm is not finite.
    pub(crate) factor: f64,
}

/// The first half of [`clip_scaled`]: the gradients as they are, and what is to be done with them.
pub(crate) fn measure<M: Module + Sync>(
    model: &M,
    grads: GradientsParams,
    scale: f64,
    max_norm: f64,
) -> (GradientsParams, Clip) {
    pooled(&model.devices(), || {
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

/// Runs `work` where the kernels' threads are: on a CPU each of these small operations would wake
/// one.
pub(super) fn pooled<R: Send>(devices: &[Device], work: impl FnOnce() -> R + Send) -> R {
    match devices.first() {
        Some(device) => in_pool(device, work),
        None => work(),
    }
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

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad * self.factor);
        }
    }
}
