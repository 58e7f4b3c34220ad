//! Progress of a training run as lines: for people ([`PlainReporter`]) and for programs
//! ([`JsonReporter`]). A terminal and a log file get the same lines.

use std::sync::mpsc::channel;

use infinity_train::config::Progress;
use infinity_train::metrics::{EvalMetrics, Reporter, StepMetrics};
use serde_json::{Value, json};

use super::{bytes, clock, grouped, signals};

/// Takes a finished line. Writing is the caller's, so that a test can look at the lines.
type Sink = Box<dyn FnMut(&str) + Send>;

/// A reporter for `logging.progress`, writing to standard output; nothing when `quiet`. Beside the
/// dashboard, which has the screen to itself, lines wait until it is gone.
pub(crate) fn to_stdout(progress: Progress, quiet: bool) -> Box<dyn Reporter + Send> {
    // A reader that went away must not end a run that still writes its own files.
    let sink: Sink = Box::new(|line| drop(super::line(line)));
    match progress {
        _ if quiet => Box::new(SilentReporter),
        Progress::None => Box::new(SilentReporter),
        Progress::Json => Box::new(JsonReporter { sink }),
        Progress::Tui => Box::new(LateReporter::new(sink)),
        Progress::Auto | Progress::Plain => Box::new(PlainReporter { sink }),
    }
}

/// A reporter that says nothing.
pub(crate) fn silent() -> Box<dyn Reporter + Send> {
    Box::new(SilentReporter)
}

/// Plain lines, said when the dashboard has left the screen: everything but the steps that it
/// showed, of which the last one is said.
struct LateReporter {
    sink: Sink,
    lines: Vec<String>,
    last_step: Option<String>,
}

impl LateReporter {
    fn new(sink: Sink) -> Self {
        LateReporter {
            sink,
            lines: Vec::new(),
            last_step: None,
        }
    }

    /// Keeps what `say` says.
    fn keep(&mut self, say: impl FnOnce(&mut PlainReporter)) {
        let (sender, lines) = channel();
        let sink: Sink = Box::new(move |line| drop(sender.send(line.to_owned())));
        say(&mut PlainReporter { sink });
        self.lines.extend(lines.try_iter());
    }
}

impl Reporter for LateReporter {
    fn step(&mut self, m: &StepMetrics) {
        signals::keep_signals();
        self.last_step = Some(step_line(m));
    }

    fn eval(&mut self, m: &EvalMetrics) {
        self.keep(|plain| plain.eval(m));
    }

    fn sample(&mut self, prompt: &str, text: &str) {
        self.keep(|plain| plain.sample(prompt, text));
    }

    fn message(&mut self, text: &str) {
        self.keep(|plain| plain.message(text));
    }
}

impl Drop for LateReporter {
    fn drop(&mut self) {
        let lines = self.lines.drain(..).chain(self.last_step.take());
        lines.for_each(|line| (self.sink)(&line));
    }
}

/// One line of text per event.
pub(crate) struct PlainReporter {
    sink: Sink,
}

impl Reporter for PlainReporter {
    fn step(&mut self, m: &StepMetrics) {
        (self.sink)(&step_line(m));
    }

    fn eval(&mut self, m: &EvalMetrics) {
        (self.sink)(&eval_line(m));
    }

    fn sample(&mut self, prompt: &str, text: &str) {
        let indented = format!("{prompt}{text}").trim_end().replace('\n', "\n  | ");
        (self.sink)(&format!("sample\n  | {indented}"));
    }

    fn message(&mut self, text: &str) {
        (self.sink)(text);
    }
}

/// One JSON object per event.
pub(crate) struct JsonReporter {
    sink: Sink,
}

impl Reporter for JsonReporter {
    fn step(&mut self, m: &StepMetrics) {
        let head = json!({ "event": "step", "total_steps": m.total_steps, "eta_s": m.eta_s });
        self.send(&joined(head, m.to_json()));
    }

    fn eval(&mut self, m: &EvalMetrics) {
        self.send(&joined(json!({ "event": "eval" }), m.to_json()));
    }

    fn sample(&mut self, prompt: &str, text: &str) {
        self.send(&json!({ "event": "sample", "prompt": prompt, "text": text }));
    }

    fn message(&mut self, text: &str) {
        self.send(&json!({ "event": "message", "text": text }));
    }
}

impl JsonReporter {
    fn send(&mut self, event: &Value) {
        (self.sink)(&event.to_string());
    }
}

/// The keys of both objects.
fn joined(mut head: Value, rest: Value) -> Value {
    if let (Value::Object(head), Value::Object(rest)) = (&mut head, rest) {
        head.extend(rest);
    }
    head
}

/// Says nothing.
struct SilentReporter;

impl Reporter for SilentReporter {
    fn step(&mut self, _: &StepMetrics) {}
    fn eval(&mut self, _: &EvalMetrics) {}
    fn sample(&mut self, _: &str, _: &str) {}
    fn message(&mut self, _: &str) {}
}

/// `step 00500/20000 (2.5%) | loss 3.2145 | ppl 24.9 | lr 2.98e-4 | gnorm 0.83 | 41,203 tok/s |
/// mem 3.1 GiB | 00:03:12<02:04:55`.
fn step_line(m: &StepMetrics) -> String {
    let width = m.total_steps.to_string().len().max(5);
    let percent = 100.0 * m.step as f64 / m.total_steps.max(1) as f64;
    let loss = m.loss.map_or("nothing to predict".to_owned(), |loss| {
        format!("loss {loss:.4} | ppl {}", perplexity(loss.exp()))
    });
    let mut line = format!(
        "step {:0width$}/{} ({percent:.1}%) | {loss} | lr {:.2e} | gnorm {:.2} | {} tok/s",
        m.step,
        m.total_steps,
        m.learning_rate,
        m.grad_norm,
        grouped(m.tokens_per_s.max(0.0).round() as u64),
    );
    if m.memory_bytes > 0 {
        line.push_str(&format!(" | mem {}", bytes(m.memory_bytes)));
    }
    if m.skipped > 0 {
        line.push_str(&format!(" | skipped {}", m.skipped));
    }
    line.push_str(&format!(" | {}<{}", clock(m.elapsed_s), clock(m.eta_s)));
    line
}

/// `eval @500 | val_loss 3.1021 | ppl 22.2 | bpb 1.41 | 4.1s | best`.
fn eval_line(m: &EvalMetrics) -> String {
    let best = if m.best { " | best" } else { "" };
    format!(
        "eval @{} | val_loss {:.4} | ppl {} | bpb {:.3} | {:.1}s{best}",
        m.step,
        m.loss,
        perplexity(m.perplexity),
        m.bits_per_byte,
        m.seconds,
    )
}

/// Two digits after the point while they mean something, none for the thousands of a first step.
pub(crate) fn perplexity(value: f64) -> String {
    match value {
        0.0..100.0 => format!("{value:.2}"),
        100.0..1e6 => format!("{value:.0}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn step() -> StepMetrics {
        StepMetrics {
            step: 500,
            total_steps: 20_000,
            loss: Some(3.2145),
            learning_rate: 2.98e-4,
            grad_norm: 0.83,
            tokens: 4_096_000,
            tokens_per_s: 41_203.4,
            step_ms: 198.8,
            memory_bytes: 3_328_599_654,
            elapsed_s: 192.0,
            eta_s: 7_495.0,
            skipped: 0,
            loss_scale: None,
        }
    }

    fn eval() -> EvalMetrics {
        EvalMetrics {
            step: 500,
            loss: 3.1021,
            perplexity: 22.244,
            bits_per_byte: 1.41,
            seconds: 4.1,
            best: true,
            gates: Vec::new(),
        }
    }

    /// The lines a reporter writes for one event of each kind.
    fn lines(make: impl FnOnce(Sink) -> Box<dyn Reporter>) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let mut reporter = make(Box::new(move |line| {
            into.lock().unwrap().push(line.to_owned())
        }));
        reporter.step(&step());
        reporter.eval(&eval());
        reporter.sample("Once", " upon\na time");
        reporter.message("a word");
        drop(reporter);
        lines.lock().unwrap().clone()
    }

    #[test]
    fn plain_lines() {
        let lines = lines(|sink| Box::new(PlainReporter { sink }));
        assert_eq!(
            lines,
            [
                "step 00500/20000 (2.5%) | loss 3.2145 | ppl 24.89 | lr 2.98e-4 | gnorm 0.83 | \
                 41,203 tok/s | mem 3.1 GiB | 00:03:12<02:04:55",
                "eval @500 | val_loss 3.1021 | ppl 22.24 | bpb 1.410 | 4.1s | best",
                "sample\n  | Once upon\n  | a time",
                "a word",
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_not_shown() {
        let metrics = StepMetrics {
            memory_bytes: 0,
            skipped: 2,
            ..step()
        };
        let line = step_line(&metrics);
        assert!(
            !line.contains("mem") && line.contains("| skipped 2 |"),
            "{line}"
        );
        assert_eq!(perplexity(257.4), "257");
        assert_eq!(perplexity(f64::INFINITY), "inf");
    }

    #[test]
    fn beside_a_dashboard_lines_wait_for_its_end() {
        let lines = lines(|sink| Box::new(LateReporter::new(sink)));
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("eval @500"), "{lines:?}");
        assert_eq!(lines[2], "a word");
        assert!(
            lines[3].starts_with("step 00500/20000"),
            "the last step: {lines:?}"
        );
    }

    #[test]
    fn json_lines() {
        let lines = lines(|sink| Box::new(JsonReporter { sink }));
        let values: Vec<Value> = lines
            .iter()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(values[0]["train/loss"], 3.2145);
        assert_eq!(values[1]["eval/bpb"], 1.41);
        assert_eq!(values[2]["text"], " upon\na time");
        assert_eq!(values.len(), 4);
    }
}
