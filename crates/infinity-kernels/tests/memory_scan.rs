//! `memory_scan`: every form against the scalar reference, and the reference against itself.
#![allow(clippy::print_stdout, reason = "the errors that tolerances are set by")]

use crate::devices::{cases, on_every_device};
use burn::tensor::{DType, Device, Tensor, TensorData};
use infinity_kernels::borders::Borders;
use infinity_kernels::memory_scan::reference::{self, Dims, Values};
use infinity_kernels::memory_scan::{chunkwise, memory_scan_packed, recurrent};
use infinity_kernels::testing::{
    Case, Probe, Random, Tol, assert_close, compare, leaves, tensor, tensors, values,
};
use infinity_kernels::{Form, MemoryScanInputs, MemoryScanOutput, memory_scan};
use proptest::prelude::*;

/// Worst RMS ratio over `CASES` on Flex, 2026-11-23: 6.1e-7.
const FORWARD_F32: Tol = Tol {
    rms_ratio: 5e-6,
    worst_over_rms: 20.0,
    floor: 1e-9,
};
/// Worst RMS ratio over `CASES` on Flex, 2026-11-23: 1.0e-6.
const BACKWARD_F32: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 30.0,
    floor: 1e-8,
};
/// For drawn sizes, tensors of one number among them: terms of about one can cancel there, and the error left is theirs.
/// Worst over 40,000 of the smallest sizes on Flex, 2026-11-29: 5.5e-7.
const DRAWN_FORWARD: Tol = Tol {
    floor: 1.5e-6,
    ..FORWARD_F32
};
/// The same of gradients: 1.3e-6.
const DRAWN_BACKWARD: Tol = Tol {
    floor: 3e-6,
    ..BACKWARD_F32
};
/// Worst RMS ratio over `CASES` in f64 on Flex, 2026-11-23: 2e-15.
const F64: Tol = Tol {
    rms_ratio: 1e-12,
    worst_over_rms: 50.0,
    floor: 1e-14,
};

const fn dims(b: usize, t: usize, h: usize, s: usize, k: usize, v: usize) -> Dims {
    Dims { b, t, h, s, k, v }
}

const CASES: [Case; 8] = [
    Case {
        name: "one token",
        dims: dims(1, 1, 1, 1, 8, 8),
        delta: true,
    },
    Case {
        name: "exact chunks",
        dims: dims(1, 128, 2, 4, 16, 16),
        delta: true,
    },
    Case {
        name: "ragged tail",
        dims: dims(2, 97, 3, 3, 16, 24),
        delta: true,
    },
    Case {
        name: "short",
        dims: dims(2, 5, 2, 2, 32, 8),
        delta: true,
    },
    Case {
        name: "odd sizes",
        dims: dims(1, 51, 1, 2, 7, 5),
        delta: true,
    },
    Case {
        name: "additive",
        dims: dims(2, 70, 2, 4, 12, 9),
        delta: false,
    },
    Case {
        name: "additive, one state",
        dims: dims(1, 33, 2, 1, 16, 16),
        delta: false,
    },
    Case {
        name: "one state",
        dims: dims(1, 65, 2, 1, 16, 16),
        delta: true,
    },
];

/// Sizes at which the kernel takes another path than at `CASES`.
const KERNEL_CASES: [Case; 4] = [
    Case {
        name: "many chunks",
        dims: dims(1, 300, 2, 4, 32, 32),
        delta: true,
    },
    Case {
        name: "wide",
        dims: dims(2, 130, 1, 2, 72, 100),
        delta: true,
    },
    Case {
        name: "wide, additive",
        dims: dims(1, 200, 1, 2, 70, 81),
        delta: false,
    },
    Case {
        name: "many states",
        dims: dims(1, 66, 1, 7, 5, 3),
        delta: true,
    },
];

/// Outputs, final state and the gradients of all inputs, from one form.
struct Answer {
    o: Vec<f64>,
    state: Vec<f64>,
    grads: Vec<Vec<f64>>,
}

type Run = fn(MemoryScanInputs, Tensor<5>) -> MemoryScanOutput;

/// A form, over rows of several documents.
fn packed(
    form: Form,
    borders: &[Vec<usize>],
) -> impl Fn(MemoryScanInputs, Tensor<5>) -> MemoryScanOutput {
    let borders = Borders::new(borders.to_vec());
    move |x, state| memory_scan_packed(x, state, form, &borders)
}

fn chunk_of<const C: usize>(x: MemoryScanInputs, state: Tensor<5>) -> MemoryScanOutput {
    chunkwise(x, state, C)
}

fn token_by_token(x: MemoryScanInputs, state: Tensor<5>) -> MemoryScanOutput {
    recurrent::forward(&x, state)
}

fn fused(x: MemoryScanInputs, state: Tensor<5>) -> MemoryScanOutput {
    memory_scan(x, state, Form::Fused)
}

fn run(
    device: &Device,
    probe: &Probe,
    dtype: DType,
    form: impl Fn(MemoryScanInputs, Tensor<5>) -> MemoryScanOutput,
) -> Answer {
    run_mixed(device, probe, [dtype; 2], form)
}

/// With queries, keys and values of one type, everything else of another.
fn run_mixed(
    device: &Device,
    probe: &Probe,
    dtypes: [DType; 2],
    run: impl Fn(MemoryScanInputs, Tensor<5>) -> MemoryScanOutput,
) -> Answer {
    let Dims { b, t, h, s, k, v } = probe.case.dims;
    let (inputs, state) = probe.tensors(dtypes, device);
    let (inputs, state) = leaves(&inputs, &state);
    let out = run(inputs.clone(), state.clone());
    let [_, dtype] = dtypes;
    let device = device.clone().autodiff();
    let d_o = tensor(&probe.d_o, [b, t, h, v], dtype, &device);
    let d_state = tensor(&probe.d_state, [b, h, s, k, v], dtype, &device);
    let loss = (out.o.clone() * d_o).sum() + (out.state.clone() * d_state).sum();
    let grads = loss.backward();
    let mut all: Vec<Vec<f64>> = tensors(&inputs)
        .map(|leaf| values(leaf.grad(&grads).expect("every input has a gradient")))
        .collect();
    // That of `erase`, which additive writes have none of.
    all.resize(7, Vec::new());
    all.push(values(
        state
            .grad(&grads)
            .expect("the initial state has a gradient"),
    ));
    Answer {
        o: values(out.o.inner()),
        state: values(out.state.inner()),
        grads: all,
    }
}

/// Outputs and state of the kernel where nothing asks for gradients.
fn untracked(device: &Device, probe: &Probe) -> (Vec<f64>, Vec<f64>) {
    let (inputs, state) = probe.tensors([DType::F32; 2], device);
    let out = fused(inputs, state);
    (values(out.o), values(out.state))
}

fn check(probe: &Probe, answer: &Answer, forward: Tol, backward: Tol) -> (f64, f64) {
    let expected = probe.reference();
    let name = probe.case.name;
    let o = assert_close(name, "o", &answer.o, &expected.o, forward);
    let state = assert_close(name, "state", &answer.state, &expected.state, forward);
    let grads = probe.reference_grads();
    let mut worst = 0f64;
    for (actual, (field, expected)) in answer.grads.iter().zip(grads.named()) {
        if field == "erase" && !probe.case.delta {
            continue;
        }
        worst = worst.max(assert_close(
            name,
            &format!("d{field}"),
            actual,
            expected,
            backward,
        ));
    }
    (o.max(state), worst)
}

const FORMS: [(&str, Run); 4] = [
    ("recurrent", token_by_token),
    ("chunks of 64", chunk_of::<64>),
    ("chunks of 16", chunk_of::<16>),
    ("chunks of 7", chunk_of::<7>),
];

fn every_form_matches_the_reference_in_f32(device: &Device) {
    let forward = FORWARD_F32.of_products(device, 3);
    let backward = BACKWARD_F32.of_products(device, 6);
    let mut worst = (0f64, 0f64);
    for case in cases(device, CASES, 2) {
        let probe = Probe::seeded(case, 42);
        for (name, form) in FORMS {
            println!("{}, {name}", case.name);
            let answer = run(device, &probe, DType::F32, form);
            let errors = check(&probe, &answer, forward, backward);
            worst = (worst.0.max(errors.0), worst.1.max(errors.1));
        }
    }
    println!(
        "worst rms ratio: forward {:.1e}, backward {:.1e}",
        worst.0, worst.1
    );
}

fn the_kernel_matches_the_reference(device: &Device) {
    let mut worst = (0f64, 0f64);
    for case in cases(device, CASES.into_iter().chain(KERNEL_CASES), 4) {
        let probe = Probe::seeded(case, 42);
        let errors = check(
            &probe,
            &run(device, &probe, DType::F32, fused),
            FORWARD_F32,
            BACKWARD_F32,
        );
        worst = (worst.0.max(errors.0), worst.1.max(errors.1));
    }
    println!(
        "worst rms ratio: forward {:.1e}, backward {:.1e}",
        worst.0, worst.1
    );
}

#[test]
fn no_tokens_leave_the_state_as_it_was() {
    let case = Case {
        name: "no tokens",
        dims: dims(2, 0, 2, 3, 5, 4),
        delta: true,
    };
    let probe = Probe::seeded(case, 1);
    let before: Vec<f64> = probe
        .inputs
        .state
        .iter()
        .map(|x| f64::from(*x as f32))
        .collect();
    let (o, state) = untracked(&Device::flex(), &probe);
    assert!(o.is_empty());
    assert_eq!(state, before);
    let answer = run(&Device::flex(), &probe, DType::F32, fused);
    assert!(answer.o.is_empty());
    assert_eq!(answer.state, before);
    let d_state: Vec<f64> = probe.d_state.iter().map(|x| f64::from(*x as f32)).collect();
    assert_eq!(answer.grads[7], d_state);
}

/// On Flex chunks have 32 tokens, and states are saved every 512 and written again in between:
/// lengths around those.
#[test]
fn the_kernel_around_its_saved_states() {
    for (t, delta) in [127, 128, 129, 511, 512, 513, 544, 545, 1024, 1025]
        .into_iter()
        .flat_map(|t| [(t, true), (t, false)])
    {
        let case = Case {
            name: "around a border",
            dims: dims(1, t, 2, 2, 17, 18),
            delta,
        };
        let probe = Probe::seeded(case, t as u64);
        check(
            &probe,
            &run(&Device::flex(), &probe, DType::F32, fused),
            FORWARD_F32,
            BACKWARD_F32,
        );
    }
}

/// Writes of up to twice what a state is off by turn it around.
#[test]
fn every_form_turns_states_around_like_the_reference() {
    let device = &Device::flex();
    for case in CASES.into_iter().chain(KERNEL_CASES) {
        let mut probe = Probe::seeded(case, 42);
        probe.inputs.write.iter_mut().for_each(|w| *w *= 2.0);
        for (_, form) in FORMS.into_iter().chain([("fused", fused as Run)]) {
            let answer = run(device, &probe, DType::F32, form);
            check(&probe, &answer, FORWARD_F32, BACKWARD_F32);
        }
    }
}

#[test]
fn every_form_matches_the_reference_in_f64() {
    let device = &Device::flex();
    let mut worst = (0f64, 0f64);
    for case in CASES {
        let probe = Probe::seeded(case, 7);
        for (_, form) in FORMS {
            let answer = run(device, &probe, DType::F64, form);
            let errors = check(&probe, &answer, F64, F64);
            worst = (worst.0.max(errors.0), worst.1.max(errors.1));
        }
    }
    println!(
        "worst rms ratio: forward {:.1e}, backward {:.1e}",
        worst.0, worst.1
    );
}

/// Rows of the cases above with documents that go on from the row before, begin with it, are one token
/// long, and begin and end inside a chunk.
fn rows_of_documents() -> impl Iterator<Item = Probe> {
    let cases = CASES.into_iter().chain(KERNEL_CASES);
    cases.filter(|case| case.dims.t > 4).map(|case| {
        let t = case.dims.t;
        let mut probe = Probe::seeded(case, 42);
        let mut often = vec![3, 4, t / 2, t - 1];
        often.sort_unstable();
        often.dedup();
        probe.borders = [often, vec![0, t / 3 + 1]][..case.dims.b].to_vec();
        probe
    })
}

fn documents_in_a_row_match_the_reference(device: &Device) {
    let mut forms = vec![Form::Recurrent, Form::Chunkwise];
    forms.extend(Form::Fused.check(device).is_ok().then_some(Form::Fused));
    for probe in cases(device, rows_of_documents(), 2) {
        for form in &forms {
            println!("{}, {form}", probe.case.name);
            let answer = run(device, &probe, DType::F32, packed(*form, &probe.borders));
            check(&probe, &answer, FORWARD_F32, BACKWARD_F32);
        }
    }
    let probe = rows_of_documents().last().expect("several");
    let open = run(device, &probe, DType::F32, packed(Form::Chunkwise, &[]));
    let expected = probe.reference();
    assert!(compare(&open.o, &expected.o, FORWARD_F32).is_err());
    assert!(compare(&open.grads[1], &probe.reference_grads().k, BACKWARD_F32).is_err());
}

/// The reference itself: every document alone, the first from the state and the others from nothing. On
/// Flex the kernel gives these bits too.
#[test]
fn documents_in_a_row_are_each_alone() {
    let device = &Device::flex();
    for probe in rows_of_documents() {
        let dims = probe.case.dims;
        let whole = (probe.reference(), probe.reference_grads());
        let kernel = run(
            device,
            &probe,
            DType::F32,
            packed(Form::Fused, &probe.borders),
        );
        let (row, state) = (dims.h * dims.v, dims.h * dims.s * dims.k * dims.v);
        for b in 0..dims.b {
            let borders = Borders::new(probe.borders.clone());
            let pieces: Vec<_> = borders.pieces(b, dims.t).collect();
            for (i, piece) in pieces.iter().enumerate() {
                let (from, to) = (piece.tokens.start, piece.tokens.end);
                let mut alone = probe.clone();
                alone.borders = Vec::new();
                let start = match piece.fresh {
                    true => vec![0.0; state],
                    false => probe.inputs.state[b * state..][..state].to_vec(),
                };
                let of_row = one_row(dims, &probe.inputs, b);
                (alone.case.dims, alone.inputs) =
                    part(Dims { b: 1, ..dims }, &of_row, from, to, start);
                let place = (b * dims.t + from) * row..(b * dims.t + to) * row;
                alone.d_o = probe.d_o[place.clone()].to_vec();
                let last = i + 1 == pieces.len();
                alone.d_state = match last {
                    true => probe.d_state[b * state..][..state].to_vec(),
                    false => vec![0.0; state],
                };
                let (out, grads) = (alone.reference(), alone.reference_grads());
                assert_eq!(whole.0.o[place.clone()], out.o);
                assert_eq!(whole.1.v[place.clone()], grads.v);
                let bits = run(device, &alone, DType::F32, fused);
                assert_eq!(kernel.o[place.clone()], bits.o, "{}", probe.case.name);
                assert_eq!(kernel.grads[2][place], bits.grads[2], "{}", probe.case.name);
                let of_row = b * state..(b + 1) * state;
                if last {
                    assert_eq!(whole.0.state[of_row.clone()], out.state);
                    assert_eq!(kernel.state[of_row.clone()], bits.state);
                }
                if !piece.fresh {
                    assert_eq!(whole.1.state[of_row.clone()], grads.state);
                    assert_eq!(kernel.grads[7][of_row], bits.grads[7]);
                }
            }
        }
    }
}

/// Decays of e⁻²⁰⁰ in one document and of all but nothing in the next, in one chunk: sums that run on
/// over the border have lost the small ones, as would a border that is a strong decay.
fn a_border_costs_no_precision(device: &Device) {
    let case = Case {
        name: "strong and weak decay",
        dims: dims(1, 30, 2, 2, 16, 16),
        delta: true,
    };
    let mut probe = Probe::seeded(case, 5);
    let (border, gates) = (11, case.dims.h * case.dims.s);
    probe.borders = vec![vec![border]];
    let (strong, weak) = probe.inputs.log_decay.split_at_mut(border * gates);
    strong.fill(-200.0);
    weak.fill(-1e-6);
    for form in [Form::Recurrent, Form::Chunkwise, Form::choose(30, device)] {
        let answer = run(device, &probe, DType::F32, packed(form, &probe.borders));
        check(&probe, &answer, FORWARD_F32, BACKWARD_F32);
    }
    probe.inputs.log_decay[border * gates..].fill(-1e-4);
    let expected = probe.reference();
    probe.inputs.log_decay[border * gates..][..gates].fill(-1e3);
    let decayed = run(device, &probe, DType::F32, packed(Form::Chunkwise, &[]));
    assert!(compare(&decayed.o, &expected.o, FORWARD_F32).is_err());
}

#[test]
fn a_kernel_without_decay_is_caught() {
    let probe = Probe::seeded(CASES[2], 42);
    let wrong = probe.without_decay().reference();
    assert!(compare(&wrong.o, &probe.reference().o, FORWARD_F32).is_err());
    let wrong = probe.without_decay().reference_grads();
    assert!(compare(&wrong.k, &probe.reference_grads().k, BACKWARD_F32).is_err());
}

/// The reference's own gradient against central differences.
#[test]
fn the_reference_gradient_matches_finite_differences() {
    for delta in [true, false] {
        let case = Case {
            name: "differences",
            dims: dims(1, 5, 2, 3, 3, 2),
            delta,
        };
        let probe = Probe::seeded(case, 3);
        let grads = probe.reference_grads();
        let loss = |x: &Values| {
            let out = reference::forward(case.dims, x);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(&out.o, &probe.d_o) + dot(&out.state, &probe.d_state)
        };
        for field in 0..8 {
            let (name, expected) = grads.named()[field];
            if name == "erase" && !delta {
                continue;
            }
            for (i, expected) in expected.iter().enumerate() {
                let moved = |by: f64| {
                    let mut x = probe.inputs.clone();
                    nth(&mut x, field)[i] += by;
                    loss(&x)
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let error = (difference - expected).abs() / (1.0 + expected.abs());
                assert!(error < 1e-8, "{name}[{i}]: {difference} is not {expected}");
            }
        }
    }
}

fn nth(x: &mut Values, field: usize) -> &mut Vec<f64> {
    match field {
        0 => &mut x.q,
        1 => &mut x.k,
        2 => &mut x.v,
        3 => &mut x.log_decay,
        4 => &mut x.read,
        5 => &mut x.write,
        6 => &mut x.erase,
        _ => &mut x.state,
    }
}

/// Row `b` as a batch of one.
fn one_row(dims: Dims, x: &Values, b: usize) -> Values {
    let mut row = x.clone();
    for field in 0..8 {
        let values = nth(&mut row, field);
        let len = values.len() / dims.b;
        *values = values[b * len..][..len].to_vec();
    }
    row
}

/// Tokens `from..to` of a batch of one.
fn part(dims: Dims, x: &Values, from: usize, to: usize, state: Vec<f64>) -> (Dims, Values) {
    let cut = |values: &[f64], width: usize| values[from * width..to * width].to_vec();
    let (k, v, s) = (dims.h * dims.k, dims.h * dims.v, dims.h * dims.s);
    let part = Values {
        q: cut(&x.q, k),
        k: cut(&x.k, k),
        v: cut(&x.v, v),
        log_decay: cut(&x.log_decay, s),
        read: cut(&x.read, s),
        write: cut(&x.write, s),
        erase: cut(&x.erase, s),
        state,
    };
    (
        Dims {
            t: to - from,
            ..dims
        },
        part,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whole = any split with the state carried, outputs, states and every gradient, in f64.
    #[test]
    fn whole_equals_split(
        t in 2usize..40, at in 1usize..39, h in 1usize..3, s in 1usize..5,
        k in 1usize..9, v in 1usize..9, delta: bool, seed: u64,
    ) {
        let at = at.min(t - 1);
        let dims = dims(1, t, h, s, k, v);
        let probe = Probe::seeded(Case { name: "split", dims, delta }, seed);
        let whole = probe.reference();
        let (first_dims, first) = part(dims, &probe.inputs, 0, at, probe.inputs.state.clone());
        let first_out = reference::forward(first_dims, &first);
        let (second_dims, second) = part(dims, &probe.inputs, at, t, first_out.state.clone());
        let second_out = reference::forward(second_dims, &second);
        let o = [first_out.o, second_out.o].concat();
        assert_close("split", "o", &o, &whole.o, F64);
        assert_close("split", "state", &second_out.state, &whole.state, F64);

        let grads = probe.reference_grads();
        let border = at * h * v;
        let late = reference::backward(second_dims, &second, &probe.d_o[border..], &probe.d_state);
        let early = reference::backward(first_dims, &first, &probe.d_o[..border], &late.state);
        for (((name, early), (_, late)), (_, whole)) in
            early.named().into_iter().zip(late.named()).zip(grads.named())
        {
            let joined = match name {
                "state" => early.clone(),
                _ => [early.clone(), late.clone()].concat(),
            };
            assert_close("split", name, &joined, whole, F64);
        }
    }

    /// The chunk form on random sizes and chunks, in f64 and in f32.
    #[test]
    fn the_chunk_form_on_random_sizes(
        b in 1usize..3, t in 1usize..70, h in 1usize..3, s in 1usize..5,
        k in 1usize..20, v in 1usize..20, delta: bool, seed: u64,
    ) {
        let case = Case { name: "random", dims: dims(b, t, h, s, k, v), delta };
        chunk_form(&Probe::seeded(case, seed));
    }

    /// The kernel on random sizes, over more than two of its chunks.
    #[test]
    fn the_kernel_on_random_sizes(
        b in 1usize..3, t in 1usize..150, h in 1usize..4, s in 1usize..6,
        k in 1usize..40, v in 1usize..40, delta: bool, seed: u64,
    ) {
        let case = Case { name: "random", dims: dims(b, t, h, s, k, v), delta };
        let probe = Probe::seeded(case, seed);
        let answer = run(&Device::flex(), &probe, DType::F32, fused);
        check(&probe, &answer, DRAWN_FORWARD, DRAWN_BACKWARD);
    }

    /// A few tokens without gradients: the kernel's other path, token by token.
    #[test]
    fn decoding_on_random_sizes(
        b in 1usize..3, t in 1usize..7, h in 1usize..4, s in 1usize..6,
        k in 1usize..70, v in 1usize..90, delta: bool, seed: u64,
    ) {
        let case = Case { name: "decode", dims: dims(b, t, h, s, k, v), delta };
        let probe = Probe::seeded(case, seed);
        decode(&Device::flex(), &probe);
    }
}

fn chunk_form(probe: &Probe) {
    let device = &Device::flex();
    for form in [chunk_of::<32> as Run, chunk_of::<5>] {
        check(probe, &run(device, probe, DType::F64, form), F64, F64);
        let answer = run(device, probe, DType::F32, form);
        check(probe, &answer, DRAWN_FORWARD, DRAWN_BACKWARD);
    }
}

/// The sizes at which whole tensors cancel, and a wrong answer there.
#[test]
fn one_number_for_each_tensor() {
    let case = |delta| Case {
        name: "one number",
        dims: dims(1, 24, 1, 1, 1, 1),
        delta,
    };
    for seed in 0..100 {
        chunk_form(&Probe::seeded(case(seed % 2 == 0), seed));
        decode(&Device::flex(), &Probe::seeded(case(true), seed));
    }
    let probe = Probe::seeded(case(true), 1);
    let wrong = run(
        &Device::flex(),
        &probe.without_decay(),
        DType::F32,
        chunk_of::<5>,
    );
    assert!(compare(&wrong.o, &probe.reference().o, DRAWN_FORWARD).is_err());
}

/// A few tokens without gradients against the reference.
fn decode(device: &Device, probe: &Probe) {
    let (o, state) = untracked(device, probe);
    let expected = probe.reference();
    assert_close("decode", "o", &o, &expected.o, DRAWN_FORWARD);
    assert_close("decode", "state", &state, &expected.state, DRAWN_FORWARD);
}

/// Sizes drawn from a fixed seed, where the properties above would take minutes.
fn drawn_sizes(device: &Device) {
    let mut random = Random(17);
    for seed in cases(device, 0..6, 2) {
        let mut up_to = |most: f64| random.uniform(1.0, most) as usize;
        let (b, h, s) = (up_to(3.0), up_to(4.0), up_to(6.0));
        let (k, v) = (up_to(70.0), up_to(90.0));
        for (name, t) in [("scan", up_to(100.0)), ("decode", up_to(5.0))] {
            let case = Case {
                name,
                dims: dims(b, t, h, s, k, v),
                delta: seed % 3 > 0,
            };
            let probe = Probe::seeded(case, seed);
            match name {
                "decode" => decode(device, &probe),
                _ => {
                    let answer = run(device, &probe, DType::F32, fused);
                    check(&probe, &answer, FORWARD_F32, BACKWARD_F32);
                }
            }
        }
    }
}

/// Queries, keys and values in half precision, where the device has it: what they hold is taken as
/// it is, and only their gradients are rounded.
fn half_precision_rows(device: &Device) {
    // Flex computes in f32 and gives everything back in one type.
    if *device == Device::flex() {
        return;
    }
    /// Gradients rounded to the 11 bits of `f16`, which costs 2e-4.
    const BACKWARD_F16: Tol = Tol {
        rms_ratio: 1e-3,
        worst_over_rms: 30.0,
        floor: 1e-8,
    };
    /// Products of `bf16` tiles: 8 bits of a state, of an error, of a score. Waits for a device to be
    /// measured on.
    const FORWARD_BF16: Tol = Tol {
        rms_ratio: 1e-2,
        worst_over_rms: 30.0,
        floor: 1e-8,
    };
    /// As above.
    const BACKWARD_BF16: Tol = Tol {
        rms_ratio: 2e-2,
        worst_over_rms: 30.0,
        floor: 1e-8,
    };
    for dtype in [DType::F16, DType::BF16] {
        if !device.supports_dtype(dtype) {
            println!("{dtype:?}: not on {device:?}");
            continue;
        }
        let case = Case {
            name: "half",
            dims: dims(2, 70, 2, 3, 20, 36),
            delta: true,
        };
        let mut probe = Probe::seeded(case, 6);
        let len = [case.dims.b, case.dims.t, case.dims.h];
        for (rows, width) in [
            (&mut probe.inputs.q, case.dims.k),
            (&mut probe.inputs.k, case.dims.k),
            (&mut probe.inputs.v, case.dims.v),
        ] {
            let dims = [len[0], len[1], len[2], width];
            *rows = values(tensor(rows, dims, dtype, &Device::flex()));
        }
        let (forward, backward) = match dtype {
            DType::BF16 => (FORWARD_BF16, BACKWARD_BF16),
            _ => (FORWARD_F32, BACKWARD_F16),
        };
        let answer = run_mixed(device, &probe, [dtype, DType::F32], fused);
        let errors = check(&probe, &answer, forward, backward);
        println!(
            "{dtype:?}: forward {:.1e}, backward {:.1e}",
            errors.0, errors.1
        );
    }
}

on_every_device!(
    a_border_costs_no_precision,
    documents_in_a_row_match_the_reference,
    half_precision_rows,
    more_rows_than_cubes_in_a_row,
    every_form_matches_the_reference_in_f32,
    the_kernel_matches_the_reference,
    drawn_sizes,
    repeated_keys_are_solved_exactly,
    a_bad_row_does_not_touch_its_neighbours,
    two_runs_of_the_kernel_give_the_same_bits,
);

/// Repeated keys make powers of `L` explode; forward substitution does not care.
fn repeated_keys_are_solved_exactly(device: &Device) {
    let case = Case {
        name: "repeated keys",
        dims: dims(1, 64, 1, 2, 16, 16),
        delta: true,
    };
    let mut probe = Probe::seeded(case, 5);
    let first = probe.inputs.k[..16].to_vec();
    probe
        .inputs
        .k
        .chunks_mut(16)
        .for_each(|row| row.copy_from_slice(&first));
    probe.inputs.log_decay.iter_mut().for_each(|g| *g = -1e-4);
    for form in FORMS
        .map(|(_, form)| form)
        .into_iter()
        .chain([fused as Run])
    {
        check(
            &probe,
            &run(device, &probe, DType::F32, form),
            FORWARD_F32,
            BACKWARD_F32,
        );
    }
}

/// Two states fed the same stream never move apart in delta mode, whatever the stream.
#[test]
fn the_delta_rule_never_expands() {
    for seed in 0..20 {
        let dims = dims(1, 400, 1, 3, 8, 8);
        let mut probe = Probe::seeded(
            Case {
                name: "adversary",
                dims,
                delta: true,
            },
            seed,
        );
        probe.inputs.log_decay.iter_mut().for_each(|g| *g = 0.0);
        probe.inputs.v.iter_mut().for_each(|v| *v *= 100.0);
        // Keys that stay, flip or jump: the streams on which an unnormalised rule diverges.
        let first = probe.inputs.k[..8].to_vec();
        for (i, row) in probe.inputs.k.chunks_mut(8).enumerate() {
            if i % 7 != seed as usize % 7 {
                let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
                row.iter_mut().zip(&first).for_each(|(x, y)| *x = sign * y);
            }
        }
        let mut other = probe.clone();
        other
            .inputs
            .state
            .iter_mut()
            .for_each(|x| *x = -3.0 * *x + 1.0);
        let distance = |a: &[f64], b: &[f64]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| (a - b) * (a - b))
                .sum::<f64>()
                .sqrt()
        };
        let before = distance(&probe.inputs.state, &other.inputs.state);
        let after = distance(&probe.reference().state, &other.reference().state);
        assert!(
            after <= before * (1.0 + 1e-12),
            "seed {seed}: {before} grew to {after}"
        );
    }
}

/// NaN and infinity in one row of the batch stay in that row, in every input and every answer.
fn a_bad_row_does_not_touch_its_neighbours(device: &Device) {
    let case = Case {
        name: "bad row",
        dims: dims(3, 40, 2, 2, 9, 11),
        delta: true,
    };
    let clean = Probe::seeded(case, 11);
    for form in [chunk_of::<16> as Run, fused] {
        let expected = run(device, &clean, DType::F32, form);
        for (field, value) in (0..8).zip([f64::NAN, f64::INFINITY].into_iter().cycle()) {
            let mut bad = clean.clone();
            let x = nth(&mut bad.inputs, field);
            let at = x.len() / 3 + 3;
            x[at] = if field == 3 { -value } else { value };
            let answer = run(device, &bad, DType::F32, form);
            let kept = |name: &str, clean: &[f64], bad: &[f64]| {
                let third = clean.len() / 3;
                assert_eq!(
                    clean[..third],
                    bad[..third],
                    "{name} of row 0, input {field}"
                );
                assert_eq!(
                    clean[2 * third..],
                    bad[2 * third..],
                    "{name} of row 2, input {field}"
                );
            };
            kept("o", &expected.o, &answer.o);
            kept("state", &expected.state, &answer.state);
            for (clean, bad) in expected.grads.iter().zip(&answer.grads) {
                kept("gradient", clean, bad);
            }
            let all = answer
                .grads
                .iter()
                .flatten()
                .chain(&answer.o)
                .chain(&answer.state);
            // An infinite log decay only forgets; everything else has to be seen somewhere.
            assert!(
                field == 3 || all.into_iter().any(|x| !x.is_finite()),
                "input {field}"
            );
        }
    }
}

fn two_runs_of_the_kernel_give_the_same_bits(device: &Device) {
    let case = Case {
        name: "bits",
        dims: dims(3, 150, 3, 3, 20, 28),
        delta: true,
    };
    let probe = Probe::seeded(case, 2);
    let [first, second] = [(), ()].map(|()| run(device, &probe, DType::F32, fused));
    assert_eq!(first.o, second.o);
    assert_eq!(first.state, second.state);
    assert_eq!(first.grads, second.grads);
}

/// More rows than a device takes cubes along an axis: each has the bits that it has among few.
fn more_rows_than_cubes_in_a_row(device: &Device) {
    let rows = 70_000;
    let of = |rows: std::ops::Range<usize>| {
        let (n, h) = (rows.len(), 1);
        let number = |row: usize, i: usize| ((row * 7 + i * 3) % 19) as f32 / 19.0 - 0.5;
        let drawn = |width: usize, scale: f32, shift: f32| {
            let values = rows
                .clone()
                .flat_map(|row| (0..2 * width).map(move |i| number(row, i)));
            let values: Vec<f32> = values.map(|x| x * scale + shift).collect();
            Tensor::<4>::from_data(TensorData::new(values, [n, 2, h, width]), device)
        };
        let inputs = MemoryScanInputs {
            q: drawn(2, 1.0, 0.0),
            k: drawn(2, 1.0, 0.1),
            v: drawn(3, 1.0, 0.2),
            log_decay: drawn(1, 0.1, -0.2),
            read: drawn(1, 1.0, 1.0),
            write: drawn(1, 1.0, 0.5),
            erase: Some(drawn(1, 1.0, 0.5)),
        };
        let state = drawn(3, 1.0, 0.0).reshape([n, h, 1, 2, 3]);
        let MemoryScanOutput { o, state } = memory_scan(inputs, state, Form::Fused);
        (values(o), values(state))
    };
    let (o, state) = of(0..rows);
    for some in [0..3, 65_533..65_540, rows - 3..rows] {
        let (few_o, few_state) = of(some.clone());
        assert_eq!(o[some.start * 6..some.end * 6], few_o);
        assert_eq!(state[some.start * 6..some.end * 6], few_state);
        assert!(few_o.iter().all(|x| *x != 0.0), "nothing is left out");
    }
}

/// Half precision comes back as half precision, computed in `f32`.
#[test]
fn the_kernel_takes_other_float_types() {
    let device = &Device::flex();
    let case = Case {
        name: "f64",
        dims: dims(1, 40, 2, 2, 8, 8),
        delta: true,
    };
    let probe = Probe::seeded(case, 4);
    check(
        &probe,
        &run(device, &probe, DType::F64, fused),
        FORWARD_F32,
        BACKWARD_F32,
    );
}
