//! Looked-up vectors and the gradient of their table against the reference.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use infinity_kernels::embedding::{embedding, reference};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-28: 1e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Rows, width, batch and tokens: more ids than a cube looks at at once, and more columns than a cube has units.
const SIZES: [[usize; 4]; 4] = [
    [5, 3, 1, 1],
    [65, 40, 2, 33],
    [9, 300, 1, 70],
    [50, 8, 2, 2500],
];

struct Call {
    weight: Vec<f64>,
    ids: Vec<usize>,
    d_y: Vec<f64>,
}

/// Ids of which some rows have none, and one many.
fn call([rows, width, b, t]: [usize; 4]) -> Call {
    let mut random = Random(4);
    let ids = random.values(b * t, 0.0, rows as f64 - 1.0).into_iter();
    Call {
        weight: random.values(rows * width, -1.0, 1.0),
        ids: ids
            .map(|id| if id < 1.5 { 1 } else { id as usize })
            .collect(),
        d_y: random.values(b * t * width, -1.0, 1.0),
    }
}

/// What it looks up, and the gradient of the weight.
fn run(device: &Device, [rows, width, b, t]: [usize; 4], call: &Call) -> [Vec<f64>; 2] {
    let device = &device.clone().autodiff();
    let weight = tensor(&call.weight, [rows, width], DType::F32, device).require_grad();
    let ids: Vec<i32> = call.ids.iter().map(|id| *id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [b, t]), device);
    let y = embedding(weight.clone(), ids);
    let d_y = tensor(&call.d_y, [b, t, width], DType::F32, device);
    let grads = (y.clone() * d_y).sum().backward();
    [
        values(y.inner()),
        values(weight.grad(&grads).expect("a gradient")),
    ]
}

fn matches_the_reference(device: &Device) {
    for size @ [rows, width, ..] in SIZES {
        let call = call(size);
        let [y, d_weight] = run(device, size, &call);
        let name = format!("{size:?}");
        let expected = reference::forward(&call.weight, width, &call.ids);
        assert_close(&name, "rows", &y, &expected, TOL);
        let expected = reference::backward(rows, width, &call.ids, &call.d_y);
        assert_close(&name, "gradient", &d_weight, &expected, TOL);
        assert_eq!(run(device, size, &call)[1], d_weight, "the same bits again");
    }
}

#[test]
fn a_token_left_out_is_caught() {
    let size @ [rows, width, ..] = SIZES[3];
    let mut call = call(size);
    let whole = reference::backward(rows, width, &call.ids, &call.d_y);
    call.d_y[..width].fill(0.0);
    let without = reference::backward(rows, width, &call.ids, &call.d_y);
    assert!(compare(&without, &whole, TOL).is_err());
}

#[test]
fn the_gradient_is_that_of_finite_differences() {
    let size @ [rows, width, ..] = SIZES[1];
    let call = call(size);
    let loss = |weight: &[f64]| -> f64 {
        let y = reference::forward(weight, width, &call.ids);
        y.iter().zip(&call.d_y).map(|(y, d)| y * d).sum()
    };
    let d_weight = reference::backward(rows, width, &call.ids, &call.d_y);
    for at in [0, width + 1, rows * width - 1] {
        let mut weight = call.weight.clone();
        weight[at] += 0.5;
        let slope = (loss(&weight) - loss(&call.weight)) / 0.5;
        assert!(
            (slope - d_weight[at]).abs() < 1e-9,
            "{slope} {}",
            d_weight[at]
        );
    }
}

on_every_device!(matches_the_reference);
