//! The convolution on tensors, on any device.

use burn::tensor::{Tensor, assert_shape};

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
