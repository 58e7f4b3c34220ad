//! The sum of many tensors' squares against its reference, natively and on tensors.

use crate::devices::on_every_device;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::square_sum::{reference, square_sum, tensors};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-28: 1e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// More tensors than a launch takes, of one number up to more than all cubes have units.
fn numbers() -> Vec<Vec<f64>> {
    let mut random = Random(3);
    let lengths = (0..70).map(|i| 1 + i * i % 977).chain([40_000]);
    lengths.map(|len| random.values(len, -1.0, 2.0)).collect()
}

fn matches_the_reference(device: &Device) {
    let numbers = numbers();
    for count in [1, 2, numbers.len()] {
        let expected = [reference::square_sum(&numbers[numbers.len() - count..])];
        let on_device = |x: &Vec<f64>| tensor(x, [x.len()], DType::F32, device);
        let all: Vec<Tensor<1>> = numbers[numbers.len() - count..]
            .iter()
            .map(on_device)
            .collect();
        let name = format!("{count} tensors");
        assert_close(
            &name,
            "native",
            &values(square_sum(all.clone())),
            &expected,
            TOL,
        );
        assert_close(
            &name,
            "tensors",
            &values(tensors::square_sum(all)),
            &expected,
            TOL,
        );
    }
}

#[test]
fn a_tensor_left_out_is_caught() {
    let numbers = numbers();
    let whole = reference::square_sum(&numbers);
    // The least of them: one number.
    let without = reference::square_sum(&numbers[1..]);
    let tol = Tol {
        rms_ratio: (numbers[0][0].powi(2) / whole).min(TOL.rms_ratio) / 2.0,
        ..TOL
    };
    assert!(compare(&[without], &[whole], tol).is_err());
    let without = reference::square_sum(&numbers[..numbers.len() - 1]);
    assert!(compare(&[without], &[whole], TOL).is_err());
}

on_every_device!(matches_the_reference);
