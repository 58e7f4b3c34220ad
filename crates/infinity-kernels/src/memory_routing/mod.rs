//! Which states of the memory a token is for, by what it says: a write looks up its key and a read
//! its query in the same directions, so that a query looks where a key like it was written.
//!
//! ```text
//! ρ_s(x) = sqrt(softmax_S(W_s · x / τ)),   τ = exp(log_temperature) of the head
//! ```
//!
//! `x` is a unit vector before it is rotated: what a token says, not where it stands. ‖ρ‖₂ = 1, which
//! is what keeps delta writes from growing.

pub mod reference;

use burn::tensor::{Tensor, activation, assert_shape};

/// Weights `[B, T, H, S]` of the states for unit vectors `x` `[B, T, H, K]`, with directions `weight`
/// `[H, S, K]` and `log_temperature` `[H]`; all in `f32`.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn memory_routing(x: Tensor<4>, weight: Tensor<3>, log_temperature: Tensor<1>) -> Tensor<4> {
    let ([b, t, h, k], [_, s, _]) = (x.dims(), weight.dims());
    assert_shape!(weight, [h, s, k]);
    assert_shape!(log_temperature, [h]);
    let sharpness = log_temperature.neg().exp().reshape([h, 1, 1]);
    let directions = (weight * sharpness).swap_dims(1, 2);
    let x = x.permute([2, 0, 1, 3]).reshape([h, b * t, k]);
    let z = x.matmul(directions).reshape([h, b, t, s]);
    let share = activation::log_softmax(z, 3);
    (share * 0.5).exp().permute([1, 2, 0, 3])
}
