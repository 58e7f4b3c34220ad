//! Training throughput of a configuration against the machine's own matrix-product peak.
//!
//! ```text
//! cargo bench -p infinity-train --bench model_throughput -- --config configs/shakespeare-char.toml
//! … -- --form chunkwise        one form of the operator instead of the fastest
//! ```
//!
//! One run checks first (operator against its `f64` reference at the configuration's sizes, and a
//! falling loss), then measures the f32 matmul peak and training steps in turns. A share is that of
//! some steps in the peaks right before and after them; the median of the shares is what counts, so
//! that a machine whose speed changes within a minute does not decide.
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

/// Times that the peak is followed by steps.
const TURNS: usize = 7;
/// Steps of a turn; their median is its figure.
const STEPS: usize = 6;
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
    let mut run = Run::new(&config, form)?;
    let turns: Vec<Turn> = run.turns();
    let [first, .., last] = run.losses[..] else {
        unreachable!("more than one step");
    };
    assert!(
        last < first,
        "the loss must fall on a repeated batch: {first} to {last}"
    );
    println!(
        "check: the loss falls, {first:.3} to {last:.3} in {} steps",
        run.losses.len()
    );
    let tokens = config.tokens_per_step() as f64;
    let flops = training_flops_per_token(&config.model, window) as f64 * tokens;
    let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
    let seconds = of(|turn| turn.step.total());
    println!(
        "parameters             {}",
        ParameterCount::of(&config.model).total()
    );
    println!(
        "matmul peak            {:.1} GFLOP/s",
        of(|turn| turn.peak) / 1e9
    );
    println!(
        "step                   {:.1} ms, {tokens} tokens: gradients {:.1}, clipping {:.1}, optimizer {:.1}",
        seconds * 1e3,
        of(|turn| turn.step.gradients) * 1e3,
        of(|turn| turn.step.clipping) * 1e3,
        of(|turn| turn.step.optimizer) * 1e3,
    );
    println!(
        "training               {:.0} tokens/s, {:.1} GFLOP/s",
        tokens / seconds,
        flops / seconds / 1e9
    );
    let share = |turn: &Turn| 100.0 * flops / turn.step.total() / turn.peak;
    let shares: Vec<f64> = turns.iter().map(share).collect();
    let each: Vec<String> = shares.iter().map(|share| format!("{share:.0}")).collect();
    println!(
        "of the peak            {:.1} %   (in turns {})",
        median(shares),
        each.join(" ")
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

/// Seconds of the parts of a step.
#[derive(Clone, Copy)]
struct StepTime {
    gradients: f64,
    clipping: f64,
    optimizer: f64,
}

impl StepTime {
    fn total(&self) -> f64 {
        self.gradients + self.clipping + self.optimizer
    }
}

/// Some steps, and the matmul peak around them.
struct Turn {
    /// The median step.
    step: StepTime,
    /// Mean of the peaks before and after, FLOP/s.
    peak: f64,
}

/// A training run on one batch.
struct Run {
    learner: Learner<Trainee>,
    host: HostBatch,
    max_norm: f64,
    losses: Vec<f64>,
}

impl Run {
    fn new(config: &RunConfig, form: Form) -> Result<Self, FormError> {
        let device = Device::flex().autodiff();
        let model = config.model.init_seeded(1, &device).with_form(form)?;
        let rates = learning_rates(&config.optimizer, &config.lr_scheduler, 1000, &config.model);
        let trainee = Trainee::new(model, config.training.loss_chunk);
        Ok(Run {
            learner: Learner::new(trainee, optimizer(&config.optimizer, &config.model), rates),
            host: batch(config),
            max_norm: config.training.max_grad_norm,
            losses: Vec::new(),
        })
    }

    fn turns(&mut self) -> Vec<Turn> {
        (0..WARM_UP).for_each(|_| {
            self.step();
        });
        let mut before = matmul_flops(&Device::flex());
        let mut turns = Vec::with_capacity(TURNS);
        for _ in 0..TURNS {
            let mut steps: Vec<StepTime> = (0..STEPS).map(|_| self.step()).collect();
            steps.sort_by(|a, b| a.total().total_cmp(&b.total()));
            let after = matmul_flops(&Device::flex());
            turns.push(Turn {
                step: steps[STEPS / 2],
                peak: (before + after) / 2.0,
            });
            before = after;
        }
        turns
    }

    fn step(&mut self) -> StepTime {
        let start = Instant::now();
        let output = self.learner.train_step(LmBatch::alone(self.host.clone()));
        let loss = output.item.loss_sum / output.item.n_tokens as f64;
        let gradients = start.elapsed().as_secs_f64();
        let (grads, _): (GradientsParams, f64) =
            clip(&self.learner.model(), output.grads, self.max_norm);
        let clipped = start.elapsed().as_secs_f64();
        self.learner.lr_step();
        self.learner.optimizer_step(grads);
        let all = start.elapsed().as_secs_f64();
        self.losses.push(loss);
        StepTime {
            gradients,
            clipping: clipped - gradients,
            optimizer: all - clipped,
        }
    }
}
