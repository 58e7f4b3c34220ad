//! Short causal depthwise convolution with a carried tail.
//!
//! ```text
//! y_t = Σ_j w_j ⊙ x_{t − (kernel − 1) + j}        j = 0..kernel, w_{kernel−1} meets the present
//! ```
//!
//! The `kernel − 1` inputs before the first token come in as the tail and the last ones leave as
//! the next tail, so a sequence can be cut anywhere.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
pub mod reference;
mod tensors;

pub use tensors::{short_conv, short_conv_packed};

use crate::borders::Borders;
use crate::operator::{self, Operator, cpu_kernel, gpu_kernel};
use burn::backend::{Dispatch, tensor::FloatTensor};
use burn::tensor::{Tensor, activation, assert_shape};

/// `silu(short_conv(x))` and the next tail: a native kernel where the device has one, else
/// [`short_conv`] and SiLU on tensors.
///
/// # Panics
///
/// As [`short_conv`].
#[track_caller]
pub fn short_conv_silu(x: Tensor<3>, weight: Tensor<2>, tail: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    short_conv_silu_packed(x, weight, tail, &Borders::default())
}

/// [`short_conv_silu`] over rows of several documents, as [`short_conv_packed`]. The kernels of GPUs know no
/// borders: there this is on tensors.
///
/// # Panics
///
/// As [`short_conv_packed`].
#[track_caller]
pub fn short_conv_silu_packed(
    x: Tensor<3>,
    weight: Tensor<2>,
    tail: Tensor<3>,
    borders: &Borders,
) -> (Tensor<3>, Tensor<3>) {
    short_conv_silu_each(vec![Conv { x, weight, tail }], borders).swap_remove(0)
}

/// What a convolution reads.
#[derive(Clone, Debug)]
pub struct Conv {
    /// `[B, T, channels]`.
    pub x: Tensor<3>,
    /// Taps `[channels, kernel]`.
    pub weight: Tensor<2>,
    /// `[B, channels, kernel − 1]`.
    pub tail: Tensor<3>,
}

/// [`short_conv_silu_packed`] of some convolutions of the same tokens, on a GPU in the launches of one. On a CPU fewer
/// tokens than a tail holds are moved into tails that nobody shares.
///
/// # Panics
///
/// As [`short_conv_packed`].
#[track_caller]
pub fn short_conv_silu_each(convs: Vec<Conv>, borders: &Borders) -> Vec<(Tensor<3>, Tensor<3>)> {
    let sizes = |conv: &Conv| {
        let ([b, t, _], [_, kernel]) = (conv.x.dims(), conv.weight.dims());
        [b, t, kernel]
    };
    let same = convs.iter().all(|conv| sizes(conv) == sizes(&convs[0]));
    let most = operator::MOST_INPUTS / 3;
    if same && borders.is_none() && convs.iter().all(is_step) {
        return stepped(convs);
    }
    if !same || convs.len() > most || !borders.is_none() || !is_on_gpu(&convs) {
        let one = |conv| alone(conv, borders);
        return convs.into_iter().map(one).collect();
    }
    let n = convs.len();
    let mut results = operator::run(EachConvSilu, inputs(convs, |tail| tail));
    let outputs: Vec<_> = (0..n).map(|_| results.take()).collect();
    outputs.into_iter().map(|y| (y, results.take())).collect()
}

/// Inputs, taps and tail of one convolution after the other, tails as `turned`.
#[track_caller]
fn inputs(convs: Vec<Conv>, turned: impl Fn(Tensor<3>) -> Tensor<3>) -> Vec<FloatTensor<Dispatch>> {
    let inputs = convs.into_iter().flat_map(|Conv { x, weight, tail }| {
        let ([b, _, channels], [_, kernel]) = (x.dims(), weight.dims());
        assert_shape!(weight, [channels, kernel]);
        assert_shape!(tail, [b, channels, kernel - 1]);
        let (weight, tail) = (weight.into_dispatch(), turned(tail).into_dispatch());
        [x.into_dispatch(), weight, tail]
    });
    inputs.collect()
}

/// Whether it is a few tokens without gradients on a CPU.
fn is_step(conv: &Conv) -> bool {
    let ([_, t, _], [_, kernel], device) = (conv.x.dims(), conv.weight.dims(), conv.x.device());
    0 < t && t + 1 < kernel && !device.is_autodiff() && operator::on_cpu(&device)
}

/// A few tokens of each. The tails lie with their channels together, as a step reads and leaves them.
#[track_caller]
fn stepped(convs: Vec<Conv>) -> Vec<(Tensor<3>, Tensor<3>)> {
    let n = convs.len();
    let turned = |tail: Tensor<3>| tail.swap_dims(1, 2);
    let mut results = operator::run(ConvSiluStep, inputs(convs, turned));
    let mut pair = || (results.take(), turned(results.take()));
    (0..n).map(|_| pair()).collect()
}

/// Whether all of them are in the reach of a GPU's kernels.
fn is_on_gpu(convs: &[Conv]) -> bool {
    let fits = |conv: &Conv| conv.weight.dims()[1] > 1 && conv.x.dims()[1] > 0;
    let device = convs.first().map(|conv| conv.x.device());
    convs.iter().all(fits) && device.is_some_and(|device| operator::has_gpu_kernels(&device))
}

/// One convolution, with the CPU's kernel or on tensors.
#[track_caller]
fn alone(conv: Conv, borders: &Borders) -> (Tensor<3>, Tensor<3>) {
    let Conv { x, weight, tail } = conv.clone();
    let ([b, t, channels], [_, kernel]) = (x.dims(), weight.dims());
    if kernel == 1 || t == 0 || !operator::on_cpu(&x.device()) {
        let (y, tail) = short_conv_packed(x, weight, tail, borders);
        return (activation::silu(y), tail);
    }
    let inputs = inputs(vec![conv], |tail| tail);
    borders.check(b, t);
    let before = kernel - 1;
    let last = x.slice([0..b, t.saturating_sub(before)..t]).swap_dims(1, 2);
    let next = match t < before {
        true => Tensor::cat(vec![tail.slice([0..b, 0..channels, t..before]), last], 2),
        false => last,
    };
    let next = tensors::remembered(next, t, borders);
    let op = ConvSilu(borders.clone());
    (operator::run(op, inputs).take(), next)
}

/// Inputs, taps and tail to `silu(conv(x))`, on the CPU.
#[derive(Clone, Debug)]
struct ConvSilu(#[cfg_attr(not(feature = "flex"), allow(dead_code))] Borders);

impl Operator for ConvSilu {
    const NAME: &'static str = "short_conv_silu";

    cpu_kernel! {
        |self, [x, weight, tail]| [cpu::forward([x, weight, tail], &self.0)];
        |self, [x, weight, tail], [d_y]| cpu::backward([x, weight, tail], d_y, &self.0)
    }
}

/// Inputs, taps and tail `[B, kernel − 1, channels]` of one convolution after the other to `silu(conv(x))` and the next tail of
/// each, for a few tokens on the CPU.
#[derive(Clone, Debug)]
struct ConvSiluStep;

impl Operator for ConvSiluStep {
    const NAME: &'static str = "short_conv_silu_step";

    cpu_kernel!(|self, inputs| cpu::step(inputs));
}

/// Inputs, taps and tail of one convolution after the other to `silu(conv(x))` of each and all next tails, on GPUs.
#[derive(Clone, Debug)]
struct EachConvSilu;

impl Operator for EachConvSilu {
    const NAME: &'static str = "short_conv_silu_each";
    const KNOWS_NONE: bool = true;

    gpu_kernel! {
        |self, specs| [0, 2].map(|at| specs.iter().skip(at).step_by(3).cloned()).into_iter().flatten().collect::<Vec<_>>();
        |self, inputs| gpu::forward(inputs);
        |self, inputs, grads| gpu::backward(inputs, grads)
    }
}
