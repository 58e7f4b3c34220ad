//! The convolution on tensors, on any device.

use crate::borders::Borders;
use burn::tensor::{Tensor, assert_shape};

/// Convolves `x` `[B, T, channels]` with `weight` `[channels, kernel]`, continuing from `tail`
/// `[B, channels, kernel − 1]`. Returns outputs `[B, T, channels]` and the next tail.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn short_conv(x: Tensor<3>, weight: Tensor<2>, tail: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    short_conv_packed(x, weight, tail, &Borders::default())
}

/// [`short_conv`] over rows of several documents: no tap reaches back over a border, and the next tail holds
/// nothing from before the last one.
///
/// # Panics
///
/// As [`short_conv`], and if `borders` are of other sizes.
#[track_caller]
pub fn short_conv_packed(
    x: Tensor<3>,
    weight: Tensor<2>,
    tail: Tensor<3>,
    borders: &Borders,
) -> (Tensor<3>, Tensor<3>) {
    let [b, t, channels] = x.dims();
    let [_, kernel] = weight.dims();
    assert_shape!(weight, [channels, kernel]);
    let before = kernel - 1;
    assert_shape!(tail, [b, channels, before]);
    borders.check(b, t);
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
        let mut past = padded.clone().slice([0..b, j..j + t]);
        if !borders.is_none() {
            let beyond = borders.beyond(b, t, before - j, &past.device());
            past = past.mask_fill(beyond, 0.0);
        }
        y = y + tap(j, past);
    }
    let mut tail = padded.slice([0..b, t..t + before]).swap_dims(1, 2);
    if !borders.is_none() {
        let forgotten = borders.forgotten(b, t, before, &tail.device());
        tail = tail.mask_fill(forgotten, 0.0);
    }
    (y, tail)
}
