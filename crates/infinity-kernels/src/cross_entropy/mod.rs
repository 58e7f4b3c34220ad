//! Cross-entropy of logits over a vocabulary, and its gradient.
//!
//! ```text
//! loss_n = log Σ_v exp(x_nv) − x_n,target      d_nv = (exp(x_nv) / Σ_u exp(x_nu) − [v = target_n]) · scale
//! ```
//!
//! Both are 0 where the target does not count. On a GPU a row of logits is read by one cube and its gradient is
//! written by the same launch, in the format that the logits are in.

#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
pub mod tensors;

use crate::operator::{self, Backward, Forward, Operator, exactly, gpu_kernel};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData, assert_shape};

/// Targets on a device, `[N]`: as whole numbers in `f32`, which are the same up to 2²⁴, −1 where a target does not count.
#[derive(Clone, Debug)]
pub struct Targets(Tensor<1>);

impl Targets {
    /// Those of `ids` `[N]` on `device`, which has no autodiff; negative ones do not count.
    pub fn new(ids: &[i32], device: &Device) -> Self {
        let marked: Vec<f32> = ids.iter().map(|id| (*id).max(-1) as f32).collect();
        let data = TensorData::new(marked, [ids.len()]);
        Targets(Tensor::from_data(data, (device, DType::F32)))
    }

    /// `len` of them from `start` on.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Targets(self.0.clone().narrow(0, start, len))
    }

    /// Those of `logits`.
    #[track_caller]
    fn of(&self, logits: &Tensor<2>) -> Tensor<1> {
        let [n, _] = logits.dims();
        assert_shape!(self.0, [n]);
        self.0.clone()
    }

    /// Those of `logits` as columns: ids, 0 where a target does not count, and ones where it does.
    #[track_caller]
    fn columns(&self, logits: &Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
        let marked = self.of(logits).unsqueeze_dim::<2>(1);
        let counts = marked.clone().greater_equal_elem(0.0).float();
        (marked.clamp_min(0.0).int(), counts)
    }
}

/// Losses `[N]` of `logits` `[N, V]` in any format, in `f32`. Not differentiable: give it tensors without autodiff.
///
/// # Panics
///
/// If there are other targets than `N`, or on another device.
#[track_caller]
pub fn cross_entropy(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    if operator::has_gpu_kernels(&logits.device()) {
        return run(logits, targets, None).take();
    }
    let (ids, counts) = targets.columns(&logits);
    tensors::cross_entropy(logits, ids, counts).0
}

/// Losses as [`cross_entropy`]'s and the gradient of their sum, times `scale`, `[N, V]`: in the logits' format or
/// `f32`.
///
/// # Panics
///
/// As [`cross_entropy`].
#[track_caller]
pub fn with_gradient(logits: Tensor<2>, targets: &Targets, scale: f64) -> (Tensor<1>, Tensor<2>) {
    if operator::has_gpu_kernels(&logits.device()) {
        let mut results = run(logits, targets, Some(scale as f32));
        return (results.take(), results.take());
    }
    let (ids, counts) = targets.columns(&logits);
    tensors::with_gradient(logits, ids, counts, scale)
}

#[track_caller]
fn run(logits: Tensor<2>, targets: &Targets, scale: Option<f32>) -> operator::Results {
    let marked = targets.of(&logits);
    let inputs = vec![logits.into_dispatch(), marked.into_dispatch()];
    operator::run(CrossEntropy { scale }, inputs)
}

/// Logits and targets to losses, and to the gradient where it has a scale.
#[derive(Clone, Debug)]
struct CrossEntropy {
    #[cfg_attr(not(feature = "cube"), allow(dead_code))]
    scale: Option<f32>,
}

impl Operator for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    gpu_kernel! {
        |self, specs| {
            let mut d_logits = specs[0].clone();
            d_logits.dtype = crate::gpu::row_type(d_logits.dtype);
            let mut results = vec![specs[1].clone()];
            results.extend(self.scale.map(|_| d_logits));
            results
        };
        |self, [logits, marked]| gpu::cross_entropy(logits, marked, self.scale)
    }
}

/// Zero `[1]` whose gradients by `hidden` and `weight` are those given, outside any graph, times its own.
///
/// # Panics
///
/// If a gradient has another shape.
#[track_caller]
pub fn given_gradients(
    hidden: Tensor<3>,
    weight: Tensor<2>,
    (d_hidden, d_weight): (Tensor<3>, Tensor<2>),
) -> Tensor<1> {
    let ([b, t, d], [_, v]) = (hidden.dims(), weight.dims());
    assert_shape!(d_hidden, [b, t, d]);
    assert_shape!(d_weight, [d, v]);
    let inputs = vec![
        hidden.into_dispatch(),
        weight.into_dispatch(),
        d_hidden.into_dispatch(),
        d_weight.into_dispatch(),
    ];
    operator::run(Given, inputs).take()
}

/// Two tensors and their gradients to a scalar that has those.
#[derive(Clone, Debug)]
struct Given;

impl Operator for Given {
    const NAME: &'static str = "given_gradients";
    const CONSTANTS: usize = 2;

    fn composed<B: Backend>(&self, inputs: Vec<FloatTensor<B>>, _save: bool) -> Forward<B> {
        let device = inputs[0].device();
        Forward {
            results: vec![B::float_zeros(Shape::from([1]), &device, DType::F32.into())],
            saved: Vec::new(),
        }
    }

    fn composed_backward<B: Backend>(&self, call: Backward<B>) -> Vec<FloatTensor<B>> {
        let [_, _, d_hidden, d_weight] = exactly(call.inputs);
        let [grad] = exactly(call.grads);
        let times = |d: FloatTensor<B>| {
            let grad = B::float_cast(grad.clone(), d.dtype().into());
            let ones = Shape::from(vec![1; d.rank()]);
            B::float_mul(d, B::float_reshape(grad, ones))
        };
        [d_hidden, d_weight].map(times).into()
    }
}
