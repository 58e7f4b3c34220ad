//! A projection `x · W`: burn's, or the native kernels of the CPU.
//!
//! With a few rows it is little but reading the weights: the native kernel does that with all cores, each
//! weight touched once for all rows, and a row has the same bits whatever rows are beside it. With many rows
//! it is the large product that Burn takes too, on factors as they are stored, both ways; the gradient of the
//! input is one sum over all weights. On a GPU that trains, several projections are one product.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "flex")]
mod few_rows;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
#[cfg(feature = "flex")]
mod weight;

use crate::operator::{self, MOST_INPUTS, Operator, cpu_kernel, gpu_kernel};
#[cfg(feature = "cube")]
use crate::operator::{Backward, Forward, Layout};
use crate::rounding::Rounding;
#[cfg(feature = "cube")]
use burn::backend::{fusion::custom::TensorSpec, tensor::FloatTensor};
use burn::tensor::{DType, Device, FloatDType, Tensor, assert_shape, module};
#[cfg(feature = "cube")]
use burn_cubecl::CubeBackend;

/// Rows up to which reading the weights counts as much as computing with them: as many as are decoded at
/// once, with the same bits for a row in any company.
pub const FEW_ROWS: usize = 32;

/// Whether the device has a kernel for this projection.
fn is_native(x: &Tensor<3>, weight: &Tensor<2>, rounding: Option<Rounding>) -> bool {
    let [b, t, width] = x.dims();
    let [_, out] = weight.dims();
    let (device, rows) = (x.device(), b * t);
    if rows == 0 || width == 0 || out == 0 || !operator::on_cpu(&device) {
        return false;
    }
    let read = matches!(weight.dtype(), DType::F32 | DType::BF16);
    rounding.is_some() || (x.dtype() == DType::F32 && read) || is_few(rows, &device)
}

/// Whether so many rows are few; their kernel has no gradient.
fn is_few(rows: usize, device: &Device) -> bool {
    rows <= FEW_ROWS && !device.is_autodiff()
}

/// `x · weight` for `x` `[B, T, D]` and `weight` `[D, N]`, of any strides. A weight may be in bf16 where `x` is in f32:
/// it counts as its values in f32, and on the CPU is widened as it is read.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let mut y = projections(x, vec![weight]);
    y.pop().expect("one weight, one result")
}

/// [`projections`] on the CPU with factors that are rounded, in f32 or bf16, and results in f32 tensors. Where the
/// processor multiplies bf16 it does so, else it rounds first; both add up in f32, in an order of their own. Gradients of
/// weights are not rounded.
///
/// # Panics
///
/// If two shapes do not agree, or the device is not the CPU.
#[track_caller]
pub fn projections_rounded(
    x: Tensor<3>,
    weights: Vec<Tensor<2>>,
    rounding: Rounding,
) -> Vec<Tensor<3>> {
    let device = x.device();
    assert!(operator::on_cpu(&device), "{device:?} is not the CPU");
    of_all(x.cast(FloatDType::F32), weights, Some(rounding))
}

/// `x · weight` for `x` `[B, T, D]` and each of `weights` `[D, N]`, of any strides, in one operation
/// where the device has a kernel for all of them.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn projections(x: Tensor<3>, weights: Vec<Tensor<2>>) -> Vec<Tensor<3>> {
    of_all(x, weights, None)
}

#[track_caller]
fn of_all(x: Tensor<3>, weights: Vec<Tensor<2>>, rounding: Option<Rounding>) -> Vec<Tensor<3>> {
    let [.., width] = x.dims();
    for weight in &weights {
        assert_shape!(weight, [width, _]);
    }
    if weights.is_empty() {
        return Vec::new();
    }
    let native = |weight: &Tensor<2>| is_native(&x, weight, rounding);
    let all_native = weights.len() < MOST_INPUTS && weights.iter().all(native);
    if all_native || are_together(&x, &weights) {
        return run(x, weights, 0, rounding);
    }
    let one = |weight: Tensor<2>| match native(&weight) {
        true => of_all(x.clone(), vec![weight], rounding).remove(0),
        false => module::linear(x.clone(), weight.cast(x.dtype()), None),
    };
    weights.into_iter().map(one).collect()
}

/// All in one operation, of which the last `thin` weights share a result.
fn run(
    x: Tensor<3>,
    weights: Vec<Tensor<2>>,
    thin: usize,
    rounding: Option<Rounding>,
) -> Vec<Tensor<3>> {
    let [b, t, _] = x.dims();
    let few = b * t <= FEW_ROWS && !(rounding.is_some() && x.device().is_autodiff());
    let projections = Projections {
        few,
        thin,
        rounding,
    };
    let n = weights.len() - thin + usize::from(thin > 0);
    let weights = weights.into_iter().map(Tensor::into_dispatch);
    let inputs = std::iter::once(x.into_dispatch()).chain(weights);
    let mut results = operator::run(projections, inputs.collect());
    (0..n).map(|_| results.take()).collect()
}

/// Whether weights are put side by side for one product: on a GPU that trains, where launches cost more than that.
fn are_together(x: &Tensor<3>, weights: &[Tensor<2>]) -> bool {
    let device = x.device();
    weights.iter().all(|weight| weight.dtype() == DType::F32)
        && x.dtype() == DType::F32
        && !x.dims().contains(&0)
        && weights.len() < MOST_INPUTS
        && device.is_autodiff()
        && operator::has_gpu_kernels(&device)
}

/// [`projections`], and the results of `thin` weights side by side as one: each of them is too thin for a
/// product of many rows, so that theirs is one by all of them.
///
/// # Panics
///
/// If two shapes do not agree, or `thin` is empty.
#[track_caller]
pub fn projections_and(
    x: Tensor<3>,
    mut weights: Vec<Tensor<2>>,
    thin: Vec<Tensor<2>>,
) -> (Vec<Tensor<3>>, Tensor<3>) {
    let [b, t, _] = x.dims();
    let device = x.device();
    let n = weights.len();
    if operator::on_cpu(&device) && is_few(b * t, &device) {
        // Putting weights side by side would read and write them once more.
        weights.extend(thin);
        let mut all = projections(x, weights);
        let thin = all.split_off(n);
        return (all, Tensor::cat(thin, 2));
    }
    let both: Vec<_> = weights.iter().chain(&thin).cloned().collect();
    if are_together(&x, &both) {
        let mut all = run(x, both, thin.len(), None);
        let thin = all.pop().expect("the result that they share");
        return (all, thin);
    }
    weights.push(Tensor::cat(thin, 1));
    let mut all = projections(x, weights);
    let thin = all.pop().expect("a result for every weight");
    (all, thin)
}

/// `parts` one after the other: as `Tensor::cat`, which is a launch for each on a GPU; here it is one for all.
///
/// # Panics
///
/// If there are none.
pub fn joined(parts: Vec<Tensor<1>>) -> Tensor<1> {
    match parts.len() {
        1 => parts.into_iter().next().expect("one"),
        2..=MOST_INPUTS if operator::has_gpu_kernels(&parts[0].device()) => {
            let parts = parts.into_iter().map(Tensor::into_dispatch);
            operator::run(Joined, parts.collect()).take()
        }
        _ => Tensor::cat(parts, 0),
    }
}

/// Vectors to one of all, on GPUs.
#[derive(Clone, Debug)]
struct Joined;

impl Operator for Joined {
    const NAME: &'static str = "joined";

    gpu_kernel! {
        |self, specs| {
            let len: usize = specs.iter().map(|spec| spec.shape[0]).sum();
            [operator::spec([len], DType::F32)]
        };
        |self, inputs| [gpu::joined(inputs)];
        |self, inputs, [d]| gpu::apart(inputs, d)
    }
}

/// Inputs and weights to the projection by every weight.
#[derive(Clone, Debug)]
struct Projections {
    /// Few enough rows for the CPU's kernel that reads the weights once.
    #[cfg_attr(not(feature = "flex"), allow(dead_code))]
    few: bool,
    /// Of a GPU's weights, the last ones that share a result.
    #[cfg_attr(not(feature = "cube"), allow(dead_code))]
    thin: usize,
    /// On the CPU, factors that are rounded.
    #[cfg_attr(not(feature = "flex"), allow(dead_code))]
    rounding: Option<Rounding>,
}

impl Operator for Projections {
    const NAME: &'static str = "projections";

    cpu_kernel! {
        |self, inputs| cpu::forward(inputs, self.few, self.rounding);
        |self, inputs, grads, wanted| cpu::backward(inputs, grads, &wanted, self.rounding)
    }

    #[cfg(feature = "cube")]
    fn layout(&self, inputs: &[TensorSpec], save: bool) -> Option<Layout> {
        let [b, t, width] = inputs[0].shape.dims();
        let widths: Vec<usize> = inputs[1..].iter().map(|x| x.shape[1]).collect();
        let saved = operator::spec([width, widths.iter().sum()], DType::F32);
        let results = gpu::results(widths, self.thin).into_iter();
        let results = results.map(|out| operator::spec([b, t, out], DType::F32));
        Some(Layout {
            results: results.collect(),
            saved: if save { vec![saved] } else { Vec::new() },
        })
    }

    #[cfg(feature = "cube")]
    fn gpu(&self, inputs: Vec<FloatTensor<CubeBackend>>, save: bool) -> Forward<CubeBackend> {
        let (results, weights) = gpu::forward(inputs, self.thin);
        let saved = if save { vec![weights] } else { Vec::new() };
        Forward { results, saved }
    }

    #[cfg(feature = "cube")]
    fn gpu_backward(&self, call: Backward<CubeBackend>) -> Vec<FloatTensor<CubeBackend>> {
        let [weights] = operator::exactly(call.saved);
        gpu::backward(call.inputs, weights, call.grads, self.thin, &call.wanted)
    }
}
