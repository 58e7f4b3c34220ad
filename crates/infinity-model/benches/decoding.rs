//! Generating and reading a prompt against what the machine can do.
//!
//! ```text
//! cargo bench --workspace --bench decoding
//! … -- --hidden 512 --layers 8 --vocab 8192
//! … --features cuda … -- --device cuda [--json]     times alone
//! ```
//!
//! One run checks first (token by token gives the logits of the whole prompt), then measures the
//! memory bandwidth and the f32 matmul peak, decoding in bytes of weights and state a second, and
//! reading a prompt in FLOP/s.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_kernels::machine::{matmul_flops, read_bandwidth};
use infinity_kernels::testing::{Random, Tol, assert_close, values};
use infinity_model::count::{ParameterCount, forward_flops_per_token, state_bytes};
use infinity_model::{InfinityModel, ModelConfig};
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROMPT: usize = 2048;
const DECODED: usize = 60;
const REPETITIONS: usize = 5;

/// Worst RMS ratio on Flex, 2026-11-24: 2e-6.
const TOL: Tol = Tol {
    rms_ratio: 1e-5,
    worst_over_rms: 20.0,
    floor: 0.0,
};

/// Products of a GPU may round their factors (TF32).
const TOL_ON_GPU: Tol = Tol {
    rms_ratio: 1e-2,
    ..TOL
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, or: usize| argument(name).map_or(Ok(or), |value| value.parse());
    let config = ModelConfig {
        vocab_size: number("--vocab", 8192)?,
        hidden_size: number("--hidden", 512)?,
        num_hidden_layers: number("--layers", 8)?,
        max_position_embeddings: 1024,
        ..ModelConfig::default()
    };
    config.validate()?;
    let device = device()?;
    let model = config.init(&device);
    let on_cpu = device == Device::flex();
    check(&model, if on_cpu { TOL } else { TOL_ON_GPU });
    println!("check: token by token gives the logits of the whole");
    if !on_cpu {
        let ms = 1e3 * decoding(&model);
        println!("decoding     {ms:.2} ms a token");
        if std::env::args().any(|arg| arg == "--json") {
            // As `cargo xtask gpu` reads it.
            println!(
                r#"{{"kind":"check","what":"decoding","ok":true,"detail":"token by token gives the whole's logits"}}"#
            );
            println!(r#"{{"kind":"time","what":"decoding","pass":"token","ms":{ms}}}"#);
        }
        return Ok(());
    }

    let parameters = ParameterCount::of(&config).total();
    let state = state_bytes(&config, 1, PROMPT as u64);
    println!("model        {parameters} parameters in f32, state {state} bytes");

    let bandwidth = read_bandwidth();
    let step = decoding(&model);
    let bandwidth = bandwidth.max(read_bandwidth());
    let moved = (4 * parameters + state) as f64;
    println!("memory       {:.1} GB/s read by all cores", bandwidth / 1e9);
    println!(
        "decoding     {:.1} tokens/s, {:.1} GB/s of weights and state",
        1.0 / step,
        moved / step / 1e9
    );
    println!(
        "of the bandwidth   {:.1} %",
        100.0 * moved / step / bandwidth
    );

    let peak = matmul_flops(&Device::flex());
    let prompt = reading(&model);
    let peak = peak.max(matmul_flops(&Device::flex()));
    let flops = forward_flops_per_token(&config, PROMPT) as f64 * PROMPT as f64;
    println!("matmul peak  {:.1} GFLOP/s", peak / 1e9);
    println!(
        "prompt       {:.0} tokens/s, {:.1} GFLOP/s",
        PROMPT as f64 / prompt,
        flops / prompt / 1e9
    );
    println!("of the peak        {:.1} %", 100.0 * flops / prompt / peak);
    Ok(())
}

/// What follows `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
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

fn tokens(model: &InfinityModel, len: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = Random(3)
        .values(len, 0.0, model.config().vocab_size as f64)
        .into_iter()
        .map(|id| id as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, [1, len]), &model.device())
}

fn check(model: &InfinityModel, tol: Tol) {
    let len = 20;
    let prompt = tokens(model, len);
    let (whole, _) = model.forward(prompt.clone(), model.initial_state(1));
    let mut state = model.initial_state(1);
    for t in 0..len {
        let (logits, next) = model.decode_step(prompt.clone().narrow(1, t, 1).reshape([1]), state);
        state = next;
        let expected = values(whole.clone().narrow(1, t, 1));
        assert_close("decoding", "logits", &values(logits), &expected, tol);
    }
}

/// Median seconds of a token.
fn decoding(model: &InfinityModel) -> f64 {
    let prompt = tokens(model, DECODED);
    let (_, mut state) = model.prefill(prompt.clone(), model.initial_state(1));
    let mut times = Vec::with_capacity(DECODED);
    for t in 0..DECODED {
        let token = prompt.clone().narrow(1, t, 1).reshape([1]);
        let start = Instant::now();
        let (logits, next) = model.decode_step(token, state);
        state = next;
        std::hint::black_box(logits.into_data());
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[DECODED / 2]
}

/// Fewest seconds of a prompt.
fn reading(model: &InfinityModel) -> f64 {
    let prompt = tokens(model, PROMPT);
    let mut fastest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        let (logits, _) = model.prefill(prompt.clone(), model.initial_state(1));
        std::hint::black_box(logits.into_data());
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    fastest
}
