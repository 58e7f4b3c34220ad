//! Training throughput of a configuration, on the CPU against the best f32 product that runs there.
//!
//! ```text
//! cargo bench --workspace --bench model_throughput -- --config configs/shakespeare-char.toml
//! … -- --form chunkwise        one form of the operator instead of the fastest
//! … -- --turns 3              fewer turns than seven, for a large model
//! … -- --rows 12               another number of rows a step than the configuration's
//! … -- --profile              where the time goes, operator by operator
//! … -- --python PYTHON         PyTorch's GPT of the same width beside it, step by step in turns
//! … --features cuda … -- --device cuda --precision f32,bf16-mixed [--json]
//! … -- --learn TEXT           trains as the configuration says, on that text, and shows what is validated
//! ```
//!
//! One run checks first (operator against its `f64` reference at the configuration's sizes, a falling
//! loss, and losses that do not depend on the precision), then measures the best f32 product of the CPU
//! (Burn's, and PyTorch's where it is beside it) and training steps in turns. A share is that of a turn's steps in the peaks right before and after
//! them, and the median of the shares counts, so that a machine whose speed changes within a minute does
//! not decide. Precisions take turns, step by step, and so does PyTorch: its ratio is the median over turns.
//! `--json` prints what was found as lines for a program too.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

mod peer;
mod profile;

use burn::tensor::{DType, Device};
use infinity_kernels::accelerator;
use infinity_kernels::machine::{bf16_product_flops, matmul_flops};
use infinity_kernels::memory_scan::reference::Dims;
use infinity_kernels::testing::{Case, Probe, Tol, assert_close, check_flags, values};
use infinity_kernels::{Form, memory_scan};
use infinity_model::config::MemoryUpdate;
use infinity_model::count::{ParameterCount, training_flops_per_token};
use infinity_model::{Formats, ModelConfig, Precision};
use infinity_train::data::HostBatch;
use infinity_train::metrics::Event;
use infinity_train::optimizer::{Optimizer, clip};
use infinity_train::step::{LmBatch, Trainee};
use infinity_train::{RunConfig, TrainControl, train};
use peer::Peer;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times that the peak is followed by steps, without `--turns`.
const TURNS: usize = 7;
/// Steps of a turn; their median is its figure.
const STEPS: usize = 6;
const WARM_UP: usize = 5;
/// Vocabulary where the configuration takes it from a tokenizer: the characters of Shakespeare.
const VOCABULARY: usize = 66;
/// The first steps, in which a precision may change the loss by this many nats. On Tiny Shakespeare it
/// was 4e-4 in bf16 (LOG.md); a larger model and vocabulary have room, a wrong one does not.
const ALIKE_STEPS: usize = 10;
const ALIKE: f64 = 0.02;

const FLAGS: [&str; 11] = [
    "--config=",
    "--device=",
    "--first",
    "--form=",
    "--json",
    "--learn=",
    "--precision=",
    "--profile",
    "--python=",
    "--rows=",
    "--turns=",
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let start = Instant::now();
    check_flags(&FLAGS)?;
    let config = configuration()?;
    let device = device()?;
    if let Some(text) = argument("--learn") {
        return learn(config, text.into(), device);
    }
    let window = config.data.max_seq_length;
    let form = match argument("--form") {
        Some(name) => name.parse()?,
        None => Form::choose(window, &device),
    };
    check_operator(&config.model, window, form, &device);
    println!("check: memory_scan, {form}, equals its f64 reference at these sizes");
    let precisions = argument("--precision").unwrap_or_else(|| "f32".to_owned());
    let precisions: Vec<Precision> = precisions
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;

    let mut runs = precisions
        .into_iter()
        .map(|precision| Run::new(&config, form, precision, &device))
        .collect::<Outcome<Vec<Run>>>()?;
    if std::env::args().any(|arg| arg == "--first") {
        return first(runs.remove(0), &config, &device, start);
    }
    let mut formats: Vec<&'static str> = runs.iter().map(Run::format).collect();
    formats.dedup();
    let mut peers = match argument("--python").map(PathBuf::from) {
        Some(python) => formats
            .into_iter()
            .map(|format| Peer::start(&python, &config, format))
            .collect::<Outcome<Vec<Peer>>>()?,
        None => Vec::new(),
    };
    let turns = match argument("--turns") {
        Some(turns) => turns.parse::<usize>()?.max(1),
        None => TURNS,
    };
    let host = batch(&config);
    let norm = config.training.max_grad_norm;
    for _ in 0..WARM_UP {
        for run in &mut runs {
            run.step(&host, norm, &device)?;
        }
        for peer in &mut peers {
            peer.step()?;
        }
    }
    runs.iter_mut().for_each(|run| run.times.clear());
    let our_peak_bytes = memory_stats::memory_stats().map(|held| held.physical_mem as f64);
    peers.iter_mut().for_each(|peer| peer.times.clear());
    // Of the CPU alone: the products that are tried are too small for a GPU.
    let peak = || (device == Device::flex()).then(|| matmul_flops(&device));
    let mut peaks = vec![peak()];
    for _ in 0..turns {
        for _ in 0..STEPS {
            for run in &mut runs {
                run.step(&host, norm, &device)?;
            }
            for peer in &mut peers {
                peer.step()?;
            }
        }
        peaks.push(peak());
    }
    let peaks: Option<Vec<f64>> = peaks.into_iter().collect();
    let product = peers.first_mut().map(Peer::product_flops).transpose()?;
    let best = peaks.map(|peaks| Best::of(peaks, product));

    let single = runs[0].losses.clone();
    for run in &runs {
        run.check(&single)?;
    }
    println!(
        "parameters             {}",
        ParameterCount::of(&config.model).total()
    );
    for run in &runs {
        run.report(&config, &device, best.as_ref());
    }
    for peer in &mut peers {
        compare(&runs, peer, product, &config, our_peak_bytes)?;
    }
    if std::env::args().any(|arg| arg == "--profile") {
        for run in &mut runs {
            let steps = run.times.len();
            let (spent, whole) = profile::of(STEPS, || run.step(&host, norm, &device).map(|_| ()))?;
            profile::print(&run.times[steps..], &spent, whole)?;
        }
    }
    Ok(())
}

/// The fastest f32 product of those that were tried here.
struct Best {
    whose: &'static str,
    /// FLOP/s before the first turn and after every one.
    flops: Vec<f64>,
}

impl Best {
    /// Burn's, which the kernels take too, or PyTorch's where that is faster: it is timed once, and stands to Burn's as it
    /// stood to its median.
    fn of(burns: Vec<f64>, pytorchs: Option<f64>) -> Self {
        let factor = pytorchs.unwrap_or_default() / median(burns.iter().copied());
        match factor > 1.0 {
            false => Best {
                whose: "Burn's",
                flops: burns,
            },
            true => Best {
                whose: "PyTorch's",
                flops: burns.iter().map(|flops| flops * factor).collect(),
            },
        }
    }
}

/// Ours against PyTorch's, turn by turn.
fn compare(
    runs: &[Run],
    peer: &mut Peer,
    product: Option<f64>,
    config: &RunConfig,
    ours_bytes: Option<f64>,
) -> Outcome<()> {
    let (first, last) = (peer.losses[0], peer.losses[peer.losses.len() - 1]);
    if !(last.is_finite() && last < first) {
        return Err(
            format!("PyTorch's loss goes from {first:.3} to {last:.3}: it does not learn").into(),
        );
    }
    let tokens = config.tokens_per_step() as f64;
    println!(
        "PyTorch {}, {}   GPT of {} parameters, {:.0} tokens/s, best product {:.1} GFLOP/s, loss from {first:.3} to {last:.3}",
        peer.version,
        peer.format,
        peer.parameters,
        tokens / median(peer.times.iter().copied()),
        product.unwrap_or_default() / 1e9,
    );
    if let Some(ours) = ours_bytes {
        println!(
            "memory                 {:.0} MB against PyTorch's {:.0} MB (a whole process each)",
            ours / 1e6,
            peer.peak_bytes()? / 1e6,
        );
    }
    for run in runs {
        let turns = run
            .times
            .chunks_exact(STEPS)
            .zip(peer.times.chunks_exact(STEPS));
        let ratios: Vec<f64> = turns
            .map(|(ours, theirs)| {
                median(theirs.iter().copied()) / median(ours.iter().map(StepTime::total))
            })
            .collect();
        let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!(
            "{} against PyTorch in {}    {:.2} times as fast   (in turns {})",
            run.precision,
            peer.format,
            median(ratios.iter().copied()),
            each.join(" ")
        );
    }
    Ok(())
}

/// One step, and what it took from the start of the program on: on a GPU mostly to compile and to tune.
fn first(mut run: Run, config: &RunConfig, device: &Device, start: Instant) -> Outcome<()> {
    run.step(&batch(config), config.training.max_grad_norm, device)?;
    let ms = 1e3 * start.elapsed().as_secs_f64();
    println!("first step             {ms:.0} ms after the start");
    let (what, ok) = ("first step", run.losses[0].is_finite());
    line(&json!({ "kind": "check", "what": what, "ok": ok, "detail": "its loss is a number" }));
    line(&json!({ "kind": "time", "what": what, "pass": "step", "ms": ms }));
    Ok(())
}

/// The loss on what `config` validates, when all of its steps are done.
fn learn(mut config: RunConfig, text: PathBuf, device: Device) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    config.run.output_dir = folder.path().join("run").display().to_string();
    config.data.cache_dir = folder.path().join("cache");
    config.data.train_file = text;
    // A tokenizer says how many tokens there are.
    config.model.vocab_size = 0;
    let control = TrainControl {
        interrupt: Arc::default(),
        heeded: Arc::default(),
        reporter: Box::new(show_validations),
        resume: None,
        config_text: config.to_toml(),
    };
    let report = train(config, device, control)?;
    let loss = report.eval.ok_or("nothing was validated")?.loss;
    let (what, steps) = ("learning", report.step);
    let detail = format!("{loss:.4} nats after {steps} steps");
    line(&json!({ "kind": "check", "what": what, "ok": loss.is_finite(), "detail": detail }));
    line(&json!({ "kind": "time", "what": what, "pass": "loss", "ms": loss }));
    Ok(())
}

/// Shows what is validated.
fn show_validations(event: Event<'_>) {
    match event {
        Event::Eval(metrics) => {
            println!("step {:<18} {:.4} nats", metrics.step, metrics.report.loss)
        }
        Event::Message(text) => println!("{text}"),
        Event::Step(_) | Event::Sample { .. } => {}
    }
}

/// What follows `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

/// A line for a program, where one reads.
fn line(found: &Value) {
    if std::env::args().any(|arg| arg == "--json") {
        println!("{found}");
    }
}

/// The device that `--device` names; Flex without it.
fn device() -> Outcome<Device> {
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
        Some(other) => {
            Err(format!("--device {other}: not in this build, add --features {other}").into())
        }
    }
}

fn configuration() -> Outcome<RunConfig> {
    let given = argument("--config").unwrap_or_else(|| "configs/shakespeare-char.toml".to_owned());
    // Cargo runs benches in the package's folder; paths are given from the workspace's.
    let mut config = RunConfig::load(&PathBuf::from("../..").join(given))?;
    if config.model.vocab_size == 0 {
        config.model.vocab_size = VOCABULARY;
    }
    if let Some(rows) = argument("--rows") {
        config.training.per_device_train_batch_size = rows.parse::<usize>()?.max(1);
    }
    Ok(config)
}

fn check_operator(model: &ModelConfig, t: usize, form: Form, device: &Device) {
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
    let (inputs, state) = probe.tensors([DType::F32; 2], device);
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
        borders: Default::default(),
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A model that learns in one precision.
struct Run {
    precision: Precision,
    trainee: Trainee,
    optimizer: Optimizer,
    /// Of the timed steps.
    times: Vec<StepTime>,
    /// Of all steps.
    losses: Vec<f64>,
}

impl Run {
    /// The format of its products that PyTorch has too.
    fn format(&self) -> &'static str {
        match self.precision.half() {
            Some(_) => "bf16",
            None => "f32",
        }
    }

    fn new(config: &RunConfig, form: Form, precision: Precision, device: &Device) -> Outcome<Self> {
        let model = config.model.init_seeded(1, &device.clone().autodiff());
        let model = model.with_form(form)?.with_precision(precision)?;
        let trainee = Trainee::new(model, config.training.loss_chunk);
        let (rules, rates) = (&config.optimizer, &config.lr_scheduler);
        Ok(Run {
            precision,
            optimizer: Optimizer::new(rules, rates, 1000, &trainee),
            trainee,
            times: Vec::new(),
            losses: Vec::new(),
        })
    }

    fn step(&mut self, host: &HostBatch, norm: f64, device: &Device) -> Outcome<()> {
        let start = Instant::now();
        let (output, grads) = self.trainee.learn(LmBatch::alone(host.clone()));
        let gradients = start.elapsed().as_secs_f64();
        let (grads, clip) = clip(&self.trainee, grads, 1.0, norm);
        let clipped = start.elapsed().as_secs_f64();
        let step = self.losses.len() as u64;
        let trainee = self.trainee.clone();
        self.trainee = (self.optimizer).step_scaled(trainee, grads, clip.factor, step);
        device.sync()?;
        self.times.push(StepTime {
            gradients,
            clipping: clipped - gradients,
            optimizer: start.elapsed().as_secs_f64() - clipped,
        });
        let loss = output.loss_sum / output.n_tokens as f64;
        self.losses.push(loss);
        Ok(())
    }

    /// The loss falls, and starts as that of the first precision does.
    fn check(&self, single: &[f64]) -> Outcome<()> {
        let (first, last) = (self.losses[0], self.losses[self.losses.len() - 1]);
        let pairs = self.losses.iter().zip(single).take(ALIKE_STEPS);
        let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let numbers = self.losses.iter().all(|loss| loss.is_finite());
        let ok = numbers && last < first && apart <= ALIKE;
        let detail = format!(
            "the loss goes from {first:.3} to {last:.3} in {} steps on one batch and is {apart:.1e} nats \
             from the first precision's in the first {ALIKE_STEPS} (limit {ALIKE})",
            self.losses.len()
        );
        println!("check: {}: {detail}", self.precision);
        let what = format!("training {}", self.precision);
        line(&json!({ "kind": "check", "what": what, "ok": ok, "detail": detail }));
        match ok {
            true => Ok(()),
            false => Err(format!("{what}: check failed: {detail}").into()),
        }
    }

    fn report(&self, config: &RunConfig, device: &Device, best: Option<&Best>) {
        let of = |part: fn(&StepTime) -> f64| 1e3 * median(self.times.iter().map(part));
        let ms = of(StepTime::total);
        let tokens = config.tokens_per_step() as f64;
        let window = config.data.max_seq_length;
        let flops = training_flops_per_token(&config.model, window) as f64 * tokens;
        let formats = Formats::new(self.precision, device);
        println!("precision              {}", formats.describe());
        println!(
            "step                   {ms:.1} ms, {tokens} tokens: gradients {:.1}, clipping {:.1}, optimizer {:.1}",
            of(|step| step.gradients),
            of(|step| step.clipping),
            of(|step| step.optimizer),
        );
        println!(
            "training               {:.0} tokens/s, {:.1} GFLOP/s",
            tokens / ms * 1e3,
            flops / ms / 1e6
        );
        line(&json!({
            "kind": "time",
            "what": format!("training {}", self.precision),
            "pass": "step",
            "tokens_per_step": tokens,
            "steps": self.losses.len(),
            "ms": ms,
        }));
        if let Some(bytes) = accelerator::memory_held(device) {
            println!("memory held            {:.2} GB", bytes as f64 / 1e9);
            let what = format!("training {}", self.precision);
            line(
                &json!({ "kind": "time", "what": what, "pass": "memory", "ms": bytes as f64 / 1e9 }),
            );
        }
        let Some(Best {
            whose,
            flops: peaks,
        }) = best
        else {
            return;
        };
        let around = peaks.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let turns = self.times.chunks_exact(STEPS).zip(around);
        let shares: Vec<f64> = turns
            .map(|(steps, peak)| 100.0 * flops / median(steps.iter().map(StepTime::total)) / peak)
            .collect();
        let each: Vec<String> = shares.iter().map(|share| format!("{share:.0}")).collect();
        println!(
            "best product           {:.1} GFLOP/s, {whose}",
            median(peaks.iter().copied()) / 1e9
        );
        println!(
            "of the best product    {:.1} %   (in turns {})",
            median(shares.into_iter()),
            each.join(" ")
        );
        if let Some(flops) = bf16_product_flops(device).filter(|_| self.format() == "bf16") {
            println!("best product in bf16   {:.1} GFLOP/s", flops / 1e9);
        }
    }
}
