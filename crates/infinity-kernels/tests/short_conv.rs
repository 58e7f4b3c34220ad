//! Short convolution against its reference, whole and in parts.

use crate::devices::on_every_device;
use burn::tensor::activation;
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::borders::Borders;
use infinity_kernels::short_conv::{
    Conv, reference, short_conv, short_conv_packed, short_conv_silu, short_conv_silu_each,
    short_conv_silu_packed,
};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};

/// Worst RMS ratio on Flex, 2026-11-23: 6e-8.
const TOL: Tol = Tol {
    rms_ratio: 5e-7,
    worst_over_rms: 10.0,
    floor: 0.0,
};

fn matches_the_reference_and_can_be_cut_anywhere(device: &Device) {
    for [b, t, channels, kernel] in [
        [1, 1, 3, 4],
        [2, 9, 5, 4],
        [1, 2, 4, 4],
        [2, 6, 3, 1],
        [2, 7, 32, 4],
    ] {
        let mut random = Random(9);
        let x = random.values(b * t * channels, -1.0, 1.0);
        let weight = random.values(channels * kernel, -1.0, 1.0);
        let tail = random.values(b * channels * (kernel - 1), -1.0, 1.0);
        let expected = reference::forward([b, t, channels, kernel], &x, &weight, &tail);
        let x = tensor(&x, [b, t, channels], DType::F32, device);
        let weight = tensor(&weight, [channels, kernel], DType::F32, device);
        let tail = tensor(&tail, [b, channels, kernel - 1], DType::F32, device);
        let (whole, end) = short_conv(x.clone(), weight.clone(), tail.clone());
        assert_close("whole", "y", &values(whole.clone()), &expected, TOL);
        for cut in 1..t {
            let (first, tail) = short_conv(
                x.clone().slice([0..b, 0..cut]),
                weight.clone(),
                tail.clone(),
            );
            let (second, tail) = short_conv(x.clone().slice([0..b, cut..t]), weight.clone(), tail);
            let joined = values(Tensor::cat(vec![first, second], 1));
            tail.into_data().assert_eq(&end.clone().into_data(), true);
            match *device == Device::flex() {
                true => assert_eq!(joined, values(whole.clone())),
                // A GPU's compiler may contract other sums at other places.
                false => drop(assert_close("cut", "y", &joined, &expected, TOL)),
            }
        }
    }
}

/// Token by token, with a tail that somebody keeps in every other step, is the whole; what was kept stays as it was.
#[test]
fn steps_are_the_whole_and_leave_kept_tails_alone() {
    let (device, kernel) = (Device::flex(), 4);
    for [b, t, channels] in [[1, 9, 5], [3, 7, 16], [40, 6, 96]] {
        let mut random = Random(5);
        let mut given = |dims: [usize; 3]| {
            let values = random.values(dims.iter().product(), -1.0, 1.0);
            tensor(&values, dims, DType::F32, &device)
        };
        let convs: Vec<Conv> = (0..3)
            .map(|_| Conv {
                x: given([b, t, channels]),
                weight: given([channels, kernel, 1]).reshape([channels, kernel]),
                tail: given([b, channels, kernel - 1]),
            })
            .collect();
        let bits = |x: &Tensor<3>| {
            values(x.clone())
                .iter()
                .map(|x| x.to_bits())
                .collect::<Vec<_>>()
        };
        let whole = short_conv_silu_each(convs.clone(), &Borders::default());
        let mut tails: Vec<_> = convs.iter().map(|conv| conv.tail.clone()).collect();
        for i in 0..t {
            let kept = (i % 2 == 0).then(|| tails.clone());
            let before: Vec<_> = kept.iter().flatten().map(bits).collect();
            let step = convs.iter().zip(tails).map(|(conv, tail)| Conv {
                x: conv.x.clone().narrow(1, i, 1),
                weight: conv.weight.clone(),
                tail,
            });
            let stepped = short_conv_silu_each(step.collect(), &Borders::default());
            for ((y, _), (all, _)) in stepped.iter().zip(&whole) {
                assert_eq!(bits(y), bits(&all.clone().narrow(1, i, 1)), "{i}");
            }
            assert_eq!(kept.iter().flatten().map(bits).collect::<Vec<_>>(), before);
            tails = stepped.into_iter().map(|(_, tail)| tail).collect();
        }
        for (tail, (_, end)) in tails.iter().zip(&whole) {
            assert_eq!(bits(tail), bits(end));
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

/// Values and gradients of the native convolution with SiLU against the same on tensors.
fn with_silu_it_matches_the_tensor_form_gradients_too(device: &Device) {
    /// Worst RMS ratio on Flex, 2026-11-23: 2e-7.
    const GRADS: Tol = Tol {
        rms_ratio: 2e-6,
        worst_over_rms: 20.0,
        floor: 1e-9,
    };
    let device = device.clone().autodiff();
    for [b, t, channels, kernel] in [
        [1, 1, 3, 4],
        [2, 9, 5, 4],
        [3, 2, 20, 4],
        [2, 33, 17, 2],
        [1, 1, 16, 4],
        [2, 2, 16, 4],
        [3, 41, 48, 4],
    ] {
        let mut random = Random(11);
        let x = random.values(b * t * channels, -3.0, 3.0);
        let weight = random.values(channels * kernel, -1.0, 1.0);
        let tail = random.values(b * channels * (kernel - 1), -1.0, 1.0);
        let out = random.values(b * t * channels, -1.0, 1.0);
        let end = random.values(b * channels * (kernel - 1), -1.0, 1.0);
        let run = |native: bool| {
            let x = tensor(&x, [b, t, channels], DType::F32, &device).require_grad();
            let w = tensor(&weight, [channels, kernel], DType::F32, &device).require_grad();
            let tail = tensor(&tail, [b, channels, kernel - 1], DType::F32, &device).require_grad();
            let (y, next) = match native {
                true => short_conv_silu(x.clone(), w.clone(), tail.clone()),
                false => {
                    let (y, next) = short_conv(x.clone(), w.clone(), tail.clone());
                    (activation::silu(y), next)
                }
            };
            let d_y = tensor(&out, [b, t, channels], DType::F32, &device);
            let d_next = tensor(&end, [b, channels, kernel - 1], DType::F32, &device);
            let grads = ((y.clone() * d_y).sum() + (next.clone() * d_next).sum()).backward();
            [
                values(y.inner()),
                values(next.inner()),
                values(x.grad(&grads).unwrap()),
                values(w.grad(&grads).unwrap()),
                values(tail.grad(&grads).unwrap()),
            ]
        };
        let names = ["y", "next tail", "d_x", "d_weight", "d_tail"];
        let (native, tensors) = (run(true), run(false));
        for ((name, actual), expected) in names.iter().zip(&native).zip(&tensors) {
            assert_close(
                &format!("{b} {t} {channels} {kernel}"),
                name,
                actual,
                expected,
                GRADS,
            );
        }
        assert_eq!(run(true), native, "two runs give the same bits");
        assert!(compare(&native[0], &values_without_silu(&native[0]), GRADS).is_err());
    }
}

/// Three convolutions in one call, of which one's next tail is used: results and gradients, each as alone.
fn several_at_once_are_each(device: &Device) {
    let device = device.clone().autodiff();
    for [b, t, kernel] in [[2, 9, 4], [1, 2, 4], [3, 70, 2]] {
        let channels = [5, 300, 17];
        let mut random = Random(12);
        let mut draw = |len| random.values(len, -2.0, 2.0);
        let numbers = channels.map(|c| {
            let tail = c * b * (kernel - 1);
            [
                draw(b * t * c),
                draw(c * kernel),
                draw(tail),
                draw(b * t * c),
                draw(tail),
            ]
        });
        let answers = |together: bool| -> Vec<Vec<f64>> {
            let leaves: Vec<Conv> = (numbers.iter().zip(channels))
                .map(|([x, weight, tail, ..], c)| Conv {
                    x: tensor(x, [b, t, c], DType::F32, &device).require_grad(),
                    weight: tensor(weight, [c, kernel], DType::F32, &device).require_grad(),
                    tail: tensor(tail, [b, c, kernel - 1], DType::F32, &device).require_grad(),
                })
                .collect();
            let none = Borders::default();
            let results = match together {
                true => short_conv_silu_each(leaves.clone(), &none),
                false => (leaves.iter().cloned())
                    .map(|Conv { x, weight, tail }| short_conv_silu(x, weight, tail))
                    .collect(),
            };
            let mut loss = None;
            for (i, (y, next)) in results.iter().enumerate() {
                let [.., d_y, d_next] = &numbers[i];
                let mut part = (y.clone() * tensor(d_y, y.dims(), DType::F32, &device)).sum();
                if i == 1 {
                    let d_next = tensor(d_next, next.dims(), DType::F32, &device);
                    part = part + (next.clone() * d_next).sum();
                }
                loss = Some(loss.map_or(part.clone(), |loss| loss + part));
            }
            let grads = loss.expect("three parts").backward();
            let results = results.into_iter().flat_map(|(y, next)| [y, next]);
            let mut all: Vec<_> = results.map(|y| values(y.inner())).collect();
            for Conv { x, weight, tail } in leaves {
                all.push(values(x.grad(&grads).expect("a gradient")));
                all.push(values(weight.grad(&grads).expect("a gradient")));
                all.push(values(tail.grad(&grads).expect("a gradient")));
            }
            all
        };
        let (together, alone) = (answers(true), answers(false));
        for (i, (together, alone)) in together.iter().zip(&alone).enumerate() {
            assert_close(
                &format!("{b} {t} {kernel}"),
                &format!("{i}"),
                together,
                alone,
                TOL,
            );
        }
        // The one whose next tail is used has more of a gradient.
        assert!(compare(&together[2], &alone[0], TOL).is_err());
    }
}

/// What a kernel that forgot SiLU could return.
fn values_without_silu(y: &[f64]) -> Vec<f64> {
    y.iter().map(|y| y * 2.0).collect()
}

/// A parameter `[C, 1, K]` as a layer has it, and a step of an optimiser: operations that a device
/// may fuse with the turning of the gradient.
fn a_step_of_the_taps_keeps_their_order(device: &Device) {
    let (t, channels, kernel) = (7, 12, 4);
    let mut random = Random(12);
    let x = random.values(t * channels, -1.0, 1.0);
    let weight = random.values(channels * kernel, -1.0, 1.0);
    let stepped = |device: &Device| {
        let device = device.clone().autodiff();
        let x = tensor(&x, [1, t, channels], DType::F32, &device);
        let taps = tensor(&weight, [channels, 1, kernel], DType::F32, &device).require_grad();
        let tail = Tensor::zeros([1, channels, kernel - 1], &device);
        let used = taps.clone().reshape([channels, kernel]);
        let grads = short_conv(x, used, tail).0.square().sum().backward();
        let grad = taps.grad(&grads).expect("a gradient");
        values(taps.inner() - grad.clone() / (grad.square().sqrt() + 1e-3) * 0.1)
    };
    let (here, on_flex) = (stepped(device), stepped(&Device::flex()));
    let near = Tol {
        rms_ratio: 1e-5,
        worst_over_rms: 100.0,
        floor: 0.0,
    };
    assert_close("a step", "taps", &here, &on_flex, near);
}

/// Native and on tensors: outputs, the next tail and gradients are those of each document alone.
fn documents_in_a_row_are_each_alone(device: &Device) {
    let device = device.clone().autodiff();
    let [b, t, channels, kernel] = [3, 41, 48, 4];
    // Longer and shorter than the taps reach, at the beginning and at the end of a row.
    let borders = Borders::new(vec![vec![2, 3, 20, 39], vec![], vec![0, 40]]);
    let mut random = Random(13);
    let mut draw = |dims: [usize; 3]| {
        let values = random.values(dims.iter().product(), -2.0, 2.0);
        tensor(&values, dims, DType::F32, &device)
    };
    let (x, tail, d_y) = (
        draw([b, t, channels]),
        draw([b, channels, 3]),
        draw([b, t, channels]),
    );
    let (d_next, weight) = (draw([b, channels, 3]), draw([1, channels, kernel]));
    type Run = fn(Tensor<3>, Tensor<2>, Tensor<3>, &Borders) -> (Tensor<3>, Tensor<3>);
    let on_tensors: Run = |x, weight, tail, borders| {
        let (y, next) = short_conv_packed(x, weight, tail, borders);
        (activation::silu(y), next)
    };
    let all = |run: Run, alone: bool| {
        let x = x.clone().require_grad();
        let tail = tail.clone().require_grad();
        let w = weight
            .clone()
            .reshape([channels, kernel])
            .detach()
            .require_grad();
        let (y, next) = match alone {
            false => run(x.clone(), w.clone(), tail.clone(), &borders),
            true => {
                let (mut rows, mut ends) = (Vec::new(), Vec::new());
                for row in 0..b {
                    let (mut parts, mut end) = (Vec::new(), tail.clone().narrow(0, row, 1));
                    for piece in borders.pieces(row, t) {
                        let start = if piece.fresh { end.zeros_like() } else { end };
                        let part = x.clone().narrow(0, row, 1);
                        let part = part.narrow(1, piece.tokens.start, piece.tokens.len());
                        let (y, next) = short_conv_silu(part, w.clone(), start);
                        parts.push(y);
                        end = next;
                    }
                    rows.push(Tensor::cat(parts, 1));
                    ends.push(end);
                }
                (Tensor::cat(rows, 0), Tensor::cat(ends, 0))
            }
        };
        let loss = (y.clone() * d_y.clone()).sum() + (next.clone() * d_next.clone()).sum();
        let grads = loss.backward();
        [
            values(y.inner()),
            values(next.inner()),
            values(x.grad(&grads).unwrap()),
            values(w.grad(&grads).unwrap()),
            values(tail.grad(&grads).unwrap()),
        ]
    };
    let expected = all(short_conv_silu_packed, true);
    for (form, run) in [
        ("native", short_conv_silu_packed as Run),
        ("tensors", on_tensors),
    ] {
        let names = ["y", "next tail", "d_x", "d_weight", "d_tail"];
        for ((name, actual), expected) in names.iter().zip(&all(run, false)).zip(&expected) {
            assert_close(form, name, actual, expected, TOL);
        }
    }
    let (open, _) = short_conv_silu(
        x.clone(),
        weight.clone().reshape([channels, kernel]),
        tail.clone(),
    );
    assert!(compare(&values(open.inner()), &expected[0], TOL).is_err());
}

on_every_device!(
    documents_in_a_row_are_each_alone,
    a_step_of_the_taps_keeps_their_order,
    matches_the_reference_and_can_be_cut_anywhere,
    with_silu_it_matches_the_tensor_form_gradients_too,
    several_at_once_are_each,
);
