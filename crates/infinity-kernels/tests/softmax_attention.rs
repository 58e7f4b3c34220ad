//! Softmax attention against its reference, with and without a cache, gradients too.

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device, Tensor};
use infinity_kernels::borders::Borders;
use infinity_kernels::softmax_attention::{
    View, reference, softmax_attention, softmax_attention_packed, softmax_attention_with,
};
use infinity_kernels::testing::{Random, Tol, assert_close, compare, tensor, values};
use std::process::Command;

/// Worst RMS ratio on Flex, 2026-11-28: 3e-7.
const TOL: Tol = Tol {
    rms_ratio: 2e-6,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Rows, tokens, cached ones, heads, widths of keys and values: a token, a few, sizes that fill no lanes,
/// blocks that end inside, at the end, and at an offset of the cache.
const CASES: [[usize; 6]; 10] = [
    [1, 1, 0, 1, 4, 4],
    [1, 7, 0, 1, 8, 5],
    [2, 3, 6, 3, 8, 8],
    [3, 1, 9, 2, 4, 4],
    [1, 4, 200, 2, 40, 24],
    [2, 5, 130, 1, 24, 40],
    [1, 64, 0, 2, 16, 16],
    [1, 65, 63, 1, 64, 64],
    [2, 130, 37, 2, 20, 18],
    [1, 200, 1, 1, 33, 7],
];

/// Inputs and the gradient of the outputs, `[B, rows, H, width]` each.
struct Call {
    size: [usize; 6],
    inputs: [Vec<f64>; 3],
    d_o: Vec<f64>,
}

impl Call {
    fn new(size: [usize; 6], seed: u64) -> Self {
        let [b, t, cached, h, k, v] = size;
        let mut random = Random(seed);
        let total = cached + t;
        let mut draw =
            |rows: usize, width: usize, most: f64| random.values(b * rows * h * width, -most, most);
        Call {
            size,
            inputs: [draw(t, k, 2.0), draw(total, k, 2.0), draw(total, v, 1.0)],
            d_o: draw(t, v, 1.0),
        }
    }

    fn shapes(&self) -> [[usize; 4]; 3] {
        let [b, t, cached, h, k, v] = self.size;
        [[b, t, h, k], [b, cached + t, h, k], [b, cached + t, h, v]]
    }

    fn tensors(&self, device: &Device) -> [Tensor<4>; 3] {
        let mut shapes = self.shapes().into_iter();
        let inputs = self.inputs.each_ref();
        inputs.map(|x| tensor(x, shapes.next().expect("three"), DType::F32, device))
    }

    /// Outputs and gradients of every head, put together.
    fn expected(&self) -> [Vec<f64>; 4] {
        let [b, t, cached, h, k, v] = self.size;
        let [q_shape, k_shape, v_shape] = self.shapes();
        let mut all =
            [q_shape, k_shape, v_shape, [b, t, h, v]].map(|s| vec![0.0; s.iter().product()]);
        for (row, head) in (0..b).flat_map(|row| (0..h).map(move |head| (row, head))) {
            let of_head = |x: &[f64], [_, rows, h, width]: [usize; 4]| -> Vec<f64> {
                let row_of = |i: usize| ((row * rows + i) * h + head) * width;
                (0..rows)
                    .flat_map(|i| x[row_of(i)..][..width].to_vec())
                    .collect()
            };
            let [q, keys, vals] = &self.inputs;
            let (q, keys) = (of_head(q, q_shape), of_head(keys, k_shape));
            let (vals, d_o) = (of_head(vals, v_shape), of_head(&self.d_o, [b, t, h, v]));
            let dims = [t, cached, k, v];
            let o = reference::forward(dims, &q, &keys, &vals);
            let [d_q, d_k, d_v] = reference::backward(dims, [&q, &keys, &vals], &d_o);
            let shapes = [q_shape, k_shape, v_shape, [b, t, h, v]];
            for ((all, part), [_, rows, h, width]) in
                all.iter_mut().zip([d_q, d_k, d_v, o]).zip(shapes)
            {
                for (i, part) in part.chunks(width).enumerate() {
                    all[((row * rows + i) * h + head) * width..][..width].copy_from_slice(part);
                }
            }
        }
        all
    }
}

fn matches_the_reference(device: &Device) {
    let tol = TOL.of_products(device, 2);
    for size in cases(device, CASES, 3) {
        let call = Call::new(size, 4);
        let [.., expected] = call.expected();
        let [q, k, v] = call.tensors(device);
        let name = format!("{size:?}");
        let whole =
            softmax_attention_with(q.clone(), k.clone(), v.clone(), &View::default(), |w| w);
        assert_close(
            &name,
            "o of all scores at once",
            &values(whole),
            &expected,
            tol,
        );
        let o = values(softmax_attention(q, k, v));
        assert_close(&name, "o", &o, &expected, tol);
    }
}

fn gradients_match_the_reference(device: &Device) {
    let tol = TOL.of_products(device, 4);
    let sizes = cases(device, CASES, 3);
    let device = device.clone().autodiff();
    for size in sizes {
        let call = Call::new(size, 5);
        let [d_q, d_k, d_v, o] = call.expected();
        let [q, k, v] = call.tensors(&device).map(Tensor::require_grad);
        let found = softmax_attention(q.clone(), k.clone(), v.clone());
        let [b, t, _, h, _, v_dim] = size;
        let d_o = tensor(&call.d_o, [b, t, h, v_dim], DType::F32, &device);
        let grads = (found.clone() * d_o).sum().backward();
        let name = format!("{size:?}");
        assert_close(&name, "o", &values(found.inner()), &o, tol);
        for (part, leaf, expected) in [("d_q", q, &d_q), ("d_k", k, &d_k), ("d_v", v, &d_v)] {
            let got = values(leaf.grad(&grads).expect("a gradient"));
            // A single key has all the weight, whatever the query.
            match expected.iter().all(|d| d.abs() < 1e-12) {
                true => assert!(got.iter().all(|d| d.abs() < 1e-6), "{name} {part}"),
                false => drop(assert_close(&name, part, &got, expected, tol)),
            }
        }
        assert!(
            compare(&d_v, &d_k, tol).is_err(),
            "other gradients are caught"
        );
    }
}

/// A row and a head have the same bits alone, and the same outputs when their tokens come in pieces.
#[test]
fn rows_do_not_see_each_other_and_pieces_make_a_whole() {
    let device = Device::flex();
    for t in [1, 3, 150] {
        let call = Call::new([3, t, 80, 2, 24, 20], 6);
        let [q, k, v] = call.tensors(&device);
        let o = softmax_attention(q.clone(), k.clone(), v.clone());
        let [alone_q, alone_k, alone_v] =
            [&q, &k, &v].map(|x| x.clone().narrow(0, 1, 1).narrow(2, 1, 1));
        let alone = softmax_attention(alone_q, alone_k, alone_v);
        let row = values(o.clone().narrow(0, 1, 1).narrow(2, 1, 1));
        assert_eq!(values(alone), row, "{t}");
        let other = values(o.clone().narrow(0, 1, 1).narrow(2, 0, 1));
        assert_ne!(other, row, "another head is seen");
        if t < 2 {
            continue;
        }
        let cut = t / 2 + 1;
        let piece = |from: usize, len: usize| {
            let seen = 80 + from + len;
            let [k, v] = [&k, &v].map(|x| x.clone().narrow(1, 0, seen));
            softmax_attention(q.clone().narrow(1, from, len), k, v)
        };
        let pieces = Tensor::cat(vec![piece(0, cut), piece(cut, t - cut)], 1);
        assert_close("pieces", "o", &values(pieces), &values(o), TOL);
    }
}

/// A query that is not a number spoils its own output, a key or value that is none those after it, and no
/// other row or head.
#[test]
fn what_is_not_finite_stays_in_its_row_and_in_the_future() {
    let device = Device::flex();
    for t in [2, 90] {
        let call = Call::new([2, t, 70, 2, 8, 8], 7);
        let clean = values(softmax_attention_of(call.tensors(&device)));
        for input in 0..3 {
            let mut broken = Call::new([2, t, 70, 2, 8, 8], 7);
            // Row 1, head 1, the last query or key.
            let last = broken.inputs[input].len() - 1;
            broken.inputs[input][last] = f64::NAN;
            let found = values(softmax_attention_of(broken.tensors(&device)));
            let changed =
                |(at, (a, b)): (usize, (&f64, &f64))| (a.to_bits() != b.to_bits()).then_some(at);
            let mut pairs = clean.iter().zip(&found).enumerate();
            let first = pairs.find_map(changed).expect("it is seen");
            let row = clean.len() / 2;
            assert!(first >= row, "{t}: input {input} reaches another row");
            let heads = found.chunks(8).zip(clean.chunks(8)).step_by(2);
            for (found, clean) in heads {
                assert_eq!(found, clean, "{t}: input {input} reaches another head");
            }
            assert!(found[clean.len() - 1].is_nan(), "{t}: input {input}");
        }
    }
}

fn softmax_attention_of([q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    softmax_attention(q, k, v)
}

/// The same with fewer vector instructions, in processes of their own.
#[test]
fn so_it_is_at_every_level() {
    let this = std::env::current_exe().expect("a test has a path");
    for level in ["avx2", "baseline"] {
        let output = Command::new(&this)
            .args(["softmax_attention::flex"])
            .env("INFINITY_SIMD", level)
            .output()
            .expect("the test starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("4 passed; 0 failed"), "{level}: {said}");
    }
}

#[test]
fn the_reference_gradient_matches_finite_differences() {
    let dims = [3, 2, 2, 2];
    let mut random = Random(8);
    let mut draw = |len| random.values(len, -1.0, 1.0);
    let (inputs, d_o) = ([draw(6), draw(10), draw(10)], draw(6));
    let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
        let o = reference::forward(dims, &inputs[0], &inputs[1], &inputs[2]);
        o.iter().zip(&d_o).map(|(o, d)| o * d).sum()
    };
    let grads = reference::backward(dims, [&inputs[0], &inputs[1], &inputs[2]], &d_o);
    for (input, grad) in grads.iter().enumerate() {
        for (at, grad) in grad.iter().enumerate() {
            let moved = |by: f64| {
                let mut inputs = inputs.clone();
                inputs[input][at] += by;
                loss(&inputs)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - grad).abs() < 1e-8, "{input} {at}");
        }
    }
}

#[test]
fn a_peek_at_the_future_is_caught() {
    let (q, k, v) = (vec![1.0; 4], vec![1.0; 4], vec![1.0, 2.0, 3.0, 4.0]);
    let right = reference::forward([4, 0, 1, 1], &q, &k, &v);
    assert_eq!(right[0], 1.0);
    assert!(compare(&[2.5; 4], &right, TOL).is_err());
}

/// The kernel and all scores at once: outputs and gradients are those of each document alone, and a cache
/// is seen by the document that goes on from it.
fn documents_in_a_row_are_each_alone(device: &Device) {
    let sizes = cases(device, [[5, 3], [150, 70]], 1);
    let device = device.clone().autodiff();
    for [t, cached] in sizes {
        let call = Call::new([3, t, cached, 2, 24, 20], 8);
        let borders = Borders::new(vec![vec![1, 2, t - 2], vec![0, t / 2], vec![]]);
        let d_o = tensor(&call.d_o, [3, t, 2, 20], DType::F32, &device);
        type Run = fn(Tensor<4>, Tensor<4>, Tensor<4>, &Borders) -> Tensor<4>;
        let at_once: Run =
            |q, k, v, borders| softmax_attention_with(q, k, v, &borders.into(), |w| w);
        let kernel: Run = |q, k, v, borders| softmax_attention_packed(q, k, v, &borders.into());
        let alone: Run = |q, k, v, borders| {
            let ([b, t, ..], [_, total, ..]) = (q.dims(), k.dims());
            let rows = (0..b).map(|row| {
                let of_row = |x: &Tensor<4>| x.clone().narrow(0, row, 1);
                let parts = borders.pieces(row, t).map(|piece| {
                    let (from, len) = (piece.tokens.start, piece.tokens.len());
                    let first = if piece.fresh { total - t + from } else { 0 };
                    let keys = |x| of_row(x).narrow(1, first, total - t + from + len - first);
                    softmax_attention(of_row(&q).narrow(1, from, len), keys(&k), keys(&v))
                });
                Tensor::cat(parts.collect(), 1)
            });
            Tensor::cat(rows.collect(), 0)
        };
        let all = |run: Run| {
            let [q, k, v] = call.tensors(&device).map(Tensor::require_grad);
            let o = run(q.clone(), k.clone(), v.clone(), &borders);
            let grads = (o.clone() * d_o.clone()).sum().backward();
            let grad = |x: Tensor<4>| values(x.grad(&grads).expect("a gradient"));
            [values(o.inner()), grad(q), grad(k), grad(v)]
        };
        let expected = all(alone);
        for (form, run) in [("kernel", kernel), ("at once", at_once)] {
            for ((name, found), expected) in ["o", "d_q", "d_k", "d_v"]
                .iter()
                .zip(all(run))
                .zip(&expected)
            {
                assert_close(form, name, &found, expected, TOL);
            }
        }
        let open = all(|q, k, v, _| softmax_attention(q, k, v));
        assert!(compare(&open[0], &expected[0], TOL).is_err());
    }
}

/// What a call may see: heads that share keys, a window, rows that begin late, and room behind the keys. The
/// kernel, its steps, and all scores at once, with gradients.
fn views_match_the_reference(device: &Device) {
    // Rows, tokens, cached ones, heads, those of keys, widths of keys and values, window.
    let sizes = [
        [2, 1, 6, 4, 2, 8, 8, 100],
        [1, 3, 90, 6, 2, 24, 20, 33],
        [2, 7, 0, 4, 1, 5, 6, 3],
        [2, 150, 70, 4, 2, 16, 16, 65],
        [1, 130, 10, 2, 2, 20, 18, 1],
        [2, 70, 140, 3, 3, 8, 8, 64],
    ];
    for [b, t, cached, h, groups, k, v, window] in cases(device, sizes, 3) {
        let name = format!("{b} × {t} after {cached}, {h} heads on {groups}, window {window}");
        let (total, shared) = (cached + t, h / groups);
        let mut random = Random(9);
        let mut draw = |len: usize| random.values(len, -1.5, 1.5);
        let starts: Vec<usize> = (0..b).map(|row| cached * (b - 1 - row) / b).collect();
        let all = [[b, t, h, k], [b, total, groups, k], [b, total, groups, v]];
        let inputs = all.map(|dims| draw(dims.iter().product()));
        let d_o = draw(b * t * h * v);
        let of_head = |x: &[f64], [_, rows, h, width]: [usize; 4], [row, head]: [usize; 2]| {
            let at = move |i: usize| ((row * rows + i) * h + head) * width;
            let rows = (0..rows).flat_map(|i| x[at(i)..][..width].to_vec());
            rows.collect::<Vec<f64>>()
        };
        let mut expected = [all[0], all[1], all[2], [b, t, h, v]].map(|dims| {
            let zeros: Vec<f64> = vec![0.0; dims.iter().product()];
            (dims, zeros)
        });
        for (row, head) in (0..b).flat_map(|row| (0..h).map(move |head| (row, head))) {
            let places = [[row, head], [row, head / shared], [row, head / shared]];
            let [q, keys, vals] = [0, 1, 2].map(|i| of_head(&inputs[i], all[i], places[i]));
            let (dims, seen) = ([t, cached, k, v], [starts[row], window]);
            let o = reference::forward_seen(dims, seen, [&q, &keys, &vals]);
            let d_o = of_head(&d_o, [b, t, h, v], [row, head]);
            let [d_q, d_k, d_v] = reference::backward_seen(dims, seen, [&q, &keys, &vals], &d_o);
            let places = [places[0], places[1], places[2], [row, head]];
            for ((([_, rows, h, width], all), part), [row, head]) in
                expected.iter_mut().zip([d_q, d_k, d_v, o]).zip(places)
            {
                for (i, part) in part.chunks(*width).enumerate() {
                    let at = ((row * *rows + i) * *h + head) * *width;
                    let sums = all[at..][..*width].iter_mut().zip(part);
                    sums.for_each(|(sum, x)| *sum += x);
                }
            }
        }
        let [d_q, d_k, d_v, o] = expected.map(|(_, values)| values);
        let view = View {
            starts,
            window: Some(window),
            ..View::default()
        };
        type Run = fn(Tensor<4>, Tensor<4>, Tensor<4>, &View) -> Tensor<4>;
        let at_once: Run = |q, k, v, view| softmax_attention_with(q, k, v, view, |w| w);
        for (form, run) in [
            ("kernel", softmax_attention_packed as Run),
            ("at once", at_once),
        ] {
            let tol = TOL.of_products(device, 4);
            let tensors =
                |device: &Device| [0, 1, 2].map(|i| tensor(&inputs[i], all[i], DType::F32, device));
            let tracked = device.clone().autodiff();
            let [q, keys, vals] = tensors(&tracked).map(Tensor::require_grad);
            let found = run(q.clone(), keys.clone(), vals.clone(), &view);
            let weights = tensor(&d_o, [b, t, h, v], DType::F32, &tracked);
            let grads = (found.clone() * weights).sum().backward();
            assert_close(&name, form, &values(found.inner()), &o, tol);
            for (leaf, expected) in [(q, &d_q), (keys, &d_k), (vals, &d_v)] {
                let got = values(leaf.grad(&grads).expect("a gradient"));
                // A single key has all the weight, whatever the query.
                match expected.iter().all(|d| d.abs() < 1e-12) {
                    true => assert!(got.iter().all(|d| d.abs() < 1e-6), "{name} {form}"),
                    false => drop(assert_close(&name, form, &got, expected, tol)),
                }
            }
            // Room behind the keys is not looked at, whatever is in it.
            let [q, keys, vals] = tensors(device);
            let room = |x: Tensor<4>| {
                let nan = x.clone().narrow(1, 0, 1) * f32::NAN;
                Tensor::cat(vec![x, nan.clone(), nan], 1)
            };
            let filled = Some(total);
            let with_room = View {
                filled,
                ..view.clone()
            };
            let o_in_room = run(
                q.clone(),
                room(keys.clone()),
                room(vals.clone()),
                &with_room,
            );
            assert_close(&name, form, &values(o_in_room), &o, tol);
            for (missing, other) in [
                (
                    "window",
                    View {
                        window: None,
                        ..view.clone()
                    },
                ),
                (
                    "starts",
                    View {
                        starts: Vec::new(),
                        ..view.clone()
                    },
                ),
            ] {
                let hides = match missing {
                    "window" => window < total,
                    _ => view
                        .starts
                        .iter()
                        .any(|start| start + window > cached + 1 && *start > 0),
                };
                let other = values(run(q.clone(), keys.clone(), vals.clone(), &other));
                assert_eq!(
                    compare(&other, &o, tol).is_err(),
                    hides,
                    "{name} {form}: no {missing}"
                );
            }
        }
    }
}

on_every_device!(
    documents_in_a_row_are_each_alone,
    gradients_match_the_reference,
    matches_the_reference,
    views_match_the_reference,
);
