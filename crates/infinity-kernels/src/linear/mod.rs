//! A projection `x · W`: burn's, or the native kernels of the CPU.
//!
//! With a few rows it is little but reading the weights: the native kernel does that with all cores, each
//! weight touched once for all rows, and a row has the same bits whatever rows are beside it. With many rows
//! it is the large product that Burn takes too, on factors as they are stored, both ways; the gradient of the
//! input is one sum over all weights.

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "flex")]
mod few_rows;
pub mod reference;
#[cfg(feature = "flex")]
mod weight;

use crate::operator::{self, MOST_INPUTS, Operator, cpu_kernel};
use burn::tensor::{DType, Device, Tensor, assert_shape, module};

/// Rows up to which reading the weights counts as much as computing with them: as many as are decoded at
/// once, with the same bits for a row in any company.
pub const FEW_ROWS: usize = 32;

/// Whether the device has a kernel for this projection.
fn is_native(x: &Tensor<3>, weight: &Tensor<2>) -> bool {
    let [b, t, width] = x.dims();
    let [_, out] = weight.dims();
    let (device, rows) = (x.device(), b * t);
    if rows == 0 || width == 0 || out == 0 || !operator::on_cpu(&device) {
        return false;
    }
    let single = x.dtype() == DType::F32 && weight.dtype() == DType::F32;
    single || is_few(rows, &device)
}

/// Whether so many rows are few; their kernel has no gradient.
fn is_few(rows: usize, device: &Device) -> bool {
    rows <= FEW_ROWS && !device.is_autodiff()
}

/// `x · weight` for `x` `[B, T, D]` and `weight` `[D, N]`, of any strides.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let mut y = projections(x, vec![weight]);
    y.pop().expect("one weight, one result")
}

/// `x · weight` for `x` `[B, T, D]` and each of `weights` `[D, N]`, of any strides, in one operation
/// where the device has a kernel for all of them.
///
/// # Panics
///
/// If two shapes do not agree.
#[track_caller]
pub fn projections(x: Tensor<3>, weights: Vec<Tensor<2>>) -> Vec<Tensor<3>> {
    let [b, t, width] = x.dims();
    for weight in &weights {
        assert_shape!(weight, [width, _]);
    }
    let native = |weight: &Tensor<2>| is_native(&x, weight);
    if weights.len() >= MOST_INPUTS || !weights.iter().all(native) {
        let one = |weight: Tensor<2>| match native(&weight) {
            true => linear(x.clone(), weight),
            false => module::linear(x.clone(), weight, None),
        };
        return weights.into_iter().map(one).collect();
    }
    let n = weights.len();
    let weights = weights.into_iter().map(Tensor::into_dispatch);
    let inputs = std::iter::once(x.into_dispatch()).chain(weights);
    let mut results = operator::run(
        Projections {
            few: b * t <= FEW_ROWS,
        },
        inputs.collect(),
    );
    (0..n).map(|_| results.take()).collect()
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
    weights.push(Tensor::cat(thin, 1));
    let mut all = projections(x, weights);
    let thin = all.pop().expect("a result for every weight");
    (all, thin)
}

/// Inputs and weights to the projection by every weight.
#[derive(Clone, Debug)]
struct Projections {
    /// Few enough rows for the kernel that reads the weights once.
    few: bool,
}

impl Operator for Projections {
    const NAME: &'static str = "projections";

    cpu_kernel! {
        |self, inputs| cpu::forward(inputs, self.few);
        |self, inputs, grads| cpu::backward(inputs, grads)
    }
}
