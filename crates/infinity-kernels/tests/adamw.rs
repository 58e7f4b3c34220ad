//! AdamW's update against its reference, several in a row, native and on tensors.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::adamw::{AdamW, adamw, reference, tensors};
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
    }
}

/// What three updates leave of weights and moments by the reference, then natively and on tensors.
fn three_updates(device: &Device, len: usize) -> [[Vec<f64>; 3]; 3] {
    let mut random = Random(7);
    let start = random.values(len, -1.0, 1.0);
    let grads = [(); 3].map(|()| random.values(len, -2.0, 2.0));
    let mut expected = [start.clone(), vec![0.0; len], vec![0.0; len]];
    let on_device = |x: &[f64]| tensor(x, [len], DType::F32, device);
    let zeros = vec![0.0; len];
    let begin = || (on_device(&start), [on_device(&zeros), on_device(&zeros)]);
    let (mut native, mut composed) = (begin(), begin());
    for (i, grad) in grads.iter().enumerate() {
        let rule = rule(i as i32 + 1);
        let [w, m, v] = &expected;
        expected = reference::adamw(rule, w, grad, [m, v]);
        native = adamw(rule, native.0, on_device(grad), native.1);
        composed = tensors::adamw(rule, composed.0, on_device(grad), composed.1);
    }
    let all = |(w, [m, v]): (Tensor<1>, [Tensor<1>; 2])| [w, m, v].map(values);
    [expected, all(native), all(composed)]
}

fn matches_the_reference(device: &Device) {
    // The last is more than a thread takes at a time.
    for len in [1, 17, 40_000] {
        let [expected, native, composed] = three_updates(device, len);
        for (i, part) in ["weights", "first", "second"].iter().enumerate() {
            assert_close("native", part, &native[i], &expected[i], TOL);
            assert_close("tensors", part, &composed[i], &expected[i], TOL);
        }
        if *device == Device::flex() {
            assert_eq!(native, composed, "the same operations, the same bits");
        }
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
