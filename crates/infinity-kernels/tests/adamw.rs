//! AdamW's update against its reference, several in a row, native and on tensors.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::adamw::{AdamW, Parameter, adamw, reference, tensors};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-28: 1e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};

fn rule(time: i32) -> AdamW {
    AdamW {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        learning_rate: 0.01,
        weight_decay: 0.1,
        time,
        scale: 0.5,
    }
}

/// Lengths of parameters; the last is more than a thread takes at a time.
const LENGTHS: [usize; 4] = [1, 17, 300, 40_000];

/// Weights and moments of a parameter.
type Numbers = [Vec<f64>; 3];

/// What three updates leave of all parameters by the reference, then natively and on tensors. One of them has
/// another rate.
fn three_updates(device: &Device) -> [Vec<Numbers>; 3] {
    let mut random = Random(7);
    let rule = |i: usize, time| AdamW {
        learning_rate: if i == 1 { 0.03 } else { 0.01 },
        ..rule(time)
    };
    let start = LENGTHS.map(|len| random.values(len, -1.0, 1.0));
    let mut expected: Vec<Numbers> = Vec::from(start.map(|w| {
        let zeros = vec![0.0; w.len()];
        [w, zeros.clone(), zeros]
    }));
    let on_device = |x: &Vec<f64>| tensor(x, [x.len()], DType::F32, device);
    let begin = |[w, m, v]: &Numbers| (on_device(w), [on_device(m), on_device(v)]);
    let mut native: Vec<_> = expected.iter().map(begin).collect();
    let mut composed: Vec<_> = native.clone();
    for time in 1..=3 {
        let grads = LENGTHS.map(|len| random.values(len, -4.0, 4.0));
        for (i, (numbers, grad)) in expected.iter_mut().zip(&grads).enumerate() {
            let [w, m, v] = &*numbers;
            *numbers = reference::adamw(rule(i, time), w, grad, [m, v]);
        }
        let parameters = |before: Vec<(Tensor<1>, [Tensor<1>; 2])>| -> Vec<Parameter> {
            let pairs = before.into_iter().zip(&grads).enumerate();
            let one = |(i, ((weights, moments), grad))| Parameter {
                rule: rule(i, time),
                weights,
                grad: on_device(grad),
                moments,
            };
            pairs.map(one).collect()
        };
        native = adamw(parameters(native));
        composed = parameters(composed)
            .into_iter()
            .map(tensors::adamw)
            .collect();
    }
    let all = |(w, [m, v]): (Tensor<1>, [Tensor<1>; 2])| [w, m, v].map(values);
    let [native, composed] = [native, composed].map(|x| x.into_iter().map(all).collect());
    [expected, native, composed]
}

fn matches_the_reference(device: &Device) {
    let [expected, native, composed] = three_updates(device);
    for (i, len) in LENGTHS.iter().enumerate() {
        for (j, part) in ["weights", "first", "second"].iter().enumerate() {
            let part = format!("{part} of {len}");
            assert_close("native", &part, &native[i][j], &expected[i][j], TOL);
            assert_close("tensors", &part, &composed[i][j], &expected[i][j], TOL);
        }
    }
    if *device == Device::flex() {
        assert_eq!(native, composed, "the same operations, the same bits");
    }
}

#[test]
fn an_update_without_its_correction_is_caught() {
    let (start, grad) = (
        Random(1).values(9, -1.0, 1.0),
        Random(2).values(9, -1.0, 1.0),
    );
    let zeros = vec![0.0; 9];
    let [right, ..] = reference::adamw(rule(1), &start, &grad, [&zeros, &zeros]);
    let [late, ..] = reference::adamw(rule(2), &start, &grad, [&zeros, &zeros]);
    assert!(compare(&late, &right, TOL).is_err());
}

on_every_device!(matches_the_reference);
