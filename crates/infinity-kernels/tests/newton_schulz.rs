//! Newton–Schulz, native and on tensors, against its reference.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device};
use infinity_kernels::newton_schulz::{newton_schulz, reference, tensors};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// The polynomials swing around 1, and the derivative of what they make of a singular value times that value is up to 45: so many
/// times nine products' roundings of 6e-8, and as much again for what their terms lose. Worst RMS ratio on Flex, 2026-11-29: 1.7e-5.
const TOL: Tol = Tol {
    rms_ratio: 1e-4,
    worst_over_rms: 20.0,
    floor: 0.0,
};

fn matches_the_reference(device: &Device) {
    // Nine in a row, and small singular values magnify what the first of them lost.
    let tol = TOL.of_products(device, 25);
    let sizes = [
        [1, 1],
        [3, 7],
        [7, 3],
        [16, 16],
        [40, 33],
        [65, 130],
        [130, 17],
    ];
    for [rows, columns] in cases(device, sizes, 2) {
        let g = Random(6).values(rows * columns, -1.0, 1.0);
        let expected = reference::forward([rows, columns], &g);
        let x = tensor(&g, [rows, columns], DType::F32, device);
        for (name, actual) in [
            ("native", newton_schulz(x.clone())),
            ("tensors", tensors::newton_schulz(x)),
        ] {
            let name = format!("{name} [{rows}, {columns}]");
            assert_close(&name, "x", &values(actual), &expected, tol);
        }
    }
}

/// A cosine of the orthonormal basis of `n` values.
fn cosine(n: usize, i: usize, at: usize) -> f64 {
    let norm = if i == 0 { 1.0 } else { 2.0 };
    (norm / n as f64).sqrt()
        * (std::f64::consts::PI * i as f64 * (at as f64 + 0.5) / n as f64).cos()
}

/// Singular values from 1 to 1e-4, as momenta have them. On the Gram matrix the small ones are squares near its rounding:
/// their directions are off by that much, which an update may be (about 3e-4 of the whole), and nothing grows.
fn small_singular_values_stay_harmless(device: &Device) {
    for [rows, columns] in cases(device, [[40, 90], [90, 40]], 1) {
        let least = rows.min(columns);
        let value = |i: usize| 10f64.powf(-4.0 * i as f64 / (least - 1) as f64);
        let g: Vec<f64> = (0..rows * columns)
            .map(|at| {
                let of = |i| cosine(rows, i, at / columns) * cosine(columns, i, at % columns);
                (0..least).map(|i| value(i) * of(i)).sum()
            })
            .collect();
        let expected = reference::forward([rows, columns], &g);
        let tol = Tol {
            rms_ratio: 2e-3,
            ..TOL
        };
        let actual = newton_schulz(tensor(&g, [rows, columns], DType::F32, device));
        assert_close("condition 1e4", "x", &values(actual), &expected, tol);
        // A direction lost is seen: those of the largest value alone are more than that.
        let first = |at| cosine(rows, 0, at / columns) * cosine(columns, 0, at % columns);
        let without: Vec<f64> = (0..g.len()).map(|at| expected[at] - first(at)).collect();
        assert!(compare(&without, &expected, tol).is_err());
    }
}

#[test]
fn singular_values_come_near_one() {
    let (rows, columns) = (24, 60);
    let g = Random(2).values(rows * columns, -1.0, 1.0);
    let x = reference::forward([rows, columns], &g);
    for i in 0..rows {
        let row = &x[i * columns..][..columns];
        let square: f64 = row.iter().map(|x| x * x).sum();
        assert!((0.4..1.5).contains(&square), "row {i}: {square}");
    }
}

/// The singular values of a diagonal matrix are its entries; a second one is almost the norm.
#[test]
fn every_singular_value_from_the_smallest_on_comes_near_one() {
    let of = |value: f64| {
        let rest = (1.0 - value * value).sqrt();
        reference::forward([2, 2], &[value, 0.0, 0.0, rest])[0]
    };
    let values = (0..=2_000).map(|i| 0.01 * (1.0f64 / 0.01).powf(f64::from(i) / 2_000.0));
    for value in values {
        assert!((0.71..1.29).contains(&of(value)), "{value}: {}", of(value));
    }
    assert!((0.07..0.08).contains(&of(0.001)) && of(1e-6) < 8e-5);
}

#[test]
fn zero_stays_zero_and_a_missing_step_is_caught() {
    let zero = tensor(&[0.0; 12], [3, 4], DType::F32, &Device::flex());
    assert_eq!(values(newton_schulz(zero)), [0.0; 12]);
    let g = Random(6).values(12, -1.0, 1.0);
    let once = reference::forward([3, 4], &g);
    let twice = reference::forward([3, 4], &once);
    assert!(compare(&twice, &once, TOL).is_err());
}

on_every_device!(matches_the_reference, small_singular_values_stay_harmless);
