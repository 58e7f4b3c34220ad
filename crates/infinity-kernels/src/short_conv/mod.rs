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
pub mod reference;

use crate::operator::{self, Operator, cpu_kernel};
use burn::tensor::{Tensor, activation, assert_shape};

/// Convolves `x` `[B, T, channels]` with `weight` `[channels, kernel]`, continuing from `tail`
/// `[B, channels, kernel − 1]`. Returns outputs `[B, T, channels]` and the next tail.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn short_conv(x: Tensor<3>, weight: Tensor<2>, tail: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, t, channels] = x.dims();
    let [_, kernel] = weight.dims();
    assert_shape!(weight, [channels, kernel]);
    let before = kernel - 1;
    assert_shape!(tail, [b, channels, before]);
    if before == 0 {
        return (x * weight.reshape([1, 1, channels]), tail);
    }
    let padded = Tensor::cat(vec![tail.swap_dims(1, 2), x.clone()], 1);
    // Not a row of the transposed weight: a reshape of its gradient, which is a transpose too, gets
    // the values mixed up by Burn's fusion (0.22.1, wgpu).
    let column = |j: usize| weight.clone().slice([0..channels, j..j + 1]);
    let tap = |j: usize, x: Tensor<3>| x * column(j).reshape([1, 1, channels]);
    let mut y = tap(before, x);
    for j in 0..before {
        y = y + tap(j, padded.clone().slice([0..b, j..j + t]));
    }
    let tail = padded.slice([0..b, t..t + before]).swap_dims(1, 2);
    (y, tail)
}

/// `silu(short_conv(x))` and the next tail: a native kernel where the device has one, else
/// [`short_conv`] and SiLU on tensors.
///
/// # Panics
///
/// As [`short_conv`].
#[track_caller]
pub fn short_conv_silu(x: Tensor<3>, weight: Tensor<2>, tail: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, t, channels] = x.dims();
    let [_, kernel] = weight.dims();
    if kernel == 1 || t == 0 || !operator::on_cpu(&x.device()) {
        let (y, tail) = short_conv(x, weight, tail);
        return (activation::silu(y), tail);
    }
    let before = kernel - 1;
    assert_shape!(weight, [channels, kernel]);
    assert_shape!(tail, [b, channels, before]);
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
    (operator::run(ConvSilu, inputs).take(), next)
}

/// Inputs, taps and tail to `silu(conv(x))`.
#[derive(Clone, Debug)]
struct ConvSilu;

impl Operator for ConvSilu {
    const NAME: &'static str = "short_conv_silu";

    cpu_kernel! {
        |self, [x, weight, tail]| [cpu::forward(x, weight, tail)];
        |self, [x, weight, tail], [d_y]| cpu::backward(x, weight, tail, d_y)
    }
}
