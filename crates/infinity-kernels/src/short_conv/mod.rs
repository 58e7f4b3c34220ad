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

/// [`short_conv_silu_packed`] of some convolutions of the same tokens, on a GPU in the launches of one. On a CPU tails that
/// nobody shares are written over by the next ones.
///
/// # Panics
///
/// As [`short_conv_packed`].
#[track_caller]
pub fn short_conv_silu_each(convs: Vec<Conv>, borders: &Borders) -> Vec<(Tensor<3>, Tensor<3>)> {
    let Some(first) = convs.first() else {
        return Vec::new();
    };
    let sizes = |conv: &Conv| {
        let ([b, t, _], [_, kernel]) = (conv.x.dims(), conv.weight.dims());
        [b, t, kernel]
    };
    let ([b, t, kernel], device) = (sizes(first), first.x.device());
    let knows_borders = borders.is_none() || operator::on_cpu(&device);
    let native = kernel > 1 && t > 0 && knows_borders && operator::has_row_kernels(&device);
    let n = convs.len();
    let alike = convs.iter().all(|conv| sizes(conv) == [b, t, kernel]);
    if n > 1 && !(native && alike && n <= operator::MOST_INPUTS / 3) {
        let alone = |conv| short_conv_silu_each(vec![conv], borders);
        return convs.into_iter().flat_map(alone).collect();
    }
    if !native {
        let on_tensors = |Conv { x, weight, tail }| {
            let (y, tail) = short_conv_packed(x, weight, tail, borders);
            (activation::silu(y), tail)
        };
        return convs.into_iter().map(on_tensors).collect();
    }
    borders.check(b, t);
    let inputs = convs.into_iter().flat_map(|Conv { x, weight, tail }| {
        let [_, _, channels] = x.dims();
        assert_shape!(weight, [channels, kernel]);
        assert_shape!(tail, [b, channels, kernel - 1]);
        [
            x.into_dispatch(),
            weight.into_dispatch(),
            tail.into_dispatch(),
        ]
    });
    let mut results = operator::run(ConvSilu(borders.clone()), inputs.collect());
    let outputs: Vec<_> = (0..n).map(|_| results.take()).collect();
    outputs.into_iter().map(|y| (y, results.take())).collect()
}

/// Inputs, taps and tail of one convolution after the other to `silu(conv(x))` of each and all next tails.
#[derive(Clone, Debug)]
struct ConvSilu(#[cfg_attr(not(feature = "flex"), allow(dead_code))] Borders);

impl Operator for ConvSilu {
    const NAME: &'static str = "short_conv_silu";
    const KNOWS_NONE: bool = true;

    cpu_kernel! {
        |self, inputs| cpu::forward(inputs, &self.0);
        |self, inputs, grads| cpu::backward(inputs, grads, &self.0)
    }

    gpu_kernel! {
        |self, specs| [0, 2].map(|at| specs.iter().skip(at).step_by(3).cloned()).into_iter().flatten().collect::<Vec<_>>();
        |self, inputs| gpu::forward(inputs);
        |self, inputs, grads| gpu::backward(inputs, grads)
    }
}
