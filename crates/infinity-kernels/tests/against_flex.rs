//! Feature maps, whose own tests run on Flex: every other device gives what Flex gives, gradients
//! too.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::feature_map::{elu_plus_one, l2_normalize, learnable, relu};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Roundings of two devices in `f32`, a dozen operations each.
const TOL: Tol = Tol {
    rms_ratio: 1e-6,
    worst_over_rms: 30.0,
    floor: 1e-9,
};

const DIMS: [usize; 4] = [2, 5, 3, 16];

/// `map`'s outputs on `device`, and its gradient.
fn answers(device: &Device, map: impl Fn(Tensor<4>, &Device) -> Tensor<4>) -> [Vec<f64>; 2] {
    let device = device.clone().autodiff();
    let mut random = Random(23);
    let len = DIMS.iter().product();
    let x = random.values(len, -3.0, 3.0);
    let weights = random.values(len, -1.0, 1.0);
    let x = tensor(&x, DIMS, DType::F32, &device).require_grad();
    let y = map(x.clone(), &device);
    let grads = (y.clone() * tensor(&weights, DIMS, DType::F32, &device))
        .sum()
        .backward();
    let grad = x.grad(&grads).expect("a gradient");
    [values(y.inner()), values(grad)]
}

fn same_as_flex(device: &Device, name: &str, map: impl Fn(Tensor<4>, &Device) -> Tensor<4>) {
    let expected = answers(&Device::flex(), &map);
    for (part, (actual, expected)) in ["y", "dx"]
        .into_iter()
        .zip(answers(device, &map).iter().zip(&expected))
    {
        assert_close(name, part, actual, expected, TOL.of_products(device, 1));
    }
}

fn feature_maps(device: &Device) {
    same_as_flex(device, "elu + 1", |x, _| elu_plus_one(x));
    same_as_flex(device, "relu", |x, _| relu(x));
    same_as_flex(device, "l2", |x, _| l2_normalize(x));
    let mut random = Random(24);
    let weight = random.values(3 * 16 * 16, -1.0, 1.0);
    let bias = random.values(3 * 16, -1.0, 1.0);
    same_as_flex(device, "learnable", |x, device| {
        let weight = tensor(&weight, [3, 16, 16], DType::F32, device);
        learnable(x, weight, tensor(&bias, [3, 16], DType::F32, device))
    });
}

#[test]
fn another_map_is_caught() {
    let [y, dx] = answers(&Device::flex(), |x, _| relu(x));
    let [other, d_other] = answers(&Device::flex(), |x, _| elu_plus_one(x));
    assert!(compare(&other, &y, TOL).is_err());
    assert!(compare(&d_other, &dx, TOL).is_err());
}

on_every_device!(feature_maps);
