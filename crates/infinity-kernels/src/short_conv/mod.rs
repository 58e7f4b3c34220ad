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
    let [b, t, channels] = x.dims();
    let [_, kernel] = weight.dims();
    let in_kernel = match borders.is_none() {
        true => operator::has_row_kernels(&x.device()),
        false => operator::on_cpu(&x.device()),
    };
    if kernel == 1 || t == 0 || !in_kernel {
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

/// Inputs, taps and tail to `silu(conv(x))`.
#[derive(Clone, Debug)]
struct ConvSilu(#[cfg_attr(not(feature = "flex"), allow(dead_code))] Borders);

impl Operator for ConvSilu {
    const NAME: &'static str = "short_conv_silu";

    cpu_kernel! {
        |self, [x, weight, tail]| [cpu::forward([x, weight, tail], &self.0)];
        |self, [x, weight, tail], [d_y]| cpu::backward([x, weight, tail], d_y, &self.0)
    }

    gpu_kernel! {
        |self, specs| [specs[0].clone()];
        |self, [x, weight, tail]| [gpu::forward([x, weight, tail])];
        |self, [x, weight, tail], [d_y]| gpu::backward([x, weight, tail], d_y)
    }
}
