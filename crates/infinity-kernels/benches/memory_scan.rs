//! `memory_scan`: the kernel, the chunk form and softmax attention side by side.
//!
//! ```text
//! cargo bench -p infinity-kernels --bench memory_scan -- [--rounds 7] [--tokens 4096] [--size state] [--only fused]
//! cargo bench -p infinity-kernels --features cuda --bench memory_scan -- --device cuda [--dtype bf16]
//! ```
//!
//! `--dtype` is that of queries, keys and values; gates and states are `f32`. Devices that are not
//! the CPU run the sizes of a large model.
//!
//! Every size is checked against the chunk form first (which the tests hold to the `f64`
//! reference). Then the contestants take turns, so that a machine that slows down slows down all
//! of them; medians are printed.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, module};
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::softmax_attention::softmax_attention;
use infinity_kernels::testing::{Case, Probe, Tol, assert_close, tensor, values};
use infinity_kernels::{Form, MemoryScanInputs, memory_scan};
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [(&str, Dims); 3] = [
    (
        "four states",
        Dims {
            b: 8,
            t: 1024,
            h: 4,
            s: 4,
            k: 64,
            v: 64,
        },
    ),
    (
        "one state",
        Dims {
            b: 8,
            t: 1024,
            h: 4,
            s: 1,
            k: 64,
            v: 64,
        },
    ),
    (
        "shakespeare-char",
        Dims {
            b: 12,
            t: 128,
            h: 4,
            s: 4,
            k: 32,
            v: 32,
        },
    ),
];

/// What a GPU is asked for: 32 heads over 8,192 tokens.
const LARGE: [(&str, Dims); 4] = [
    ("large, one state, 128 wide", large(1, 128)),
    ("large, four states, 128 wide", large(4, 128)),
    ("large, one state, 64 wide", large(1, 64)),
    ("large, four states, 64 wide", large(4, 64)),
];

const fn large(s: usize, width: usize) -> Dims {
    Dims {
        b: 1,
        t: 8192,
        h: 32,
        s,
        k: width,
        v: width,
    }
}

/// The kernel against the chunk form, both in `f32`.
const SAME: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 60.0,
    floor: 1e-8,
};
/// The same with queries, keys and values in half precision, which the chunk form widens first.
const SAME_IN_HALF: Tol = Tol {
    rms_ratio: 2e-2,
    worst_over_rms: 60.0,
    floor: 1e-6,
};

fn main() {
    let rounds = number_after("--rounds").unwrap_or(7);
    let sizes = after("--size");
    let all: &[(&str, Dims)] = match after("--device") {
        None => &SIZES,
        Some(_) => &LARGE,
    };
    for &(name, dims) in all {
        if sizes.as_ref().is_some_and(|size| !name.contains(size)) {
            continue;
        }
        let dims = Dims {
            t: number_after("--tokens").unwrap_or(dims.t),
            ..dims
        };
        let Dims { b, t, h, s, k, v } = dims;
        println!("{name}: B {b}, T {t}, H {h}, S {s}, K {k}, V {v}");
        let scan = Scan::new(dims);
        scan.check();
        println!("  check: outputs, states and gradients of both forms agree");
        let mut contestants = vec![
            Contestant::new("fused, forward", || scan.forward(Form::Fused)),
            Contestant::new("chunkwise, forward", || scan.forward(Form::Chunkwise)),
            Contestant::new("Burn attention, forward", || scan.attention_forward()),
            Contestant::new("fused, forward + backward", || scan.both(Form::Fused)),
            Contestant::new("chunkwise, forward + backward", || {
                scan.both(Form::Chunkwise)
            }),
            Contestant::new("softmax attention, forward + backward", || {
                scan.attention_both()
            }),
        ];
        let backward = contestants.split_off(3);
        race(contestants, rounds);
        race(backward, rounds);
    }
    decode(rounds);
}

/// All take turns; the first is what the others are compared with.
fn race(mut contestants: Vec<Contestant<'_>>, rounds: usize) {
    let only = after("--only").unwrap_or_default();
    contestants.retain(|contestant| contestant.name.contains(&only));
    if contestants.is_empty() {
        return;
    }
    for round in 0..=rounds {
        contestants
            .iter_mut()
            .for_each(|contestant| contestant.turn(round > 0));
    }
    for contestant in &contestants {
        let ratio = contestant.median() / contestants[0].median();
        println!(
            "  {:40} {:9.2} ms {ratio:7.2} x",
            contestant.name,
            contestant.median() * 1e3
        );
    }
}

fn after(flag: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != flag).nth(1)
}

/// The device that `--device` names; Flex without it.
fn device() -> Device {
    match after("--device").as_deref() {
        None | Some("flex") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Some("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Some("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Some("rocm") => Device::rocm(0),
        Some(other) => panic!("--device {other}: not in this build, add --features {other}"),
    }
}

/// The type of queries, keys and values that `--dtype` names.
fn dtype() -> DType {
    match after("--dtype").as_deref() {
        None | Some("f32") => DType::F32,
        Some("bf16") => DType::BF16,
        Some("f16") => DType::F16,
        Some(other) => panic!("--dtype {other}: f32, bf16 or f16"),
    }
}

fn number_after(flag: &str) -> Option<usize> {
    after(flag)?.parse().ok()
}

/// Something that is timed.
struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn Fn() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, run: impl Fn() + 'a) -> Self {
        Contestant {
            name,
            run: Box::new(run),
            seconds: Vec::new(),
        }
    }

    fn turn(&mut self, counts: bool) {
        let start = Instant::now();
        (self.run)();
        device().sync().expect("the device finished");
        if counts {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
    }

    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }
}

/// Inputs of one size.
struct Scan {
    inputs: MemoryScanInputs,
    state: Tensor<5>,
    d_o: Tensor<4>,
}

impl Scan {
    fn new(dims: Dims) -> Self {
        let Dims { b, t, h, s, k, v } = dims;
        let probe = Probe::seeded(
            Case {
                name: "bench",
                dims,
                delta: true,
            },
            1,
        );
        let device = device();
        let four = |x: &[f64], width| tensor(x, [b, t, h, width], DType::F32, &device);
        let rows = |x: &[f64], width| tensor(x, [b, t, h, width], dtype(), &device);
        let x = &probe.inputs;
        let inputs = MemoryScanInputs {
            q: rows(&x.q, k),
            k: rows(&x.k, k),
            v: rows(&x.v, v),
            log_decay: four(&x.log_decay, s),
            read: four(&x.read, s),
            write: four(&x.write, s),
            erase: Some(four(&x.erase, s)),
        };
        let state = tensor(&x.state, [b, h, s, k, v], DType::F32, &device);
        Scan {
            inputs,
            state,
            d_o: four(&probe.d_o, v),
        }
    }

    fn forward(&self, form: Form) {
        let out = memory_scan(widened(self.inputs.clone(), form), self.state.clone(), form);
        std::hint::black_box(out);
    }

    /// Outputs, final state and all gradients.
    fn answers(&self, form: Form) -> Vec<Tensor<1>> {
        let leaf = |x: &Tensor<4>| x.clone().autodiff().require_grad();
        let x = &self.inputs;
        let leaves = [&x.q, &x.k, &x.v, &x.log_decay, &x.read, &x.write];
        let leaves = leaves.map(leaf);
        let erase = x.erase.as_ref().map(leaf);
        let state = self.state.clone().autodiff().require_grad();
        let [q, k, v, log_decay, read, write] = leaves.clone();
        let inputs = MemoryScanInputs {
            q,
            k,
            v,
            log_decay,
            read,
            write,
            erase: erase.clone(),
        };
        let out = memory_scan(widened(inputs, form), state.clone(), form);
        let loss = (out.o.clone() * self.d_o.clone()).sum() + out.state.clone().sum();
        let grads = loss.backward();
        let mut answers = vec![out.o.inner().flatten(0, 3), out.state.inner().flatten(0, 4)];
        let grad = |x: &Tensor<4>| x.grad(&grads).expect("a gradient").flatten(0, 3);
        answers.extend(leaves.iter().chain(&erase).map(grad));
        answers.push(state.grad(&grads).expect("a gradient").flatten(0, 4));
        answers
    }

    fn both(&self, form: Form) {
        std::hint::black_box(self.answers(form));
    }

    fn check(&self) {
        let names = [
            "o",
            "state",
            "dq",
            "dk",
            "dv",
            "dlog_decay",
            "dread",
            "dwrite",
            "derase",
            "dstate",
        ];
        let same = match dtype() {
            DType::F32 => SAME,
            _ => SAME_IN_HALF,
        };
        let pairs = self
            .answers(Form::Fused)
            .into_iter()
            .zip(self.answers(Form::Chunkwise));
        for (name, (fused, chunkwise)) in names.into_iter().zip(pairs) {
            assert_close("bench", name, &values(fused), &values(chunkwise), same);
        }
    }

    fn attention_forward(&self) {
        let heads_first = |x: &Tensor<4>| x.clone().swap_dims(1, 2);
        let MemoryScanInputs { q, k, v, .. } = &self.inputs;
        let [q, k, v] = [q, k, v].map(heads_first);
        let options = AttentionModuleOptions {
            is_causal: true,
            ..Default::default()
        };
        std::hint::black_box(module::attention(q, k, v, None, None, options));
    }

    fn attention_both(&self) {
        let leaf = |x: &Tensor<4>| x.clone().autodiff().require_grad();
        let MemoryScanInputs { q, k, v, .. } = &self.inputs;
        let [q, k, v] = [q, k, v].map(leaf);
        let o = softmax_attention(q.clone(), k.clone(), v.clone(), |weights| weights);
        let grads = (o * self.d_o.clone().cast(dtype())).sum().backward();
        std::hint::black_box([q, k, v].map(|x| x.grad(&grads)));
    }
}

/// The tensor forms have one type; the kernel reads half precision as it is.
fn widened(x: MemoryScanInputs, form: Form) -> MemoryScanInputs {
    match form {
        Form::Fused => x,
        _ => MemoryScanInputs {
            q: x.q.cast(DType::F32),
            k: x.k.cast(DType::F32),
            v: x.v.cast(DType::F32),
            ..x
        },
    }
}

/// One token: the kernel against the recurrent form.
fn decode(rounds: usize) {
    let dims = Dims {
        b: 1,
        t: 1,
        h: 16,
        s: 4,
        k: 64,
        v: 64,
    };
    let Dims { b, h, s, k, v, .. } = dims;
    println!("one token: B {b}, H {h}, S {s}, K {k}, V {v}");
    let scan = Scan::new(dims);
    let repeat = |form| (0..50).for_each(|_| scan.forward(form));
    let contestants = vec![
        Contestant::new("fused, 50 tokens", || repeat(Form::Fused)),
        Contestant::new("recurrent, 50 tokens", || repeat(Form::Recurrent)),
    ];
    race(contestants, rounds);
}
