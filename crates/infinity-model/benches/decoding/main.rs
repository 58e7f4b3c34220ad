//! Generating and reading a prompt against what the machine can do, and against PyTorch.
//!
//! ```text
//! cargo bench --workspace --bench decoding
//! … -- --size 100m             12 layers of 768 instead of 9 of 512, as in configs/bench-100m.toml
//! … -- --python PYTHON         PyTorch's GPT of the same width and layers beside it, in turns
//! … --features cuda … -- --device cuda [--json]     times alone
//! ```
//!
//! One run checks first (token by token gives the logits of the whole prompt, and every row of a step of
//! 8 and 32 rows the bits that it has alone), then measures in turns the memory's bandwidth, steps of 1,
//! 8 and 32 rows, and reading a prompt. Several copies of the weights take turns, together four times the
//! machine's largest cache, so that a step reads its weights from memory; a share is that of a turn in
//! the bandwidth read right before and after it, and the median of the turns counts.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

mod peer;

use burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_kernels::machine::{Machine, Reading, cache_bytes, matmul_flops};
use infinity_kernels::testing::{Random, Tol, assert_close, values};
use infinity_model::config::KernelType;
use infinity_model::count::{ParameterCount, forward_flops_per_token, state_bytes};
use infinity_model::replay::Replay;
use infinity_model::{InfinityModel, ModelConfig};
use peer::Peer;
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROMPT: usize = 2048;
/// Tokens that every text has before its steps are timed.
const START: usize = 16;
/// Rows of a step, and timed steps of a turn.
const STEPS: [(usize, usize); 3] = [(1, 30), (8, 16), (32, 10)];
const TURNS: usize = 5;
/// How often all copies of the weights together fill the largest cache, at least.
const CACHES: u64 = 4;

/// Worst RMS ratio on Flex, 2026-11-28: 1.0e-5 with 100 million parameters.
const TOL: Tol = Tol {
    rms_ratio: 2e-5,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Products of a GPU may round their factors (TF32).
const TOL_ON_GPU: Tol = Tol {
    rms_ratio: 1e-2,
    ..TOL
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let config = configuration()?;
    let device = device()?;
    let on_cpu = device == Device::flex();
    let bytes = 4 * ParameterCount::of(&config).total();
    let copies = match on_cpu {
        true => (CACHES * cache_bytes()).div_ceil(bytes).max(2) as usize,
        false => 1,
    };
    let models: Vec<InfinityModel> = (0..copies)
        .map(|_| config.init_seeded(1, &device))
        .collect();
    check(&models, if on_cpu { TOL } else { TOL_ON_GPU });
    println!("check: token by token gives the logits of the whole");
    if !on_cpu {
        // As `cargo xtask gpu` reads it.
        let json = std::env::args().any(|arg| arg == "--json");
        let found = |pass: &str, ms: f64| {
            println!("decoding     {ms:.2} ms a {pass}");
            if json {
                println!(r#"{{"kind":"time","what":"decoding","pass":"{pass}","ms":{ms}}}"#);
            }
        };
        found("token", 1e3 * decoding(&models, STEPS[0]));
        if let Some(seconds) = replaying(&models[0], STEPS[0].1)? {
            found("token, replayed", 1e3 * seconds);
        }
        if json {
            println!(
                r#"{{"kind":"check","what":"decoding","ok":true,"detail":"token by token gives the whole's logits, recorded the same bits"}}"#
            );
        }
        return Ok(());
    }
    check_rows(&models)?;
    println!("check: a row has the same bits alone and among 8 and 32");
    let longest = PROMPT + START;
    let mut peer = argument("--python")
        .map(|python| Peer::start(&python, &config, longest, copies))
        .transpose()?;
    println!("machine      {}", Machine::this());
    println!(
        "model        {} parameters in f32, {copies} copies of them; state {} bytes; largest cache {} MiB",
        bytes / 4,
        state_bytes(&config, 1, PROMPT as u64),
        cache_bytes() >> 20,
    );
    if let Some(peer) = &peer {
        println!("beside it    {}", peer.about);
    }
    let (turns, peak) = measured(&models, &mut peer)?;
    report(&config, &turns, peak);
    Ok(())
}

/// What follows `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

/// Layers, width and heads of `configs/bench-30m.toml` and `bench-100m.toml`, with a larger vocabulary, and of
/// `novels-large.toml`.
fn configuration() -> Outcome<ModelConfig> {
    let size = argument("--size").unwrap_or_else(|| "30m".to_owned());
    let (layers, width, heads) = match &*size {
        "30m" => (9, 512, 8),
        "100m" => (12, 768, 12),
        "174m" => (12, 1024, 8),
        _ => return Err(format!("--size {size}: 30m, 100m or 174m").into()),
    };
    let config = ModelConfig {
        vocab_size: argument("--vocab").map_or(Ok(8192), |vocab| vocab.parse())?,
        hidden_size: width,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        kernel_type: KernelType::Identity,
        max_position_embeddings: 1024,
        ..ModelConfig::first()
    };
    config.validate()?;
    Ok(config)
}

fn device() -> Result<Device, String> {
    match argument("--device").as_deref() {
        None | Some("flex") => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        Some("wgpu") => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        Some("vulkan") => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        Some("metal") => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        Some("cuda") => Ok(Device::cuda(0)),
        #[cfg(feature = "rocm")]
        Some("rocm") => Ok(Device::rocm(0)),
        Some(other) => Err(format!(
            "--device {other}: not in this build, add --features {other}"
        )),
    }
}

/// `len` tokens for each row; the first rows do not depend on how many there are.
fn tokens(model: &InfinityModel, rows: usize, len: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = Random(3)
        .values(rows * len, 0.0, model.config().vocab_size as f64)
        .into_iter()
        .map(|id| id as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, [rows, len]), &model.device())
}

/// The copy of the weights that step `t` reads.
fn copy(models: &[InfinityModel], t: usize) -> &InfinityModel {
    &models[t % models.len()]
}

/// Logits of `len` steps of `rows` rows from nothing, `[rows, vocabulary]` each.
fn stepwise(models: &[InfinityModel], rows: usize, len: usize) -> Vec<Tensor<2>> {
    let prompt = tokens(&models[0], rows, len);
    let mut state = models[0].initial_state(rows);
    let step = |t| {
        let token = prompt.clone().narrow(1, t, 1).reshape([rows]);
        let (logits, next) = copy(models, t).decode_step(token, state.clone());
        state = next;
        logits
    };
    (0..len).map(step).collect()
}

fn check(models: &[InfinityModel], tol: Tol) {
    let (model, len) = (&models[0], 20);
    let (whole, _) = model.forward(tokens(model, 1, len), model.initial_state(1));
    for (t, logits) in stepwise(models, 1, len).into_iter().enumerate() {
        let expected = values(whole.clone().narrow(1, t, 1));
        assert_close("decoding", "logits", &values(logits), &expected, tol);
    }
}

fn check_rows(models: &[InfinityModel]) -> Outcome<()> {
    let len = 3;
    let alone = stepwise(models, 1, len);
    for (rows, _) in STEPS {
        for (t, logits) in stepwise(models, rows, len).into_iter().enumerate() {
            let first = values(logits.clone().narrow(0, 0, 1));
            if first != values(alone[t].clone()) {
                return Err(format!("among {rows} rows a row has other bits").into());
            }
            if rows > 1 && first == values(logits.narrow(0, 1, 1)) {
                return Err("two rows are one: nothing is compared".into());
            }
        }
    }
    Ok(())
}

/// Median seconds of a step of `rows` rows.
fn decoding(models: &[InfinityModel], (rows, steps): (usize, usize)) -> f64 {
    let text = tokens(&models[0], rows, START + steps);
    let start = text.clone().narrow(1, 0, START);
    let (_, mut state) = models[0].prefill(start, models[0].initial_state(rows));
    let times = (START..START + steps).map(|t| {
        let token = text.clone().narrow(1, t, 1).reshape([rows]);
        let start = Instant::now();
        let taken = std::mem::replace(&mut state, models[0].initial_state(0));
        let (logits, next) = copy(models, t).decode_step(token, taken);
        state = next;
        std::hint::black_box(logits.into_data());
        start.elapsed().as_secs_f64()
    });
    median(times)
}

/// Median seconds of a step of one row that is recorded, where the device records; the first steps have the bits of those
/// that are launched.
fn replaying(model: &InfinityModel, steps: usize) -> Outcome<Option<f64>> {
    let text = tokens(model, 1, START + steps);
    let start = text.clone().narrow(1, 0, START);
    let (_, mut state) = model.prefill(start, model.initial_state(1));
    let Some(mut replay) = Replay::new(model, &state) else {
        return Ok(None);
    };
    let ids: Vec<u32> = text.clone().into_data().iter::<u32>().collect();
    let mut times = Vec::new();
    for t in START..START + steps {
        let begun = Instant::now();
        let logits = values(replay.step(&ids[t..=t]));
        times.push(begun.elapsed().as_secs_f64());
        if t < START + 3 {
            let token = text.clone().narrow(1, t, 1).reshape([1]);
            let (expected, next) = model.decode_step(token, state);
            state = next;
            if logits != values(expected) {
                return Err(
                    format!("step {} has other bits when it is recorded", t - START).into(),
                );
            }
        }
    }
    Ok(Some(median(times.into_iter())))
}

/// Seconds of a prompt.
fn reading(model: &InfinityModel) -> f64 {
    let prompt = tokens(model, 1, PROMPT);
    let start = Instant::now();
    let (logits, _) = model.prefill(prompt, model.initial_state(1));
    std::hint::black_box(logits.into_data());
    start.elapsed().as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds of ours and of PyTorch's.
#[derive(Clone, Copy)]
struct Pair {
    ours: f64,
    theirs: Option<f64>,
}

/// What was measured one after the other.
struct Turn {
    /// Bytes a second before and after.
    bandwidth: f64,
    /// Of a step, as [`STEPS`].
    steps: Vec<Pair>,
    prompt: Pair,
}

/// The turns, and the peak of products.
fn measured(models: &[InfinityModel], peer: &mut Option<Peer>) -> Outcome<(Vec<Turn>, f64)> {
    let memory = Reading::default();
    let mut turns = Vec::new();
    let mut peak = matmul_flops(&Device::flex());
    reading(&models[0]);
    let mut before = memory.bandwidth();
    for _ in 0..TURNS {
        let mut steps = Vec::new();
        for (rows, count) in STEPS {
            let ours = decoding(models, (rows, count));
            let theirs = peer.as_mut().map(|peer| peer.decode(rows, count));
            let theirs = theirs.transpose()?;
            steps.push(Pair { ours, theirs });
        }
        let after = memory.bandwidth();
        let theirs = peer.as_mut().map(|peer| peer.prompt(PROMPT)).transpose()?;
        let prompt = Pair {
            ours: reading(&models[0]),
            theirs,
        };
        turns.push(Turn {
            bandwidth: (before + after) / 2.0,
            steps,
            prompt,
        });
        before = memory.bandwidth();
    }
    peak = peak.max(matmul_flops(&Device::flex()));
    Ok((turns, peak))
}

/// ", PyTorch … tokens/s: … times as fast", where it was there.
fn beside(tokens: usize, pairs: &[Pair]) -> String {
    let theirs = pairs.iter().map(|pair| pair.theirs);
    let Some(theirs) = theirs.collect::<Option<Vec<f64>>>() else {
        return String::new();
    };
    let ratios = pairs
        .iter()
        .zip(&theirs)
        .map(|(pair, them)| them / pair.ours);
    format!(
        ", PyTorch {:.1} tokens/s: {:.2} times as fast",
        tokens as f64 / median(theirs.iter().copied()),
        median(ratios)
    )
}

fn report(config: &ModelConfig, turns: &[Turn], peak: f64) {
    let of = |number: &dyn Fn(&Turn) -> f64| median(turns.iter().map(number));
    let best = turns.iter().map(|turn| turn.bandwidth).fold(0.0, f64::max);
    println!(
        "memory       {:.1} GB/s read by all cores, {:.1} in the best turn",
        of(&|turn| turn.bandwidth) / 1e9,
        best / 1e9
    );
    let parameters = ParameterCount::of(config).total();
    for (i, (rows, _)) in STEPS.into_iter().enumerate() {
        let pairs: Vec<Pair> = turns.iter().map(|turn| turn.steps[i]).collect();
        let seconds = of(&|turn| turn.steps[i].ours);
        let state = state_bytes(config, rows, PROMPT as u64);
        let moved = (4 * parameters + state) as f64;
        println!(
            "decoding     {rows} at once: {:.2} ms, {:.1} tokens/s ({:.2} times one){}",
            1e3 * seconds,
            rows as f64 / seconds,
            of(&|turn| rows as f64 * turn.steps[0].ours / turn.steps[i].ours),
            beside(rows, &pairs)
        );
        println!(
            "             {:.1} GB/s of weights and state, {:.1} % of the bandwidth",
            moved / seconds / 1e9,
            100.0 * of(&|turn| moved / turn.steps[i].ours / turn.bandwidth)
        );
    }
    let seconds = of(&|turn| turn.prompt.ours);
    let prompts: Vec<Pair> = turns.iter().map(|turn| turn.prompt).collect();
    let flops = forward_flops_per_token(config, PROMPT) as f64 * PROMPT as f64;
    println!(
        "prompt       {PROMPT} tokens: {:.0} tokens/s, {:.1} GFLOP/s, {:.1} % of Burn's best product{}",
        PROMPT as f64 / seconds,
        flops / seconds / 1e9,
        100.0 * flops / seconds / peak,
        beside(PROMPT, &prompts)
    );
}
