//! One case of the bench: what a process of its own measures.

use crate::Outcome;
use crate::flags::Flags;
use burn::tensor::Device;
use infinity_kernels::testing::Random;
use infinity_model::ModelConfig;
use infinity_train::RunConfig;
use infinity_train::data::HostBatch;
use infinity_train::metrics::{peak_resident_bytes, resident_bytes};
use infinity_train::optimizer::{Optimizer, clip};
use infinity_train::step::{LmBatch, Recompute, Trainee, default_segment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

/// The ways, by their names in `training.gradient_checkpointing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    None,
    Ops,
    Blocks,
    Segments,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [Way::None, Way::Ops, Way::Blocks, Way::Segments];

    fn name(self) -> &'static str {
        match self {
            Way::None => "none",
            Way::Ops => "ops",
            Way::Blocks => "blocks",
            Way::Segments => "segments",
        }
    }

    /// A fresh model that learns this way from windows of `length` tokens.
    pub(crate) fn trainee(self, model: &ModelConfig, length: usize) -> Trainee {
        let device = Device::flex().autodiff();
        let device = match self {
            Way::Ops => device.gradient_checkpointing(),
            _ => device,
        };
        let loss_chunk = RunConfig::default().training.loss_chunk;
        Trainee::new(model.init_seeded(1, &device), loss_chunk).recomputing(match self {
            Way::None | Way::Ops => Recompute::Nothing,
            Way::Blocks => Recompute::Blocks,
            Way::Segments => Recompute::Segments(default_segment(length)),
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a child process measures; `--case` on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Memory of a step.
    Memory(Way),
    /// Time of some steps.
    Time(Way),
    /// A step over one window of this length, in segments.
    Long(usize),
}

/// What one child process measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    /// Seconds of every timed step.
    pub(crate) step_s: Vec<f64>,
    /// Seconds of processor time of every timed step, all threads; 0 where the system does not tell.
    pub(crate) cpu_s: Vec<f64>,
    /// Resident memory of model and optimizer between steps; 0 where the system does not tell.
    pub(crate) resting_bytes: u64,
    /// The largest resident memory.
    pub(crate) peak_bytes: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Memory(way) => write!(f, "memory:{way}"),
            Case::Time(way) => write!(f, "time:{way}"),
            Case::Long(length) => write!(f, "long:{length}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let way = |name| Way::ALL.into_iter().find(|way| way.name() == name);
        let case = match text.split_once(':') {
            Some(("memory", name)) => way(name).map(Case::Memory),
            Some(("time", name)) => way(name).map(Case::Time),
            Some(("long", length)) => length.parse().ok().map(Case::Long),
            _ => None,
        };
        case.ok_or_else(|| format!("--case `{text}` is not a case of this bench"))
    }
}

impl Case {
    /// Runs the case with the flags of this process and reads the line it prints.
    ///
    /// # Errors
    ///
    /// If the child fails: most often because the system ended it for its memory.
    pub(crate) fn in_child(self) -> Outcome<Measured> {
        let mut child = Command::new(std::env::current_exe()?);
        child
            .args(std::env::args_os().skip(1))
            .args(["--case", &self.to_string()])
            .stderr(Stdio::inherit());
        if !matches!(self, Case::Time(_)) {
            child.env("MIMALLOC_PURGE_DELAY", "0");
        }
        let output = child.output()?;
        if !output.status.success() {
            return Err(format!("the case {self} ended with {}", output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Measures, in the child.
    pub(crate) fn measure(self, flags: &Flags) -> Outcome<Measured> {
        match self {
            Case::Memory(way) => steps(way, &flags.model(), [flags.rows, flags.length], 1),
            Case::Time(way) => steps(way, &flags.model(), [flags.rows, flags.length], flags.steps),
            Case::Long(length) => steps(Way::Segments, &flags.long_model(), [1, length], 1),
        }
    }
}

/// A step over a short window first, which makes the optimizer's state, then `count` timed ones:
/// forward, backward, clipping and AdamW as training does them.
fn steps(
    way: Way,
    model: &ModelConfig,
    [rows, length]: [usize; 2],
    count: usize,
) -> Outcome<Measured> {
    let config = RunConfig::default();
    let (rules, rates) = (&config.optimizer, &config.lr_scheduler);
    let mut trainee = way.trainee(model, length);
    let mut optimizer = Optimizer::new(rules, rates, 1000, &trainee);
    let mut number = 0;
    let mut step = |batch: HostBatch| -> Outcome<()> {
        let (output, grads) = trainee.learn(LmBatch::alone(batch));
        let (grads, clip) = clip(&trainee, grads, 1.0, 1.0);
        trainee = optimizer.step_scaled(trainee.clone(), grads, clip.factor, number);
        number += 1;
        let (loss, norm) = (output.loss_sum, clip.norm);
        match loss.is_finite() && norm.is_finite() {
            true => Ok(()),
            false => Err(format!("loss {loss}, gradient norm {norm}").into()),
        }
    };
    step(batch(model.vocab_size, 1, 64))?;
    let host = batch(model.vocab_size, rows, length);
    let resting_bytes = resident_bytes();
    let (mut step_s, mut cpu_s) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (start, cpu) = (Instant::now(), processor_seconds());
        step(host.clone())?;
        step_s.push(start.elapsed().as_secs_f64());
        cpu_s.push(processor_seconds() - cpu);
    }
    Ok(Measured {
        step_s,
        cpu_s,
        resting_bytes,
        peak_bytes: peak_resident_bytes(),
    })
}

/// Processor time of this process so far: user and system, which Linux counts in hundredths.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before it may hold anything; the fields after it are numbers.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// Rows of random tokens, each to be predicted from those before it.
pub(crate) fn batch(vocab_size: usize, rows: usize, length: usize) -> HostBatch {
    let mut random = Random(7);
    let mut ids = || -> Vec<i32> {
        (0..rows * length)
            .map(|_| random.uniform(0.0, vocab_size as f64) as i32)
            .collect()
    };
    HostBatch {
        inputs: ids(),
        targets: ids(),
        rows,
        len: length,
        carry: vec![None; rows],
        valid: rows * length,
        borders: Default::default(),
    }
}
