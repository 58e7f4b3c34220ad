//! What a run says about itself: to a [`Reporter`], to `metrics.jsonl`, and to TensorBoard.

pub(crate) mod tensorboard;

use infinity_model::{GateSummary, Quantiles};
use serde_json::{Value, json};

/// One logged optimizer step. Rates are means over the steps since the last logged one.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// Step, counted from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Training loss in nats a token, of this step; none where nothing in it was to be predicted.
    pub loss: Option<f64>,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Training tokens so far.
    pub tokens: u64,
    /// Training tokens a second.
    pub tokens_per_s: f64,
    /// Milliseconds a step.
    pub step_ms: f64,
    /// Resident memory of the process in bytes; 0 where the system does not tell.
    pub memory_bytes: u64,
    /// Seconds of training so far, earlier sessions of a resumed run included.
    pub elapsed_s: f64,
    /// Seconds left at the present rate.
    pub eta_s: f64,
    /// Steps left out so far because something was not finite.
    pub skipped: u64,
    /// Scale of the loss in f16.
    pub loss_scale: Option<f64>,
}

/// One validation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalMetrics {
    /// Steps trained before it.
    pub step: u64,
    /// Mean loss in nats a token.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Loss in bits for each byte of text.
    pub bits_per_byte: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// What the gates of every layer do with the first validation batch.
    pub gates: Vec<GateSummary>,
}

/// Hears what a run does.
pub trait Reporter {
    /// A logged step.
    fn step(&mut self, metrics: &StepMetrics);
    /// A validation.
    fn eval(&mut self, metrics: &EvalMetrics);
    /// A sample: what the model made of a prompt.
    fn sample(&mut self, prompt: &str, text: &str);
    /// Anything else a person should know.
    fn message(&mut self, text: &str);
}

impl StepMetrics {
    /// A line of `metrics.jsonl`.
    pub fn to_json(&self) -> Value {
        let mut line = json!({
            "step": self.step,
            "tokens": self.tokens,
            "time_s": self.elapsed_s,
            "train/lr": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/tok_per_sec": self.tokens_per_s,
            "train/step_ms": self.step_ms,
            "train/skipped_steps": self.skipped,
            "mem/bytes": self.memory_bytes,
        });
        let some = [("loss", self.loss), ("loss_scale", self.loss_scale)];
        for (name, value) in some {
            if let Some(value) = value {
                line[format!("train/{name}")] = json!(value);
            }
        }
        line
    }
}

impl EvalMetrics {
    /// A line of `metrics.jsonl`.
    pub fn to_json(&self) -> Value {
        let mut line = json!({
            "step": self.step,
            "eval/loss": self.loss,
            "eval/ppl": self.perplexity,
            "eval/bpb": self.bits_per_byte,
            "eval/seconds": self.seconds,
            "eval/best": self.best,
        });
        for (layer, gates) in self.gates.iter().enumerate() {
            for (name, value) in numbers(gates) {
                line[format!("gates/{layer}/{name}")] = json!(value);
            }
        }
        line
    }
}

/// The numbers of a layer's gates by the names they are logged under.
fn numbers(gates: &GateSummary) -> Vec<(String, f64)> {
    let spread = |name: &str, of: Option<Quantiles>| {
        let parts = of.map(|q| {
            [
                ("p10", q.p10),
                ("p50", q.p50),
                ("p90", q.p90),
                ("mean", q.mean),
            ]
        });
        let parts = parts.into_iter().flatten();
        parts
            .map(|(part, value)| (format!("{name}_{part}"), value))
            .collect::<Vec<_>>()
    };
    let states = |name: &str, of: &[f64]| {
        let values = of.iter().enumerate();
        values
            .map(|(state, value)| (format!("{name}_{state}"), *value))
            .collect::<Vec<_>>()
    };
    [
        spread("half_life", gates.half_life),
        spread("write", Some(gates.write_strength)),
        states("write_share", &gates.write_share),
        states("read_weight", &gates.read_weight),
    ]
    .concat()
}

/// Resident memory of this process in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    memory_stats::memory_stats().map_or(0, |memory| memory.physical_mem as u64)
}

/// Largest resident memory of this process so far, in bytes; 0 where `/proc` does not tell.
pub fn peak_resident_bytes() -> u64 {
    proc_status("VmHWM:")
}

/// Lets [`peak_resident_bytes`] begin anew, where the system can.
pub(crate) fn forget_peak() {
    // What 5 means to Linux; elsewhere there is no such file, and the peak stays.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn proc_status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
