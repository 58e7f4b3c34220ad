//! What a run says about itself: to a [`Reporter`], to `metrics.jsonl`, and to TensorBoard.

pub(crate) mod tensorboard;

use crate::evaluate::EvalReport;
use infinity_model::GateSummary;
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
    /// What it found.
    pub report: EvalReport,
    /// Whether it is the best so far.
    pub best: bool,
    /// What the gates of every layer do with the first validation batch.
    pub gates: Vec<GateSummary>,
}

/// Something that a run says of itself.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A logged step.
    Step(&'a StepMetrics),
    /// A validation.
    Eval(&'a EvalMetrics),
    /// What the model made of a prompt.
    Sample {
        /// The prompt.
        prompt: &'a str,
        /// The text after it.
        text: &'a str,
    },
    /// Anything else a person should know.
    Message(&'a str),
}

/// Hears what a run does. A closure that takes events is one.
pub trait Reporter {
    /// Something happened.
    fn hear(&mut self, event: Event<'_>);

    /// [`Event::Message`].
    fn message(&mut self, text: &str) {
        self.hear(Event::Message(text));
    }
}

impl<F: FnMut(Event<'_>)> Reporter for F {
    fn hear(&mut self, event: Event<'_>) {
        self(event);
    }
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
            "eval/loss": self.report.loss,
            "eval/ppl": self.report.perplexity,
            "eval/bpb": self.report.bits_per_byte,
            "eval/seconds": self.report.seconds,
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
    let (mut all, GateSummary { half_life, .. }) = (Vec::new(), gates);
    let half_life = half_life.iter().map(|of| ("half_life", of));
    for (name, of) in half_life.chain([("write", &gates.write_strength)]) {
        let parts = [
            ("p10", of.p10),
            ("p50", of.p50),
            ("p90", of.p90),
            ("mean", of.mean),
        ];
        all.extend(parts.map(|(part, value)| (format!("{name}_{part}"), value)));
    }
    for (name, of) in [
        ("write_share", &gates.write_share),
        ("read_weight", &gates.read_weight),
    ] {
        let states = of.iter().enumerate();
        all.extend(states.map(|(state, value)| (format!("{name}_{state}"), *value)));
    }
    all
}

/// Resident memory of this process in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    memory_stats::memory_stats().map_or(0, |memory| memory.physical_mem as u64)
}

/// Largest resident memory of this process so far, in bytes; 0 where `/proc` does not tell.
pub fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Lets [`peak_resident_bytes`] begin anew, where the system can.
pub(crate) fn forget_peak() {
    // What 5 means to Linux; elsewhere there is no such file, and the peak stays.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
