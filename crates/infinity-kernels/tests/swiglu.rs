//! SwiGLU's gate against its reference, gradients too.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device};
use infinity_kernels::swiglu::{reference, swiglu};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-23: 5e-8.
const TOL: Tol = Tol {
    rms_ratio: 5e-7,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Worst RMS ratio on software Vulkan, 2026-11-24: 5.3e-7, of one gate at −20. Vulkan lets `exp` be off
/// by 3 + 2|x| units in the last place, 5e-6 there.
const GPU: Tol = Tol {
    rms_ratio: 5e-6,
    ..TOL
};

fn matches_the_reference_gradients_too(device: &Device) {
    let tol = if *device == Device::flex() { TOL } else { GPU };
    let device = device.clone().autodiff();
    for dims in [[1, 1, 1], [2, 7, 5], [3, 40, 300]] {
        let len = dims.iter().product();
        let mut random = Random(3);
        let (gate, up) = (
            random.values(len, -20.0, 20.0),
            random.values(len, -2.0, 2.0),
        );
        let d_y = random.values(len, -1.0, 1.0);
        let a = tensor(&gate, dims, DType::F32, &device).require_grad();
        let b = tensor(&up, dims, DType::F32, &device).require_grad();
        let y = swiglu(a.clone(), b.clone());
        let loss = (y.clone() * tensor(&d_y, dims, DType::F32, &device)).sum();
        let grads = loss.backward();
        let expected = reference::forward(&gate, &up);
        let [d_gate, d_up] = reference::backward(&gate, &up, &d_y);
        assert_close("swiglu", "y", &values(y.inner()), &expected, tol);
        assert_close(
            "swiglu",
            "d_gate",
            &values(a.grad(&grads).unwrap()),
            &d_gate,
            tol,
        );
        assert_close(
            "swiglu",
            "d_up",
            &values(b.grad(&grads).unwrap()),
            &d_up,
            tol,
        );
    }
}

#[test]
fn the_reference_gradient_matches_finite_differences_and_a_wrong_one_does_not() {
    let (gate, up) = (vec![-1.5, 0.0, 0.7, 4.0], vec![1.0, -2.0, 0.3, 0.9]);
    let [d_gate, d_up] = reference::backward(&gate, &up, &[1.0; 4]);
    let moved = |by_gate: f64, by_up: f64| {
        let shift = |x: &[f64], by: f64| x.iter().map(|x| x + by).collect::<Vec<f64>>();
        reference::forward(&shift(&gate, by_gate), &shift(&up, by_up))
    };
    let slope = |high: Vec<f64>, low: Vec<f64>| {
        high.iter()
            .zip(low)
            .map(|(h, l)| (h - l) / 2e-5)
            .collect::<Vec<f64>>()
    };
    let differences = slope(moved(1e-5, 0.0), moved(-1e-5, 0.0));
    assert_close("differences", "d_gate", &differences, &d_gate, TOL);
    let differences = slope(moved(0.0, 1e-5), moved(0.0, -1e-5));
    assert_close("differences", "d_up", &differences, &d_up, TOL);
    assert!(compare(&d_up, &d_gate, TOL).is_err());
}

on_every_device!(matches_the_reference_gradients_too);
