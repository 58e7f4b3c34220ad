//! `infinity doctor`: what this build can do on this machine, tried out: a small product, a small scan and
//! a training step on each device, and what to do about what is missing.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor};
use infinity_model::{Context, ModelConfig};
use infinity_train::config::ConfigLayers;
use infinity_train::{Devices, estimate};
use serde_json::{Value, json};

use super::devices::formats;
use crate::args::{Global, JsonArgs, variables};
use crate::device::{self, Backend};
use crate::terminal::{self, errors, progress, signals};

/// Words in the name of a variable whose value is nobody else's business.
const SECRET: [&str; 4] = ["KEY", "TOKEN", "SECRET", "PASSWORD"];

struct Finding {
    /// What, and on which device.
    what: String,
    /// `ok`, `absent` where that was to be expected of this build, or `FAILED`.
    word: &'static str,
    /// What was found, or what is wrong.
    found: Result<String, String>,
    /// What to do about it.
    advice: Option<String>,
}

impl Finding {
    fn new(what: &str, found: Result<String, String>, advice: &str) -> Self {
        Self {
            what: what.to_owned(),
            word: if found.is_ok() { "ok" } else { "FAILED" },
            advice: found.is_err().then(|| advice.to_owned()),
            found,
        }
    }

    fn fact(what: &str, found: String) -> Self {
        Self::new(what, Ok(found), "")
    }
}

/// Looks and prints; fails if something does not work that this build has.
pub(crate) fn run(args: &JsonArgs, global: &Global) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let program = format!("infinity {version}, with {}", device::compiled());
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let mut findings = vec![
        Finding::fact("program", program),
        Finding::fact("system", format!("{os} on {arch}")),
        processor(),
        folder(),
    ];
    let ours =
        variables().filter(|(name, _)| name.starts_with("INFINITY_") || name == "BURN_DEVICE");
    let ours = ours
        .map(|(name, value)| {
            let secret = SECRET.iter().any(|word| name.contains(word));
            format!("{name}={}", if secret { "…" } else { &value })
        })
        .collect::<Vec<_>>();
    if !ours.is_empty() {
        findings.push(Finding::fact("environment", ours.join(", ")));
    }
    findings.extend(Backend::ALL.into_iter().flat_map(backend));
    let wanted = device::wanted(global);
    let opened = device::open(&wanted).map(|chosen| format!("is {}", chosen.describe()));
    findings.push(Finding::new(
        &format!("--device {wanted}"),
        opened.map_err(|error| errors::message(&error)),
        "`infinity devices` lists what can be used",
    ));
    let words = findings.iter().map(|finding| finding.word);
    let failed = words.filter(|word| *word == "FAILED").count();
    match args.json {
        true => terminal::line(as_json(&findings))?,
        false => print(&findings, failed)?,
    }
    match failed {
        0 => Ok(()),
        _ => errors::ended(errors::FAILED),
    }
}

fn processor() -> Finding {
    let threads = rayon::current_num_threads();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut finding = Finding::fact("processor", format!("{threads} threads, {}", vectors()));
    if threads > cores {
        finding.advice = Some(format!(
            "{threads} threads share {cores} cores; --threads {cores} is faster"
        ));
    }
    finding
}

/// The widest numbers that the processor computes with at once.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        match (std::is_x86_feature_detected!("avx512f"), avx2) {
            (true, _) => "AVX-512",
            (false, true) => "AVX2",
            (false, false) => "no AVX2: the kernels run, slowly",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    match cfg!(target_arch = "aarch64") {
        true => "NEON",
        false => "no vector instructions that the kernels know",
    }
}

/// Whether a run could write where the program stands.
fn folder() -> Finding {
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    let shown = here.display();
    let name = format!(".infinity-doctor-{}", std::process::id());
    let written = std::fs::write(&name, b"x").and_then(|()| std::fs::remove_file(&name));
    let found = written.map(|()| format!("{shown} can be written to"));
    Finding::new(
        "this folder",
        found.map_err(|error| format!("{shown} cannot be written to: {error}")),
        "runs are written below the folder you stand in; go to one of your own, or name one with \
         --output-dir",
    )
}

fn backend(backend: Backend) -> Vec<Finding> {
    let name = backend.name();
    if !backend.is_compiled() {
        let advice = format!("cargo install --path crates/infinity-cli --features {name}");
        let mut finding = Finding::new(name, Err("not compiled in".to_owned()), &advice);
        finding.word = "absent";
        return vec![finding];
    }
    let driver = match backend {
        Backend::Cuda => "is an NVIDIA driver installed, and does `nvidia-smi` list the GPU?",
        Backend::Rocm => "is ROCm installed, and does `rocminfo` list the GPU?",
        Backend::Metal => "Metal is there on macOS only",
        _ => "is a graphics driver installed? `vulkaninfo --summary` lists what Vulkan sees",
    };
    match backend.devices() {
        Err(why) => vec![Finding::new(name, Err(why), driver)],
        Ok(devices) => devices.iter().flat_map(tried).collect(),
    }
}

/// One piece of work on a device: says what is right about it, or what is wrong.
type Trial = fn(&Device) -> Result<String, String>;

fn tried((name, device): &(String, Device)) -> Vec<Finding> {
    let trials: [(&str, Trial); 3] = [
        ("product", product),
        ("scan", scan),
        ("training step", training_step),
    ];
    let mut findings = vec![Finding::fact(name, formats(device).join(" "))];
    for (what, trial) in trials {
        let began = Instant::now();
        let found = errors::caught(|| trial(device)).and_then(|found| found);
        let ms = 1e3 * began.elapsed().as_secs_f64();
        findings.push(Finding::new(
            &format!("{name}: {what}"),
            found.map(|found| format!("{found}, {ms:.0} ms with what is made ready once")),
            "this is a fault of the driver or of this program: please report it with the output of \
             `infinity doctor --json`, and use --device flex until then",
        ));
    }
    findings
}

/// Largest difference that is rounding.
const ROUNDING: f32 = 1e-3;

/// A product of matrices against the same sums one by one.
fn product(device: &Device) -> Result<String, String> {
    const N: usize = 48;
    let value = |i: usize| ((i * 7 + i / N * 3) % 11) as f32 / 8.0 - 0.6;
    let a: Vec<f32> = (0..N * N).map(value).collect();
    let b: Vec<f32> = (0..N * N).map(|i| value(i + 5)).collect();
    let matrix = |values: &[f32]| Tensor::<1>::from_floats(values, device).reshape([N, N]);
    let found = matrix(&a).matmul(matrix(&b)).into_data();
    let found: Vec<f32> = found.iter::<f32>().collect();
    let exact = |i: usize| -> f32 { (0..N).map(|k| a[i / N * N + k] * b[k * N + i % N]).sum() };
    let apart = (0..N * N).map(|i| (found[i] - exact(i)).abs());
    let worst = apart.fold(0.0, f32::max);
    // Written so that a NaN is wrong.
    match worst < ROUNDING {
        true => Ok("right".to_owned()),
        false => Err(format!("off by {worst}")),
    }
}

/// A model that reads a text as a whole and token by token: the scan in two forms.
fn scan(device: &Device) -> Result<String, String> {
    let config = ModelConfig {
        vocab_size: 32,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        ..ModelConfig::default()
    };
    let model = config.init_seeded(1, device);
    let tokens: Vec<u32> = (0..100).map(|i| i * 13 % 32).collect();
    let said = |error: infinity_model::GenerateError| error.to_string();
    let logits = |at_once: usize| {
        let mut context = Context::new(&model);
        let mut pieces = tokens.chunks(at_once);
        let read = pieces.try_for_each(|piece| context.read(&model, piece).map(drop));
        read.map(|()| context.logits).map_err(said)
    };
    let (whole, single) = (logits(tokens.len())?, logits(1)?);
    let apart = whole.iter().zip(&single).map(|(a, b)| (a - b).abs());
    let worst = apart.fold(0.0, f32::max);
    let some = whole.iter().any(|logit| *logit != 0.0);
    let finite = whole.iter().chain(&single).all(|logit| logit.is_finite());
    // The device has to be asked once more: what it owes may come late.
    let ids = Tensor::<1, Int>::from_ints([1, 2, 3], device);
    let three = ids.into_data().iter::<i64>().sum::<i64>();
    match worst < ROUNDING && some && finite && three == 6 {
        true => Ok("whole and token by token agree".to_owned()),
        false => Err(format!("whole and token by token are {worst} apart")),
    }
}

/// Three steps of a run that needs no text.
fn training_step(device: &Device) -> Result<String, String> {
    const RUN: &str = "
        [data]\nsource = 'parity'\nmax_seq_length = 48\n
        [model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 2\n
        [training]\nmax_steps = 3\nper_device_train_batch_size = 2\n
        [eval]\nsample_every = 0\nmax_batches = 1\n[logging]\nprogress = 'none'\n";
    let layers = ConfigLayers::new().text("doctor", RUN);
    let config = layers.and_then(ConfigLayers::resolve);
    let config = config.map_err(|error| error.to_string())?.config;
    let interrupt = signals::Interrupt::default();
    let control = interrupt.control(progress::silent(), RUN.to_owned());
    let devices = Devices::new(device.clone(), Vec::new());
    let made = estimate(config, devices, control).map_err(|error| error.to_string())?;
    Ok(format!("{:.1} ms a step", 1e3 * made.step_s))
}

fn as_json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let found = finding.found.as_ref();
        json!({
            "what": finding.what, "status": finding.word.to_lowercase(), "found": found.ok(),
            "problem": found.err(), "advice": finding.advice,
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH, "findings": findings.iter().map(one).collect::<Vec<_>>(),
    })
}

fn print(findings: &[Finding], failed: usize) -> anyhow::Result<()> {
    for finding in findings {
        let (Ok(text) | Err(text)) = &finding.found;
        let lines = text.replace('\n', "\n    ");
        terminal::line(format!("{:<7} {:<22} {lines}", finding.word, finding.what))?;
        if let Some(advice) = &finding.advice {
            terminal::line(format!("{:<30} → {advice}", ""))?;
        }
    }
    terminal::line(match failed {
        0 => "\nall that this build has works here".to_owned(),
        n => format!("\n{n} of {} things do not work", findings.len()),
    })
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "flex")]
    #[test]
    fn the_trials_succeed_on_a_device_that_works() {
        use super::*;
        let device = Device::flex();
        for trial in [product as Trial, scan, training_step] {
            trial(&device).unwrap();
        }
    }
}
