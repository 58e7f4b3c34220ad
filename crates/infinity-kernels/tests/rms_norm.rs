//! The norm, plain and gated, native and on tensors, against its reference, gradients too.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::rms_norm::{self, GateAct, gated_rms_norm, reference};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-24: 3e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
const EPS: f64 = 1e-5;

/// Seeded values for a case: inputs, weight, gate and the gradient of the result.
fn seeded(dims: [usize; 4]) -> [Vec<f64>; 4] {
    let (len, width) = (dims.iter().product(), dims[3]);
    let mut random = Random(5);
    [len, width, len, len].map(|len| random.values(len, -2.0, 2.0))
}

/// Result and gradients of inputs, weight and gate, by the native kernel or on tensors.
fn run(device: &Device, dims: [usize; 4], gated: Option<GateAct>, native: bool) -> [Vec<f64>; 4] {
    let device = device.clone().autodiff();
    let [x, weight, gate, d_y] = seeded(dims);
    let x = tensor(&x, dims, DType::F32, &device).require_grad();
    let weight = tensor(&weight, [dims[3]], DType::F32, &device).require_grad();
    let gate = tensor(&gate, dims, DType::F32, &device).require_grad();
    let y = match (gated, native) {
        (Some(act), true) => gated_rms_norm(x.clone(), weight.clone(), gate.clone(), act, EPS),
        (None, true) => rms_norm::rms_norm(x.clone(), weight.clone(), EPS),
        (Some(act), false) => {
            rms_norm::tensors::rms_norm(x.clone(), weight.clone(), EPS) * act.apply(gate.clone())
        }
        (None, false) => rms_norm::tensors::rms_norm(x.clone(), weight.clone(), EPS),
    };
    let grads = (y.clone() * tensor(&d_y, dims, DType::F32, &device))
        .sum()
        .backward();
    let of_gate = gate.grad(&grads);
    [
        values(y.inner()),
        values(x.grad(&grads).unwrap()),
        values(weight.grad(&grads).unwrap()),
        of_gate.map_or_else(|| vec![0.0; dims.iter().product()], values),
    ]
}

fn matches_the_reference_gradients_too(device: &Device) {
    // The last has more rows than one thread takes at a time.
    let sizes = [[1, 1, 1, 1], [2, 3, 2, 5], [1, 4, 3, 40], [2, 70, 4, 33]];
    for dims in cases(device, sizes, 2) {
        let [x, weight, gate, d_y] = seeded(dims);
        for gated in [None, Some(GateAct::Sigmoid), Some(GateAct::Silu)] {
            let gate = (gated.map(|_| &gate[..]), gated.unwrap_or(GateAct::Silu));
            let y = reference::forward(&x, &weight, gate, EPS);
            let grads = reference::backward(&x, &weight, gate, EPS, &d_y);
            let expected = [y, grads.x, grads.weight, grads.gate];
            for native in [true, false] {
                let actual = run(device, dims, gated, native);
                let name = format!("{dims:?}, gated {gated:?}, native {native}");
                for (i, part) in ["y", "d_x", "d_weight", "d_gate"].iter().enumerate() {
                    // One value has no direction to move in: its gradient is rounding.
                    if dims[3] == 1 && *part == "d_x" {
                        continue;
                    }
                    assert_close(&name, part, &actual[i], &expected[i], TOL);
                }
                // A GPU tries several sums and keeps the fastest.
                if *device == Device::flex() {
                    let again = run(device, dims, gated, native);
                    assert_eq!(again, actual, "two runs give the same bits");
                }
            }
        }
    }
}

fn a_row_that_is_not_finite_stays_alone(device: &Device) {
    let x = Tensor::<2>::from_floats([[1.0, 2.0], [f32::NAN, 1.0], [3.0, 4.0]], device);
    let y = values(rms_norm::rms_norm(x, Tensor::ones([2], device), EPS));
    let finite: Vec<bool> = y.iter().map(|y| y.is_finite()).collect();
    assert_eq!(finite, [true, true, false, false, true, true]);
}

#[test]
fn the_reference_matches_finite_differences_and_a_norm_without_its_mean_does_not() {
    let [x, weight, gate, d_y] = seeded([1, 1, 2, 4]);
    for act in [GateAct::Sigmoid, GateAct::Silu] {
        let loss = |x: &[f64], gate: &[f64]| -> f64 {
            let y = reference::forward(x, &weight, (Some(gate), act), EPS);
            y.iter().zip(&d_y).map(|(y, d)| y * d).sum()
        };
        let slopes = |of: &[f64], loss: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
            let moved = |i: usize, by: f64| {
                let mut of = of.to_vec();
                of[i] += by;
                loss(&of)
            };
            let slope = |i| (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5;
            (0..of.len()).map(slope).collect()
        };
        let grads = reference::backward(&x, &weight, (Some(&gate), act), EPS, &d_y);
        let of_x = slopes(&x, &|x| loss(x, &gate));
        assert_close("differences", "d_x", &of_x, &grads.x, TOL);
        let of_gate = slopes(&gate, &|gate| loss(&x, gate));
        assert_close("differences", "d_gate", &of_gate, &grads.gate, TOL);
    }
    let sums: Vec<f64> = x
        .chunks(4)
        .flat_map(|row| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(move |x| x / length).collect::<Vec<f64>>()
        })
        .collect();
    let means = reference::forward(&x, &[1.0; 4], (None, GateAct::Sigmoid), EPS);
    assert!(compare(&sums, &means, TOL).is_err());
}

on_every_device!(
    matches_the_reference_gradients_too,
    a_row_that_is_not_finite_stays_alone
);
