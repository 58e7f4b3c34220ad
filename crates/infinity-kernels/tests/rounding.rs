//! Rounding to half against its reference and against Burn's casts, gradients too.

use burn::tensor::{DType, Device};
use infinity_kernels::rounding::{Half, HalfSupport, reference, rounded};
use infinity_kernels::testing::{Random, tensor, values};

/// Every exponent that `f32` has down to where both formats end, and the places where rules change.
fn probes() -> Vec<f64> {
    let mut random = Random(5);
    let mut probes: Vec<f64> = (-149..128)
        .flat_map(|exponent| {
            let scale = 2f64.powi(exponent);
            random
                .values(40, -2.0, 2.0)
                .into_iter()
                .map(move |x| x * scale)
        })
        .collect();
    for size in [
        65504.0,
        65519.996,
        65520.0,
        65536.0,
        3.389_53e38,
        3.4e38,
        1.0 + 2f64.powi(-8),
        1.0 + 3.0 * 2f64.powi(-8),
        1.0 + 2f64.powi(-11),
        1.0 + 3.0 * 2f64.powi(-11),
        2f64.powi(-25),
        3.0 * 2f64.powi(-25),
        2f64.powi(-14),
        2f64.powi(-14) * (1.0 - 2f64.powi(-12)),
        0.0,
        f64::INFINITY,
    ] {
        probes.extend([size, -size]);
    }
    probes.iter().map(|x| f64::from(*x as f32)).collect()
}

#[test]
fn every_value_is_the_reference_and_the_cast_of_burn() {
    let device = Device::flex();
    let probes = probes();
    for half in [Half::Bf16, Half::F16] {
        let x = tensor(&probes, [probes.len()], DType::F32, &device);
        let actual = values(rounded(x.clone(), half));
        let cast = values(x.cast(half.dtype()).cast(DType::F32));
        for ((x, actual), cast) in probes.iter().zip(actual).zip(cast) {
            let expected = reference::rounded(*x, half);
            assert_eq!(actual, expected, "{x:e} in {half:?}");
            assert_eq!(actual.is_sign_negative(), x.is_sign_negative(), "{x:e}");
            assert_eq!(actual, cast, "{x:e} in {half:?}, by a cast");
        }
    }
}

#[test]
fn nan_stays_nan() {
    let device = Device::flex();
    for half in [Half::Bf16, Half::F16] {
        for bits in [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff_u32] {
            let x = tensor(&[f64::from(f32::from_bits(bits))], [1], DType::F32, &device);
            assert!(values(rounded(x, half))[0].is_nan(), "{bits:x}");
        }
    }
}

#[test]
fn the_gradient_is_rounded_and_formats_differ() {
    let device = Device::flex().autodiff();
    let slopes = [1e-9, 1.0 / 3.0, 3e-5, 7e4];
    let mut seen = Vec::new();
    for half in [Half::Bf16, Half::F16] {
        let x = tensor(&[0.1, 0.2, 0.3, 0.4], [2, 2], DType::F32, &device).require_grad();
        let slope = tensor(&slopes, [2, 2], DType::F32, &device);
        let grads = (rounded(x.clone(), half) * slope).sum().backward();
        let grad = values(x.grad(&grads).unwrap());
        for (slope, grad) in slopes.iter().zip(&grad) {
            let expected = reference::rounded(f64::from(*slope as f32), half);
            assert_eq!(*grad, expected, "{slope:e} in {half:?}");
        }
        seen.push(grad);
    }
    assert_ne!(seen[0], seen[1], "one format must not pass for the other");
    assert_eq!((seen[1][0], seen[1][3]), (0.0, f64::INFINITY));
}

#[test]
fn views_are_rounded_in_their_own_order() {
    let device = Device::flex();
    let mut random = Random(8);
    let x = tensor(&random.values(15, -3.0, 3.0), [3, 5], DType::F32, &device);
    let turned = values(rounded(x.clone().transpose(), Half::Bf16));
    let straight = values(rounded(x, Half::Bf16).transpose());
    assert_eq!(turned, straight);
}

#[test]
fn flex_is_known_to_widen() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for half in [Half::Bf16, Half::F16] {
            assert_eq!(HalfSupport::of(&device, half), HalfSupport::Widened);
        }
    }
}
