//! Muon's step of several matrices against its reference, twice in a row, natively and on tensors.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::muon::{Matrix, Muon, muon, reference, tensors};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Newton–Schulz magnifies roundings (its own test); here they are a part of the weights. Worst RMS ratio on Flex,
/// 2026-11-28: 2e-7.
const TOL: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 30.0,
    floor: 0.0,
};

/// Two shapes, one of them three times and once with another rate.
const DIMS: [[usize; 2]; 5] = [[6, 9], [9, 6], [6, 9], [6, 9], [6, 9]];

fn rule(i: usize, cautious: bool) -> Muon {
    Muon {
        momentum: 0.95,
        scale: 0.5,
        rate: if i == 3 { 0.05 } else { 0.02 },
        decay: 0.1,
        cautious,
    }
}

/// Weights and momenta of all matrices after two steps: by the reference, natively, on tensors.
fn two_steps(device: &Device, cautious: bool) -> [Vec<[Vec<f64>; 2]>; 3] {
    let mut random = Random(11);
    let mut draw = || DIMS.map(|[r, c]| random.values(r * c, -1.0, 1.0));
    let start = draw();
    let on_device = |i: usize, x: &[f64]| tensor(x, DIMS[i], DType::F32, device);
    let mut expected = start.clone().map(|w| [w.clone(), vec![0.0; w.len()]]);
    let begin = |(i, w): (usize, &Vec<f64>)| (on_device(i, w), None);
    let mut native: Vec<(Tensor<2>, Option<Tensor<2>>)> =
        start.iter().enumerate().map(begin).collect();
    let mut composed = native.clone();
    for _ in 0..2 {
        let grads = draw();
        for (i, numbers) in expected.iter_mut().enumerate() {
            let rule = rule(i, cautious);
            *numbers = reference::muon(rule, DIMS[i], &numbers[0], &grads[i], &numbers[1]);
        }
        let matrices = |before: Vec<(Tensor<2>, Option<Tensor<2>>)>| -> Vec<Matrix> {
            let one = |(i, (weights, velocity))| Matrix {
                rule: rule(i, cautious),
                weights,
                grad: on_device(i, &grads[i]),
                velocity,
            };
            before.into_iter().enumerate().map(one).collect()
        };
        let after = |(weights, velocity)| (weights, Some(velocity));
        native = muon(matrices(native)).into_iter().map(after).collect();
        let each = matrices(composed).into_iter().map(tensors::muon);
        composed = each.map(after).collect();
    }
    let [native, composed] = [native, composed].map(|all| {
        let one = |(weights, velocity): (Tensor<2>, Option<Tensor<2>>)| {
            [weights, velocity.expect("a momentum")].map(values)
        };
        all.into_iter().map(one).collect()
    });
    [expected.into(), native, composed]
}

fn matches_the_reference(device: &Device) {
    let tol = TOL.of_products(device, 25);
    for cautious in [false, true] {
        let [expected, native, composed] = two_steps(device, cautious);
        for i in 0..DIMS.len() {
            for (j, part) in ["weights", "momentum"].iter().enumerate() {
                let name = format!("{part} of matrix {i}");
                assert_close("native", &name, &native[i][j], &expected[i][j], tol);
                assert_close("tensors", &name, &composed[i][j], &expected[i][j], tol);
            }
        }
        if *device == Device::flex() {
            assert_eq!(native, composed, "the same operations, the same bits");
        }
    }
}

#[test]
fn decay_of_another_kind_is_caught() {
    let w = Random(1).values(54, -1.0, 1.0);
    let g = Random(2).values(54, -1.0, 1.0);
    let zeros = vec![0.0; 54];
    let [plain, cautious] =
        [false, true].map(|kind| reference::muon(rule(0, kind), DIMS[0], &w, &g, &zeros));
    assert!(compare(&cautious[0], &plain[0], TOL).is_err());
    assert_eq!(cautious[1], plain[1]);
}

on_every_device!(matches_the_reference);
