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

/// [`short_conv_silu_packed`] of some convolutions of the same tokens, on a GPU in the launches of one.
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
    if !same || convs.len() > most || !borders.is_none() || !is_on_gpu(&convs) {
        let one = |conv| alone(conv, borders);
        return convs.into_iter().map(one).collect();
    }
    let n = convs.len();
    let inputs = convs.into_iter().flat_map(|Conv { x, weight, tail }| {
        let ([b, _, channels], [_, kernel]) = (x.dims(), weight.dims());
        assert_shape!(weight, [channels, kernel]);
        assert_shape!(tail, [b, channels, kernel - 1]);
        let (weight, tail) = (weight.into_dispatch(), tail.into_dispatch());
        [x.into_dispatch(), weight, tail]
    });
    let mut results = operator::run(EachConvSilu, inputs.collect());
    let outputs: Vec<_> = (0..n).map(|_| results.take()).collect();
    outputs.into_iter().map(|y| (y, results.take())).collect()
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
    let Conv { x, weight, tail } = conv;
    let [b, t, channels] = x.dims();
    let [_, kernel] = weight.dims();
    if kernel == 1 || t == 0 || !operator::on_cpu(&x.device()) {
        let (y, tail) = short_conv_packed(x, weight, tail, borders);
        return (activation::silu(y), tail);
    }
    let before = kernel - 1;
    assert_shape!(weight, [channels, kernel]);
    assert_shape!(tail, [b, channels, before]);
    borders.check(b, t);
    let next = match t < before {
        true => Tensor::cat(
            vec![
                tail.clone().slice([0..b, 0..channels, t..before]),
                x.clone().swap_dims(1, 2),
            ],
            2,
        ),
        false => x.clone().slice([0..b, t - before..t]).swap_dims(1, 2),
    };
    let inputs = vec![
        x.into_dispatch(),
        weight.into_dispatch(),
        tail.into_dispatch(),
    ];
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
