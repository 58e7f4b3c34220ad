//! `memory_scan`: the kernel, the chunk form and Burn's softmax attention side by side.
//!
//! ```text
//! cargo bench --workspace --bench memory_scan -- [--rounds 7] [--batch 1] [--tokens 4096] [--heads 2] [--size state] [--only fused,attention]
//! cargo bench -p infinity-kernels --features cuda,autotune --bench memory_scan -- --device cuda [--dtype bf16] [--memory 64] [--json]
//! ```
//!
//! `--dtype` is that of queries, keys and values; gates and states are `f32`. Devices that are not
//! the CPU run the sizes of a large model. `--memory` is what attention may take, in gigabytes: with
//! its backward it keeps every score. `--json` prints what was found as lines for a program too.
//!
//! Every size is checked against the chunk form first (which the tests hold to the `f64`
//! reference), and attention against its own reference. Then the contestants take turns, so that a
//! machine that slows down slows down all of them; medians are printed, and the most that a call had
//! allocated on the host above its inputs: results, gradients and whatever lies between.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

mod attention;
#[path = "../kernels/counted.rs"]
mod counted;
mod race;
mod report;
mod scan;

use attention::Attention;
use burn::tensor::{DType, Device};
use infinity_kernels::Form;
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::check_flags;
use race::{Contestant, race};
use scan::Scan;

/// What a pass is called.
const FORWARD: &str = "forward";
const BOTH: &str = "forward + backward";

#[global_allocator]
static GLOBAL: counted::Counted = counted::Counted;

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

const FLAGS: [&str; 10] = [
    "--batch=",
    "--device=",
    "--dtype=",
    "--heads=",
    "--json",
    "--memory=",
    "--only=",
    "--rounds=",
    "--size=",
    "--tokens=",
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

fn main() -> Result<(), String> {
    check_flags(&FLAGS)?;
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
            b: number_after("--batch").unwrap_or(dims.b),
            t: number_after("--tokens").unwrap_or(dims.t),
            h: number_after("--heads").unwrap_or(dims.h),
            ..dims
        };
        let Dims { b, t, h, s, k, v } = dims;
        println!("{name}: B {b}, T {t}, H {h}, S {s}, K {k}, V {v}");
        measure(dims, rounds);
    }
    if sizes.is_none() {
        decode(rounds);
    }
    Ok(())
}

/// Checks and times one size.
fn measure(dims: Dims, rounds: usize) {
    let scan = Scan::new(dims);
    let checked = scan.check();
    report::check(&["fused", "chunkwise"], &checked);
    if let Err(why) = checked {
        panic!("the two forms differ: {why}");
    }
    // Before those who borrow it.
    let passes = [FORWARD, BOTH].map(|pass| race::is_wanted(attention::NAME, pass));
    let attention = passes.contains(&true).then(|| Attention::new(dims));
    let mut forward = vec![
        Contestant::new("fused", FORWARD, || scan.forward(Form::Fused)),
        Contestant::new("chunkwise", FORWARD, || scan.forward(Form::Chunkwise)),
    ];
    let mut both = vec![
        Contestant::new("fused", BOTH, || scan.both(Form::Fused)),
        Contestant::new("chunkwise", BOTH, || scan.both(Form::Chunkwise)),
    ];
    forward.retain(Contestant::is_wanted);
    both.retain(Contestant::is_wanted);
    if let Some(attention) = attention.as_ref().filter(|_| attention::check(&dims)) {
        let [wants_forward, wants_both] = passes;
        if wants_forward {
            let run = move || attention.forward();
            forward.push(Contestant::new(attention::NAME, FORWARD, run));
        }
        if wants_both && attention::fits(&dims) {
            let run = move || attention.both();
            both.push(Contestant::new(attention::NAME, BOTH, run));
        }
    }
    race(&dims, forward, rounds);
    race(&dims, both, rounds);
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
    let mut contestants = vec![
        Contestant::new("fused", "50 tokens", || repeat(Form::Fused)),
        Contestant::new("recurrent", "50 tokens", || repeat(Form::Recurrent)),
    ];
    contestants.retain(Contestant::is_wanted);
    race(&dims, contestants, rounds);
}

/// What follows `flag` on the command line.
fn after(flag: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != flag).nth(1)
}

/// The device that `--device` names; Flex without it.
fn device() -> Device {
    match after("--device").as_deref() {
        None | Some("flex") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Some("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        Some("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        Some("metal") => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
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

/// A number behind `flag`.
fn number_after(flag: &str) -> Option<usize> {
    after(flag)?.parse().ok()
}
