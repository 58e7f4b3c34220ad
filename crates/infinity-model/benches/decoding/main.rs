//! Generating and reading a prompt against what the machine can do, and against PyTorch.
//!
//! ```text
//! cargo bench --workspace --bench decoding
//! … -- --size 100m             12 layers of 768 instead of 9 of 512, as in configs/bench-100m.toml
//! … -- --python PYTHON         PyTorch's GPT of the same width and layers beside it, in turns
//! … -- --model DIR             a model directory, ours or another family's; with --python transformers' model of it
//! … -- --precision bf16-weights --prompt 512 --rows 1 --turns 3
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

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use infinity_kernels::machine::{Machine, Reading, cache_bytes, matmul_flops};
use infinity_kernels::testing::{Random, Tol, assert_close, check_flags, compare, values};
use infinity_model::config::KernelType;
use infinity_model::count::{ParameterCount, forward_flops_per_token, state_bytes};
use infinity_model::replay::Replay;
use infinity_model::{InfinityModel, ModelConfig, Precision, from_pretrained_in};
use peer::Peer;
use std::path::Path;
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens that every text has before its steps are timed.
const START: usize = 16;
/// Rows of a step, and timed steps of a turn.
const STEPS: [(usize, usize); 3] = [(1, 30), (8, 16), (32, 10)];
/// How often all copies of the weights together fill the largest cache, at least.
const CACHES: u64 = 4;

/// Worst RMS ratio on Flex, 2026-11-28: 1.0e-5 with 100 million parameters.
const TOL: Tol = Tol {
    rms_ratio: 2e-5,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// One of both computes in bf16, or both do, each in an order of its own.
const TOL_IN_BF16: Tol = Tol {
    rms_ratio: 5e-2,
    ..TOL
};

/// Products of a GPU may round their factors (TF32).
const TOL_ON_GPU: Tol = Tol {
    rms_ratio: 1e-2,
    ..TOL
};

const FLAGS: [&str; 10] = [
    "--device=",
    "--json",
    "--model=",
    "--precision=",
    "--prompt=",
    "--python=",
    "--rows=",
    "--size=",
    "--turns=",
    "--vocab=",
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    check_flags(&FLAGS)?;
    let device = device()?;
    let on_cpu = device == Device::flex();
    let precision = argument("--precision").map_or(Ok(Precision::F32), |name| name.parse())?;
    let prompt = argument("--prompt").map_or(Ok(2048), |len| len.parse())?;
    let dir = argument("--model");
    let started = Instant::now();
    let first = match &dir {
        Some(dir) => from_pretrained_in(Path::new(dir), precision, &device)?.model,
        None => configuration()?
            .init_seeded(1, &device)
            .with_precision(precision)?,
    };
    let loaded = started.elapsed().as_secs_f64();
    let config = first.config().clone();
    let bytes = stored_bytes(&first);
    let copies = match on_cpu {
        true => (CACHES * cache_bytes()).div_ceil(bytes) as usize,
        false => 1,
    };
    let copied = |_| first.clone().map(&mut Copied);
    let copied: Vec<InfinityModel> = (1..copies).map(copied).collect();
    let models: Vec<InfinityModel> = std::iter::once(first).chain(copied).collect();
    let tol = match (on_cpu, precision.half()) {
        (true, None) => TOL,
        (true, Some(_)) => TOL_IN_BF16,
        (false, _) => TOL_ON_GPU,
    };
    check(&models, tol);
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
    let longest = prompt + START;
    let start = |python: String| match &dir {
        Some(dir) => {
            let in_bf16 = models[0].output_weight().dtype() == DType::BF16;
            Peer::transformers(&python, dir, in_bf16)
        }
        None => Peer::gpt(&python, &config, longest, copies),
    };
    let mut peer = argument("--python").map(start).transpose()?;
    if let (Some(peer), Some(_)) = (&mut peer, &dir) {
        check_with(&models[0], peer)?;
    }
    println!("machine      {}", Machine::this());
    println!(
        "model        {} parameters, {precision}, {bytes} bytes, {copies} copies of them; made in {loaded:.1} s; state {} bytes; largest cache {} MiB",
        ParameterCount::of(&config).total(),
        state_bytes(&config, 1, prompt as u64),
        cache_bytes() >> 20,
    );
    if let Some(peer) = &peer {
        println!("beside it    {}", peer.about);
    }
    let most = argument("--rows").map_or(Ok(usize::MAX), |rows| rows.parse())?;
    let steps: Vec<_> = STEPS
        .into_iter()
        .filter(|(rows, _)| *rows <= most)
        .collect();
    let count = argument("--turns").map_or(Ok(5), |turns| turns.parse())?;
    let (turns, peak) = measured(&models, [prompt, count], &steps, &mut peer)?;
    report(&models[0], prompt, &turns, peak);
    Ok(())
}

/// Bytes of the parameters in their formats.
fn stored_bytes(model: &InfinityModel) -> u64 {
    struct Bytes(u64);
    impl ModuleVisitor for Bytes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val();
            self.0 += (values.shape().num_elements() * values.dtype().size()) as u64;
        }
    }
    let mut bytes = Bytes(0);
    model.visit(&mut bytes);
    bytes.0
}

/// Parameters in a place of their own.
struct Copied;

impl ModuleMapper for Copied {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|values| {
            let (device, dtype) = (values.device(), values.dtype());
            Tensor::from_data(values.into_data(), (&device, dtype))
        })
    }
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

/// Our logits against those of the directory's own program, in f32 to its accuracy.
fn check_with(model: &InfinityModel, peer: &mut Peer) -> Outcome<()> {
    let tokens = tokens(model, 1, 20);
    let theirs = peer.last(&tokens.clone().into_data().iter::<i64>().collect::<Vec<_>>())?;
    let (logits, _) = model.prefill(tokens, model.initial_state(1));
    let tol = match model.output_weight().dtype() == DType::F32 {
        true => TOL,
        false => TOL_IN_BF16,
    };
    let far = compare(&values(logits), &theirs, tol).map_err(|error| format!("{error:?}"))?;
    println!("check: logits are those of the directory's own program, {far:.0e} apart");
    Ok(())
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
fn reading(model: &InfinityModel, prompt: usize) -> f64 {
    let prompt = tokens(model, 1, prompt);
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
fn measured(
    models: &[InfinityModel],
    [prompt, turns]: [usize; 2],
    counts: &[(usize, usize)],
    peer: &mut Option<Peer>,
) -> Outcome<(Vec<Turn>, f64)> {
    let memory = Reading::default();
    let (count, mut turns) = (turns, Vec::new());
    let mut peak = matmul_flops(&Device::flex());
    reading(&models[0], prompt);
    let mut before = memory.bandwidth();
    for _ in 0..count {
        let mut steps = Vec::new();
        for &(rows, count) in counts {
            let ours = decoding(models, (rows, count));
            let theirs = peer.as_mut().map(|peer| peer.decode(rows, count));
            let theirs = theirs.transpose()?;
            steps.push(Pair { ours, theirs });
        }
        let after = memory.bandwidth();
        let theirs = peer.as_mut().map(|peer| peer.prompt(prompt)).transpose()?;
        let of_prompt = Pair {
            ours: reading(&models[0], prompt),
            theirs,
        };
        turns.push(Turn {
            bandwidth: (before + after) / 2.0,
            steps,
            prompt: of_prompt,
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

fn report(model: &InfinityModel, prompt: usize, turns: &[Turn], peak: f64) {
    let config = model.config();
    let of = |number: &dyn Fn(&Turn) -> f64| median(turns.iter().map(number));
    let best = turns.iter().map(|turn| turn.bandwidth).fold(0.0, f64::max);
    println!(
        "memory       {:.1} GB/s read by all cores, {:.1} in the best turn",
        of(&|turn| turn.bandwidth) / 1e9,
        best / 1e9
    );
    let weights = stored_bytes(model);
    for (i, (rows, _)) in STEPS.into_iter().take(turns[0].steps.len()).enumerate() {
        let pairs: Vec<Pair> = turns.iter().map(|turn| turn.steps[i]).collect();
        let seconds = of(&|turn| turn.steps[i].ours);
        let state = state_bytes(config, rows, START as u64);
        let moved = (weights + state) as f64;
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
    let flops = forward_flops_per_token(config, prompt) as f64 * prompt as f64;
    println!(
        "prompt       {prompt} tokens: {:.0} tokens/s, {:.1} GFLOP/s, {:.1} % of Burn's best product{}",
        prompt as f64 / seconds,
        flops / seconds / 1e9,
        100.0 * flops / seconds / peak,
        beside(prompt, &prompts)
    );
}
