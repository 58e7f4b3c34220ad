//! Losses of logits and their gradients against the reference, natively and on tensors.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use infinity_kernels::cross_entropy::{Targets, cross_entropy, reference, tensors, with_gradient};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-28: 2e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 30.0,
    floor: 1e-9,
};
const SCALE: f64 = 0.25;

/// Logits of very different sizes, and targets of which some do not count, the first among them.
fn seeded([rows, width]: [usize; 2]) -> (Vec<f64>, Vec<i32>) {
    let mut random = Random(9);
    let mut logits = random.values(rows * width, -4.0, 4.0);
    for (i, row) in logits.chunks_exact_mut(width).enumerate() {
        // What overflows without the largest taken off.
        row.iter_mut().for_each(|x| *x += (i % 5) as f64 * 50.0);
    }
    let target = |i: usize| match i % 4 {
        0 if rows > 1 => -100,
        _ => (i * 7 % width) as i32,
    };
    (logits, (0..rows).map(target).collect())
}

fn matches_the_reference(device: &Device) {
    for dims in [[1, 1], [3, 2], [9, 65], [40, 1000], [2, 5000]] {
        let (x, targets) = seeded(dims);
        let (losses, grads) = reference::cross_entropy(&x, &targets, dims[1], SCALE);
        let logits = tensor(&x, dims, DType::F32, device);
        let on_device = Targets::new(&targets, device);
        let (native, d_native) = with_gradient(logits.clone(), &on_device, SCALE);
        let ids: Vec<i32> = targets.iter().map(|id| (*id).max(0)).collect();
        let ids = TensorData::new(ids, [dims[0], 1]);
        let ids = Tensor::<2, Int>::from_data(ids, device);
        let counts: Vec<f64> = targets
            .iter()
            .map(|id| f64::from(u8::from(*id >= 0)))
            .collect();
        let counts = tensor(&counts, [dims[0], 1], DType::F32, device);
        let (composed, d_composed) = tensors::with_gradient(logits.clone(), ids, counts, SCALE);
        let name = format!("{dims:?}");
        for (form, of, d) in [
            ("native", native, d_native),
            ("tensors", composed, d_composed),
        ] {
            let name = format!("{form} {name}");
            assert_close(&name, "losses", &values(of), &losses, TOL);
            assert_close(&name, "gradient", &values(d), &grads, TOL);
        }
        let alone = cross_entropy(logits.clone(), &on_device);
        assert_close(&name, "losses alone", &values(alone), &losses, TOL);
        if dims[0] > 2 {
            let part = cross_entropy(logits.narrow(0, 1, 2), &on_device.narrow(1, 2));
            assert_close(&name, "two of them", &values(part), &losses[1..3], TOL);
        }
    }
}

#[test]
fn a_target_that_must_not_count_is_caught() {
    let (x, targets) = seeded([9, 65]);
    let (losses, grads) = reference::cross_entropy(&x, &targets, 65, SCALE);
    let counted: Vec<i32> = targets.iter().map(|id| (*id).max(0)).collect();
    let (other, d_other) = reference::cross_entropy(&x, &counted, 65, SCALE);
    assert!(compare(&other, &losses, TOL).is_err());
    assert!(compare(&d_other, &grads, TOL).is_err());
}

on_every_device!(matches_the_reference);
