//! The projection against its reference, weights stored both ways, gradients too.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device, Tensor, bf16};
use infinity_kernels::linear::{
    linear, projections, projections_and, projections_rounded, reference,
};
use infinity_kernels::rounding::reference::rounded as half_of;
use infinity_kernels::rounding::{Half, HalfSupport, Rounding};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-24: 2e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 0.0,
};

fn matches_the_reference_however_the_weight_is_stored(device: &Device) {
    let tol = TOL.of_products(device, 1);
    // The last two have more weights than one thread takes at a time; nine rows are not few.
    let sizes = [
        [1, 1, 1, 1],
        [1, 1, 7, 5],
        [3, 2, 33, 17],
        [1, 9, 20, 30],
        [1, 1, 700, 333],
        [2, 1, 130, 1111],
    ];
    for [b, t, width, out] in cases(device, sizes, 2) {
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
            assert_close(&name, part, &y, &expected, tol);
            // A GPU tries several products and keeps the fastest.
            if *device == Device::flex() {
                let again = values(linear(x.clone(), weight));
                assert_eq!(again, y, "two runs give the same bits");
            }
        }
    }
}

/// A weight that does not learn has no gradient, and the others have the bits that they have beside one that does;
/// nor has an input that nobody asked about.
#[test]
fn what_is_frozen_has_no_gradient_and_changes_no_other() {
    let device = Device::flex().autodiff();
    let mut random = Random(7);
    let (b, t, width, outs) = (2, 40, 33, [17, 20]);
    let x = random.values(b * t * width, -1.0, 1.0);
    let weights = outs.map(|out| random.values(width * out, -1.0, 1.0));
    let gradients = |of_x: bool, learn: [bool; 2]| {
        let x = tensor(&x, [b, t, width], DType::F32, &device).set_require_grad(of_x);
        let of = |i: usize| {
            let weight = tensor(&weights[i], [width, outs[i]], DType::F32, &device);
            weight.set_require_grad(learn[i])
        };
        let weights = [of(0), of(1)];
        let all = projections(x.clone(), weights.to_vec());
        let squares = all.into_iter().map(|y| (y.clone() * y).sum());
        let grads = squares.reduce(Tensor::add).expect("two").backward();
        let each = weights.map(|weight| weight.grad(&grads).map(values));
        (x.grad(&grads).map(values), each)
    };
    let (d_x, [first, second]) = gradients(true, [true, true]);
    assert!(d_x.is_some() && first.is_some() && second.is_some());
    let frozen = gradients(true, [false, true]);
    assert_eq!(frozen, (d_x.clone(), [None, second.clone()]));
    assert_eq!(gradients(true, [false, false]), (d_x, [None, None]));
    assert_eq!(gradients(false, [true, false]), (None, [first, None]));
}

/// Rows enough for the products of training, widths that fill no block.
fn gradients_match_the_reference_however_the_weight_is_stored(device: &Device) {
    let tol = TOL.of_products(device, 1);
    let sizes = cases(
        device,
        [[1, 65, 1, 3], [2, 40, 33, 17], [3, 100, 20, 130]],
        1,
    );
    let device = device.clone().autodiff();
    for [b, t, width, out] in sizes {
        let rows = b * t;
        let mut random = Random(4);
        let mut draw = |len| random.values(len, -1.0, 1.0);
        let (x, weight, d_y) = (draw(rows * width), draw(width * out), draw(rows * out));
        let size = [rows, width, out];
        let expected = reference::forward(size, &x, &weight);
        let (d_x, d_weight) = reference::backward(size, &x, &weight, &d_y);
        let stored: Vec<f64> = (0..width * out)
            .map(|at| weight[at % width * out + at / width])
            .collect();
        for by_columns in [false, true] {
            let x = tensor(&x, [b, t, width], DType::F32, &device).require_grad();
            let weight = match by_columns {
                false => tensor(&weight, [width, out], DType::F32, &device).require_grad(),
                true => tensor(&stored, [out, width], DType::F32, &device).require_grad(),
            };
            let used = match by_columns {
                false => weight.clone(),
                true => weight.clone().transpose(),
            };
            let y = linear(x.clone(), used);
            let loss = (y.clone() * tensor(&d_y, [b, t, out], DType::F32, &device)).sum();
            let grads = loss.backward();
            let of_weight = weight.grad(&grads).expect("a gradient");
            let of_weight = match by_columns {
                false => of_weight,
                true => of_weight.transpose(),
            };
            let name = format!("[{b}, {t}, {width}, {out}] {by_columns}");
            let of_x = values(x.grad(&grads).expect("a gradient"));
            assert_close(&name, "y", &values(y.inner()), &expected, tol);
            assert_close(&name, "d_x", &of_x, &d_x, tol);
            assert_close(&name, "d_weight", &values(of_weight), &d_weight, tol);
        }
    }
}

/// Factors rounded to a half format: few rows and many, with gradients and without, by the instructions that the machine
/// has. Results that are not rounded are the reference's for rounded factors, and rounded ones lie next to them.
#[test]
fn factors_are_rounded_and_sums_are_not() {
    let device = Device::flex();
    for (half, unit) in [(Half::Bf16, 2f64.powi(-8)), (Half::F16, 2f64.powi(-11))] {
        for [t, width, out] in [[1, 33, 17], [9, 20, 30], [65, 33, 17], [100, 700, 130]] {
            let mut random = Random(11);
            let mut draw = |len| random.values(len, -1.0, 1.0);
            let (x, weight, d_y) = (draw(t * width), draw(width * out), draw(t * out));
            let size = [t, width, out];
            let [rx, rw, rd] = [&x, &weight, &d_y].map(|x| {
                let rounded = x.iter().map(|x| half_of(f64::from(*x as f32), half));
                rounded.collect::<Vec<f64>>()
            });
            let expected = reference::forward(size, &rx, &rw);
            let (d_x, d_weight) = reference::backward(size, &rx, &rw, &rd);
            let name = format!("{half:?} [{t}, {width}, {out}]");
            let inputs = |device: &Device| {
                let x = tensor(&x, [1, t, width], DType::F32, device);
                (x, tensor(&weight, [width, out], DType::F32, device))
            };
            let product = |(x, weight): (Tensor<3>, Tensor<2>), results| {
                let rounding = Rounding { half, results };
                projections_rounded(x, vec![weight], rounding).remove(0)
            };
            let is_near = |part: &str, got: &[f64], want: &[f64]| {
                for (got, want) in got.iter().zip(want) {
                    assert_eq!(half_of(*got, half), *got, "{name} {part} is in the format");
                    let most = want.abs() * unit + 1e-5;
                    assert!((got - want).abs() <= most, "{name} {part}: {got} {want}");
                }
            };
            let y = values(product(inputs(&device), false));
            assert_close(&name, "y", &y, &expected, TOL);
            is_near("y", &values(product(inputs(&device), true)), &expected);
            let unrounded = reference::forward(size, &x, &weight);
            assert!(
                compare(&y, &unrounded, TOL).is_err(),
                "{name}: factors as they were are seen"
            );

            let learning = device.clone().autodiff();
            let (x, weight) = inputs(&learning);
            let (x, weight) = (x.require_grad(), weight.require_grad());
            let y = product((x.clone(), weight.clone()), true);
            let loss = y * tensor(&d_y, [1, t, out], DType::F32, &learning);
            let grads = loss.sum().backward();
            is_near("d_x", &values(x.grad(&grads).expect("a gradient")), &d_x);
            let of_weight = values(weight.grad(&grads).expect("a gradient"));
            assert_close(&name, "d_weight", &of_weight, &d_weight, TOL);
        }
    }
}

/// A weight without columns has a result without values, and the one beside it the bits that it has alone.
#[test]
fn an_empty_weight_changes_no_other_that_is_rounded() {
    let device = Device::flex();
    for half in [Half::Bf16, Half::F16] {
        for [b, t, width, out] in [[1, 1, 33, 17], [2, 40, 33, 17]] {
            let mut random = Random(12);
            let mut draw = |len| random.values(len, -1.0, 1.0);
            let x = tensor(&draw(b * t * width), [b, t, width], DType::F32, &device);
            let full = tensor(&draw(width * out), [width, out], DType::F32, &device);
            let empty = Tensor::zeros([width, 0], &device);
            let products = |weights: &[&Tensor<2>]| {
                let weights = weights.iter().map(|weight| (*weight).clone());
                let results = true;
                projections_rounded(x.clone(), weights.collect(), Rounding { half, results })
            };
            let alone = products(&[&full]).remove(0);
            let [beside, none] = products(&[&full, &empty]).try_into().expect("two results");
            assert_eq!(none.dims(), [b, t, 0]);
            assert_eq!(values(beside), values(alone));
            assert!(products(&[]).is_empty());
        }
    }
}

/// Weights in bf16 beside an input in f32 count as the values that they have: few rows and many, wider than what is
/// widened at once, stored both ways, and the gradient of the input. Values before rounding are far off.
fn a_weight_in_bf16_counts_as_its_values(device: &Device) {
    if HalfSupport::of(device, Half::Bf16) == HalfSupport::Missing {
        // Nothing is kept so there: a model says it.
        return;
    }
    let tol = TOL.of_products(device, 1);
    let with_gradient = device.clone().autodiff();
    for [t, width, out] in [[1, 33, 17], [40, 33, 17], [60, 700, 3_001]] {
        let mut random = Random(9);
        let mut draw = |len| random.values(len, -1.0, 1.0);
        let (x, weight, d_y) = (draw(t * width), draw(width * out), draw(t * out));
        let rounded = |x: &f64| f64::from(bf16::from_f32(*x as f32).to_f32());
        let values_of: Vec<f64> = weight.iter().map(rounded).collect();
        let size = [t, width, out];
        let expected = reference::forward(size, &x, &values_of);
        let (expected_d_x, _) = reference::backward(size, &x, &values_of, &d_y);
        let stored: Vec<f64> = (0..width * out)
            .map(|at| weight[at % width * out + at / width])
            .collect();
        for by_columns in [false, true] {
            let weight = match by_columns {
                false => tensor::<2>(&weight, [width, out], DType::BF16, device),
                true => tensor::<2>(&stored, [out, width], DType::BF16, device).transpose(),
            };
            let name = format!("[{t}, {width}, {out}] {by_columns}");
            let y = linear(
                tensor(&x, [1, t, width], DType::F32, device),
                weight.clone(),
            );
            assert_close(&name, "y", &values(y), &expected, tol);

            let x = tensor::<3>(&x, [1, t, width], DType::F32, &with_gradient).require_grad();
            let y = linear(x.clone(), Tensor::from_inner(weight));
            let loss = (y * tensor(&d_y, [1, t, out], DType::F32, &with_gradient)).sum();
            let d_x = x.grad(&loss.backward()).expect("a gradient");
            assert_close(&name, "d_x", &values(d_x), &expected_d_x, tol);
        }
        let unrounded = reference::forward(size, &x, &weight);
        assert!(compare(&unrounded, &expected, tol).is_err());
    }
}

/// Several weights of one input: each result its own, the input's gradient the sum, and zeros for the
/// weight whose result nobody uses.
fn several_projections_are_each_and_their_gradients_add_up(device: &Device) {
    let tol = TOL.of_products(device, 1);
    let widths = [30, 17, 5, 64];
    for [b, t, width] in [[1, 1, 33], [2, 3, 33], [2, 50, 33], [1, 20, 33]] {
        let rows = b * t;
        let mut random = Random(7);
        let mut draw = |len| random.values(len, -1.0, 1.0);
        let x = draw(rows * width);
        let weights = widths.map(|out| draw(width * out));
        let d_y = widths.map(|out| draw(rows * out));
        let name = format!("[{b}, {t}, {width}]");
        let three = |values: &[f64], out: usize, device: &Device| {
            tensor::<3>(values, [b, t, out], DType::F32, device)
        };
        let forward = |device: &Device| {
            let x = three(&x, width, device);
            let two = |i: usize| tensor(&weights[i], [width, widths[i]], DType::F32, device);
            let weights: Vec<Tensor<2>> = (0..4).map(two).collect();
            match device.is_autodiff() {
                false => (projections(x.clone(), weights.clone()), x, weights),
                true => {
                    let weights: Vec<_> = weights.into_iter().map(Tensor::require_grad).collect();
                    let x = x.require_grad();
                    (projections(x.clone(), weights.clone()), x, weights)
                }
            }
        };
        let (y, ..) = forward(device);
        for (i, y) in y.into_iter().enumerate() {
            let expected = reference::forward([rows, width, widths[i]], &x, &weights[i]);
            assert_close(&name, &format!("y {i}"), &values(y), &expected, tol);
        }

        let device = device.clone().autodiff();
        let (y, leaf, leaves) = forward(&device);
        // The last result is not used.
        let used = y.into_iter().zip(&d_y).take(3).enumerate();
        let loss = used
            .map(|(i, (y, d_y))| (y * three(d_y, widths[i], &device)).sum())
            .reduce(|a, b| a + b)
            .expect("three results");
        let grads = loss.backward();
        let mut d_x = vec![0.0; rows * width];
        for i in 0..3 {
            let size = [rows, width, widths[i]];
            let (of_x, of_weight) = reference::backward(size, &x, &weights[i], &d_y[i]);
            d_x.iter_mut().zip(of_x).for_each(|(sum, d)| *sum += d);
            let got = values(leaves[i].grad(&grads).expect("a gradient"));
            assert_close(&name, &format!("d_weight {i}"), &got, &of_weight, tol);
        }
        let got = values(leaf.grad(&grads).expect("a gradient"));
        assert_close(&name, "d_x", &got, &d_x, tol);
        if let Some(grad) = leaves[3].grad(&grads) {
            assert!(values(grad).iter().all(|d| *d == 0.0), "{name}");
        }
        // The last two share a result.
        let weight =
            |i: usize| tensor(&weights[i], [width, widths[i]], DType::F32, &device).require_grad();
        let leaves: Vec<Tensor<2>> = (0..4).map(weight).collect();
        let (thick, thin) = (leaves[..2].to_vec(), leaves[2..].to_vec());
        let (y, shared) = projections_and(three(&x, width, &device), thick, thin);
        let of_shared = [
            shared.clone().narrow(2, 0, widths[2]),
            shared.narrow(2, widths[2], widths[3]),
        ];
        let y: Vec<_> = y.into_iter().chain(of_shared).collect();
        let losses = y.iter().zip(&d_y).zip(widths);
        let loss = losses
            .map(|((y, d_y), out)| (y.clone() * three(d_y, out, &device)).sum())
            .reduce(|a, b| a + b);
        let grads = loss.expect("four results").backward();
        for i in 0..4 {
            let size = [rows, width, widths[i]];
            let (_, of_weight) = reference::backward(size, &x, &weights[i], &d_y[i]);
            let got = values(leaves[i].grad(&grads).expect("a gradient"));
            assert_close(
                &name,
                &format!("d_weight {i}, shared"),
                &got,
                &of_weight,
                tol,
            );
            let expected = reference::forward(size, &x, &weights[i]);
            let got = values(y[i].clone().inner());
            assert_close(&name, &format!("y {i}, shared"), &got, &expected, tol);
        }
        let (alone, _) = reference::backward([rows, width, widths[0]], &x, &weights[0], &d_y[0]);
        assert!(compare(&alone, &d_x, TOL).is_err(), "a lost term is caught");
    }
}

#[test]
fn the_reference_gradient_matches_finite_differences() {
    let size = [2, 3, 2];
    let (x, weight) = (
        Random(5).values(6, -1.0, 1.0),
        Random(6).values(6, -1.0, 1.0),
    );
    let d_y = [0.5, -1.0, 2.0, 0.25];
    let loss = |x: &[f64], weight: &[f64]| -> f64 {
        let y = reference::forward(size, x, weight);
        y.iter().zip(d_y).map(|(y, d)| y * d).sum()
    };
    let moved = |values: &[f64], at: usize, by: f64| {
        let mut values = values.to_vec();
        values[at] += by;
        values
    };
    let (d_x, d_weight) = reference::backward(size, &x, &weight, &d_y);
    for at in 0..6 {
        let slope = loss(&moved(&x, at, 1e-5), &weight) - loss(&moved(&x, at, -1e-5), &weight);
        assert!((slope / 2e-5 - d_x[at]).abs() < 1e-9, "x {at}");
        let slope = loss(&x, &moved(&weight, at, 1e-5)) - loss(&x, &moved(&weight, at, -1e-5));
        assert!((slope / 2e-5 - d_weight[at]).abs() < 1e-9, "weight {at}");
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
    gradients_match_the_reference_however_the_weight_is_stored,
    several_projections_are_each_and_their_gradients_add_up,
    a_weight_in_bf16_counts_as_its_values,
    a_row_that_is_not_finite_stays_alone_and_a_lost_weight_is_caught
);
