//! The rotated unit vector, native and on tensors, against its reference, gradients too.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device};
use infinity_kernels::feature_map::{FeatureMap, L2_EPS, unit_length};
use infinity_kernels::rotary::{Rotary, RotaryDims, Scaling, reference};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-24: 3e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
const MAPS: [FeatureMap; 3] = [
    FeatureMap::Identity,
    FeatureMap::EluPlusOne,
    FeatureMap::Relu,
];

/// Result and gradient by the native kernel or on tensors.
fn run(
    device: &Device,
    map: FeatureMap,
    dims: [usize; 4],
    (starts, rotated, eps): (&[u64], usize, f64),
    native: bool,
) -> [Vec<f64>; 2] {
    let tracked = device.clone().autodiff();
    let [_, t, _, key_dim] = dims;
    let rotary_dims = RotaryDims {
        key_dim,
        rotated,
        base: 100.0,
        scaling: Scaling::None,
    };
    let rotary = Rotary::new(starts, t, rotary_dims, device);
    let (x, d_y) = seeded(dims);
    let x = tensor(&x, dims, DType::F32, &tracked).require_grad();
    let y = match native {
        true => rotary.unit(x.clone(), map, eps),
        false => rotary.apply(unit_length(map.apply(x.clone()), eps)),
    };
    let grads = (y.clone() * tensor(&d_y, dims, DType::F32, &tracked))
        .sum()
        .backward();
    [values(y.inner()), values(x.grad(&grads).unwrap())]
}

fn seeded(dims: [usize; 4]) -> (Vec<f64>, Vec<f64>) {
    let len = dims.iter().product();
    let mut random = Random(4);
    (random.values(len, -2.0, 2.0), random.values(len, -1.0, 1.0))
}

fn expected(
    map: FeatureMap,
    dims: [usize; 4],
    (starts, rotated, eps): (&[u64], usize, f64),
) -> [Vec<f64>; 2] {
    let [_, t, h, k] = dims;
    let (x, d_y) = seeded(dims);
    let (mut y, mut d_x) = (Vec::new(), Vec::new());
    for (i, (x, d_y)) in x.chunks(k).zip(d_y.chunks(k)).enumerate() {
        let (row, position) = (i / (t * h), i / h % t);
        let position = starts[row % starts.len()] + position as u64;
        let angles: Vec<f64> = (0..rotated / 2)
            .map(|pair| position as f64 * 100f64.powf(-2.0 * pair as f64 / rotated as f64))
            .collect();
        y.extend(reference::forward((map, eps), x, &angles));
        d_x.extend(reference::backward((map, eps), x, &angles, d_y));
    }
    [y, d_x]
}

fn matches_the_reference_gradients_too(device: &Device) {
    let all: [([usize; 4], &[u64], usize); 4] = [
        ([1, 1, 1, 1], &[0], 0),
        ([2, 5, 3, 6], &[0, 7], 4),
        ([2, 70, 2, 33], &[900, 900], 32),
        ([1, 3, 2, 16], &[12], 16),
    ];
    for (dims, starts, rotated) in cases(device, all, 2) {
        for map in MAPS {
            for eps in [L2_EPS, 0.5] {
                let call = (starts, rotated, eps);
                let expected = expected(map, dims, call);
                for native in [true, false] {
                    let actual = run(device, map, dims, call, native);
                    let name = format!("{dims:?} {map:?}, {eps}, native {native}");
                    assert_close(&name, "y", &actual[0], &expected[0], TOL);
                    // One value of unit length has no direction to move in: its gradient is rounding.
                    if dims[3] > 1 {
                        assert_close(&name, "d_x", &actual[1], &expected[1], TOL);
                    }
                }
            }
        }
    }
}

/// Queries and keys in one call: both and their gradients, each as alone.
fn two_at_once_are_each(device: &Device) {
    let dims = [2, 5, 3, 6];
    let tracked = device.clone().autodiff();
    let rotary_dims = RotaryDims {
        key_dim: 6,
        rotated: 4,
        base: 100.0,
        scaling: Scaling::None,
    };
    let rotary = Rotary::new(&[0, 7], 5, rotary_dims, device);
    let (one, d_y) = seeded(dims);
    let other: Vec<f64> = one.iter().rev().copied().collect();
    let answers = |together: bool| {
        let leaf = |x: &[f64]| tensor::<4>(x, dims, DType::F32, &tracked).require_grad();
        let leaves = [leaf(&one), leaf(&other)];
        let results = match together {
            true => rotary.units(leaves.clone(), FeatureMap::Relu, L2_EPS),
            false => leaves
                .clone()
                .map(|x| rotary.unit(x, FeatureMap::Relu, L2_EPS)),
        };
        let d_y = tensor(&d_y, dims, DType::F32, &tracked);
        let [a, b] = results.clone();
        let grads = ((a * d_y.clone()).sum() + (b * d_y * 3.0).sum()).backward();
        let grads = leaves.map(|leaf| values(leaf.grad(&grads).expect("a gradient")));
        (results.map(|y| values(y.inner())), grads)
    };
    let (together, alone) = (answers(true), answers(false));
    for i in 0..2 {
        assert_close("two", "y", &together.0[i], &alone.0[i], TOL);
        assert_close("two", "d_x", &together.1[i], &alone.1[i], TOL);
    }
    assert!(
        compare(&together.1[1], &alone.1[0], TOL).is_err(),
        "not one for both"
    );
}

#[test]
fn the_reference_matches_finite_differences_and_the_wrong_way_round_does_not() {
    let (x, angles) = ([0.4, -1.2, 0.7, -0.1, 0.9], [0.3, -2.0]);
    let d_y = [1.0, -0.5, 0.2, 0.8, -1.1];
    for map in [
        (FeatureMap::Identity, L2_EPS),
        (FeatureMap::EluPlusOne, 0.5),
    ] {
        let loss = |x: &[f64]| -> f64 {
            let y = reference::forward(map, x, &angles);
            y.iter().zip(d_y).map(|(y, d)| y * d).sum()
        };
        let slopes: Vec<f64> = (0..x.len())
            .map(|i| {
                let (mut up, mut down) = (x, x);
                up[i] += 1e-5;
                down[i] -= 1e-5;
                (loss(&up) - loss(&down)) / 2e-5
            })
            .collect();
        let right = reference::backward(map, &x, &angles, &d_y);
        assert_close("differences", "d_x", &slopes, &right, TOL);
        let wrong = reference::backward(map, &x, &angles.map(|angle| -angle), &d_y);
        assert!(compare(&wrong, &right, TOL).is_err());
    }
}

on_every_device!(matches_the_reference_gradients_too, two_at_once_are_each);
