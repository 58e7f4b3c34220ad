//! The projection of few rows against its reference, weights stored both ways.

mod devices;

use burn::tensor::{DType, Device};
use devices::on_every_device;
use infinity_kernels::linear::{linear, reference};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-24: 2e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 0.0,
};

fn matches_the_reference_however_the_weight_is_stored(device: &Device) {
    // The last two have more weights than one thread takes at a time; nine rows are not few.
    for [b, t, width, out] in [
        [1, 1, 1, 1],
        [1, 1, 7, 5],
        [3, 2, 33, 17],
        [1, 9, 20, 30],
        [1, 1, 700, 333],
        [2, 1, 130, 1111],
    ] {
        let (x, weight) = (
            Random(1).values(b * t * width, -1.0, 1.0),
            Random(2).values(width * out, -1.0, 1.0),
        );
        let expected = reference::forward([b * t, width, out], &x, &weight);
        let x = tensor(&x, [b, t, width], DType::F32, device);
        let by_rows = tensor(&weight, [width, out], DType::F32, device);
        // The same values, stored by columns.
        let stored: Vec<f64> = (0..width * out)
            .map(|at| weight[at % width * out + at / width])
            .collect();
        let by_columns = tensor(&stored, [out, width], DType::F32, device).transpose();
        let name = format!("[{b}, {t}, {width}, {out}]");
        for (part, weight) in [("rows", by_rows), ("columns", by_columns)] {
            let y = values(linear(x.clone(), weight.clone()));
            assert_close(&name, part, &y, &expected, TOL);
            // A GPU tries several products and keeps the fastest.
            if *device == Device::flex() {
                let again = values(linear(x.clone(), weight));
                assert_eq!(again, y, "two runs give the same bits");
            }
        }
    }
}

fn a_row_that_is_not_finite_stays_alone_and_a_lost_weight_is_caught(device: &Device) {
    let x = tensor(&[1.0, f64::NAN, 2.0, 3.0], [1, 2, 2], DType::F32, device);
    let weight = tensor(&[1.0, 2.0, 3.0, 4.0], [2, 2], DType::F32, device);
    let y = values(linear(x, weight));
    assert!(y[..2].iter().all(|y| y.is_nan()), "{y:?}");
    assert_eq!(y[2..], [11.0, 16.0]);
    let right = reference::forward([1, 3, 1], &[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0]);
    let wrong = reference::forward([1, 3, 1], &[1.0, 2.0, 3.0], &[1.0, 1.0, 0.0]);
    assert!(compare(&wrong, &right, TOL).is_err());
}

on_every_device!(
    matches_the_reference_however_the_weight_is_stored,
    a_row_that_is_not_finite_stays_alone_and_a_lost_weight_is_caught
);
