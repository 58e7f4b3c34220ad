//! Short convolution against its reference, whole and in parts.

use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::short_conv::{reference, short_conv};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-23: 6e-8.
const TOL: Tol = Tol {
    rms_ratio: 5e-7,
    worst_over_rms: 10.0,
    floor: 0.0,
};

#[test]
fn matches_the_reference_and_can_be_cut_anywhere() {
    let device = Device::flex();
    for [b, t, channels, kernel] in [[1, 1, 3, 4], [2, 9, 5, 4], [1, 2, 4, 4], [2, 6, 3, 1]] {
        let mut random = Random(9);
        let x = random.values(b * t * channels, -1.0, 1.0);
        let weight = random.values(channels * kernel, -1.0, 1.0);
        let tail = random.values(b * channels * (kernel - 1), -1.0, 1.0);
        let expected = reference::forward([b, t, channels, kernel], &x, &weight, &tail);
        let x = tensor(&x, [b, t, channels], DType::F32, &device);
        let weight = tensor(&weight, [channels, kernel], DType::F32, &device);
        let tail = tensor(&tail, [b, channels, kernel - 1], DType::F32, &device);
        let (whole, end) = short_conv(x.clone(), weight.clone(), tail.clone());
        assert_close("whole", "y", &values(whole.clone()), &expected, TOL);
        for cut in 1..t {
            let (first, tail) = short_conv(
                x.clone().slice([0..b, 0..cut]),
                weight.clone(),
                tail.clone(),
            );
            let (second, tail) = short_conv(x.clone().slice([0..b, cut..t]), weight.clone(), tail);
            let joined = Tensor::cat(vec![first, second], 1);
            joined
                .into_data()
                .assert_eq(&whole.clone().into_data(), true);
            tail.into_data().assert_eq(&end.clone().into_data(), true);
        }
    }
}

#[test]
fn a_flipped_kernel_is_caught() {
    let (x, tail) = (Random(1).values(20, -1.0, 1.0), vec![0.0; 15]);
    let weight = Random(2).values(20, -1.0, 1.0);
    let flipped: Vec<f64> = weight
        .chunks(4)
        .flat_map(|row| row.iter().rev().copied())
        .collect();
    let right = reference::forward([1, 4, 5, 4], &x, &weight, &tail);
    let wrong = reference::forward([1, 4, 5, 4], &x, &flipped, &tail);
    assert!(compare(&wrong, &right, TOL).is_err());
}
