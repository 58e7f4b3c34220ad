//! Training throughput of a configuration against the machine's own matrix-product peak.
//!
//! ```text
//! cargo bench -p infinity-train --bench model_throughput -- --config configs/shakespeare-char.toml
//! … -- --form chunkwise        one form of the operator instead of the fastest
//! ```
//!
//! One run checks first (operator against its `f64` reference at the configuration's sizes, and a
//! falling loss), then measures the f32 matmul peak and the training step, peak before and after,
//! so that a noisy machine shows.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device};
use burn::train::Learner;
use infinity_kernels::machine::matmul_flops;
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::{Case, Probe, Tol, assert_close, tensor, values};
use infinity_kernels::{Form, FormError, MemoryScanInputs, memory_scan};
use infinity_model::ModelConfig;
use infinity_model::config::MemoryUpdate;
use infinity_model::count::{ParameterCount, training_flops_per_token};
use infinity_train::RunConfig;
use infinity_train::data::HostBatch;
use infinity_train::optimizer::{clip, learning_rates, optimizer};
use infinity_train::step::{LmBatch, Trainee};
use std::path::PathBuf;
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that are timed; the median is reported.
const STEPS: usize = 30;
const WARM_UP: usize = 5;
/// Vocabulary where the configuration takes it from a tokenizer: the characters of Shakespeare.
const VOCABULARY: usize = 66;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = configuration()?;
    let window = config.data.max_seq_length;
    let form = match argument("--form") {
        Some(name) => name.parse()?,
        None => Form::choose(window, &Device::flex()),
    };
    check_operator(&config.model, window, form);
    println!("check: memory_scan, {form}, equals its f64 reference at these sizes");
    let before = matmul_flops(&Device::flex());
    let (seconds, first, last) = train_steps(&config, form)?;
    assert!(
        last < first,
        "the loss must fall on a repeated batch: {first} to {last}"
    );
    println!(
        "check: the loss falls, {first:.3} to {last:.3} in {} steps",
        STEPS + WARM_UP
    );
    let after = matmul_flops(&Device::flex());
    let peak = before.max(after);

    let tokens = config.tokens_per_step() as f64;
    let flops = training_flops_per_token(&config.model, window) as f64 * tokens / seconds;
    println!(
        "parameters             {}",
        ParameterCount::of(&config.model).total()
    );
    println!(
        "matmul peak            {:.1} GFLOP/s (before {before:.1e}, after {after:.1e})",
        peak / 1e9
    );
    println!(
        "step                   {:.1} ms, {tokens} tokens",
        seconds * 1e3
    );
    println!(
        "training               {:.0} tokens/s, {:.1} GFLOP/s",
        tokens / seconds,
        flops / 1e9
    );
    if flops > peak || before.min(after) < 0.7 * peak {
        println!("the machine was busy: the two peaks differ, or lie below the step; run it again");
    }
    println!("of the peak            {:.1} %", 100.0 * flops / peak);
    Ok(())
}

/// What follows `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

fn configuration() -> Result<RunConfig, Box<dyn std::error::Error>> {
    let given = argument("--config").unwrap_or_else(|| "configs/shakespeare-char.toml".to_owned());
    // Cargo runs benches in the package's folder; paths are given from the workspace's.
    let mut config = RunConfig::load(&PathBuf::from("../..").join(given))?;
    if config.model.vocab_size == 0 {
        config.model.vocab_size = VOCABULARY;
    }
    Ok(config)
}

fn check_operator(model: &ModelConfig, t: usize, form: Form) {
    let dims = Dims {
        b: 1,
        t: t.min(256),
        h: 2,
        s: model.num_states(),
        k: model.head_dim(),
        v: model.value_head_dim(),
    };
    let delta = model.memory_update == MemoryUpdate::Delta;
    let probe = Probe::seeded(
        Case {
            name: "bench",
            dims,
            delta,
        },
        1,
    );
    let device = Device::flex();
    let x = &probe.inputs;
    let four =
        |values: &[f64], width| tensor(values, [1, dims.t, dims.h, width], DType::F32, &device);
    let inputs = MemoryScanInputs {
        q: four(&x.q, dims.k),
        k: four(&x.k, dims.k),
        v: four(&x.v, dims.v),
        log_decay: four(&x.log_decay, dims.s),
        read: four(&x.read, dims.s),
        write: four(&x.write, dims.s),
        erase: delta.then(|| four(&x.erase, dims.s)),
    };
    let state = tensor(
        &x.state,
        [1, dims.h, dims.s, dims.k, dims.v],
        DType::F32,
        &device,
    );
    let out = memory_scan(inputs, state, form);
    let tol = Tol {
        rms_ratio: 1e-5,
        worst_over_rms: 20.0,
        floor: 0.0,
    };
    assert_close("bench", "o", &values(out.o), &probe.reference().o, tol);
}

/// A batch of tokens that are neither constant nor learnable by position alone.
fn batch(config: &RunConfig) -> HostBatch {
    let (rows, len) = (
        config.training.per_device_train_batch_size,
        config.data.max_seq_length,
    );
    let mut random = infinity_kernels::testing::Random(7);
    let tokens: Vec<i32> = random
        .values(rows * (len + 1), 0.0, config.model.vocab_size as f64)
        .into_iter()
        .map(|x| x as i32)
        .collect();
    let rows_of = |from: usize| {
        tokens
            .chunks(len + 1)
            .flat_map(move |row| row[from..from + len].to_vec())
    };
    HostBatch {
        inputs: rows_of(0).collect(),
        targets: rows_of(1).collect(),
        rows,
        len,
        carry: vec![None; rows],
        valid: rows * len,
    }
}

/// Median seconds of a step, and the loss of the first and the last one.
fn train_steps(config: &RunConfig, form: Form) -> Result<(f64, f64, f64), FormError> {
    let device = Device::flex().autodiff();
    let model = config.model.init_seeded(1, &device).with_form(form)?;
    let rates = learning_rates(&config.optimizer, &config.lr_scheduler, 1000, &config.model);
    let trainee = Trainee::new(model, config.training.loss_chunk);
    let mut learner = Learner::new(trainee, optimizer(&config.optimizer, &config.model), rates);
    let host = batch(config);
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for step in 0..WARM_UP + STEPS {
        let start = Instant::now();
        let output = learner.train_step(LmBatch::alone(host.clone()));
        let (grads, _): (GradientsParams, f64) = clip(
            &learner.model(),
            output.grads,
            config.training.max_grad_norm,
        );
        learner.lr_step();
        learner.optimizer_step(grads);
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
        }
        losses.push(output.item.loss_sum / output.item.n_tokens as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], losses[0], losses[losses.len() - 1]))
}
