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

/// Targets on a device.
#[derive(Clone, Debug)]
pub struct Targets(Kind);

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one a batch")]
enum Kind {
    /// `[N]`, in the numbers that kernels read, −1 where a target does not count.
    Kernel(Tensor<1>),
    Tensors {
        /// `[N, 1]`; ignored ones point at 0.
        ids: Tensor<2, Int>,
        /// `[N, 1]`, one where the target counts.
        counts: Tensor<2>,
    },
}

impl Targets {
    /// Those of `ids` `[N]` on `device`, which has no autodiff; negative ones do not count.
    pub fn new(ids: &[i32], device: &Device) -> Self {
        let n = ids.len();
        let floats = |value: &dyn Fn(i32) -> f32| ids.iter().map(|id| value(*id)).collect();
        Targets(if operator::has_gpu_kernels(device) {
            // Whole numbers up to 2²⁴ are the same in `f32`.
            let marked: Vec<f32> = floats(&|id| id.max(-1) as f32);
            Kind::Kernel(Tensor::from_data(TensorData::new(marked, [n]), device))
        } else {
            let counts: Vec<f32> = floats(&|id| f32::from(u8::from(id >= 0)));
            let ids: Vec<i32> = ids.iter().map(|id| (*id).max(0)).collect();
            Kind::Tensors {
                ids: Tensor::from_data(TensorData::new(ids, [n, 1]), device),
                counts: Tensor::from_data(TensorData::new(counts, [n, 1]), device),
            }
        })
    }

    /// `len` of them from `start` on.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Targets(match &self.0 {
            Kind::Kernel(marked) => Kind::Kernel(marked.clone().narrow(0, start, len)),
            Kind::Tensors { ids, counts } => Kind::Tensors {
                ids: ids.clone().narrow(0, start, len),
                counts: counts.clone().narrow(0, start, len),
            },
        })
    }
}

/// Losses `[N]` of `logits` `[N, V]` in any format, in `f32`. Not differentiable: give it tensors without autodiff.
///
/// # Panics
///
/// If there are other targets than `N`, or on another device.
#[track_caller]
pub fn cross_entropy(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let [n, _] = logits.dims();
    match &targets.0 {
        Kind::Kernel(marked) => run(logits, marked.clone(), None).take(),
        Kind::Tensors { ids, counts } => {
            assert_shape!(ids, [n, 1]);
            tensors::cross_entropy(logits, ids.clone(), counts.clone()).0
        }
    }
}

/// Losses as [`cross_entropy`]'s and the gradient of their sum, times `scale`, `[N, V]`: in the logits' format or
/// `f32`.
///
/// # Panics
///
/// As [`cross_entropy`].
#[track_caller]
pub fn with_gradient(logits: Tensor<2>, targets: &Targets, scale: f64) -> (Tensor<1>, Tensor<2>) {
    let [n, _] = logits.dims();
    match &targets.0 {
        Kind::Kernel(marked) => {
            let mut results = run(logits, marked.clone(), Some(scale as f32));
            (results.take(), results.take())
        }
        Kind::Tensors { ids, counts } => {
            assert_shape!(ids, [n, 1]);
            tensors::with_gradient(logits, ids.clone(), counts.clone(), scale)
        }
    }
}

#[track_caller]
fn run(logits: Tensor<2>, marked: Tensor<1>, scale: Option<f32>) -> operator::Results {
    let [n, _] = logits.dims();
    assert_shape!(marked, [n]);
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
