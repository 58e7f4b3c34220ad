//! Progress of a training run as lines, for people or for programs. A terminal and a log file get the
//! same lines.

use std::time::{Duration, Instant};

use infinity_train::config::Progress;
use infinity_train::metrics::{EvalMetrics, Event, Reporter, StepMetrics};
use serde_json::{Value, json};

use super::{bytes, clock, grouped, remark, signals};

/// A reporter for `logging.progress`, writing to standard output; nothing when `quiet`. Beside the
/// dashboard, which has the screen to itself, lines wait until it is gone.
pub(crate) fn to_stdout(progress: Progress, quiet: bool) -> Box<dyn Reporter + Send> {
    // A reader that went away must not end a run that still writes its own files.
    let write = |line: &str| drop(super::line(line));
    match progress {
        _ if quiet => silent(),
        Progress::None => silent(),
        Progress::Json => Box::new(move |event: Event<'_>| write(&object(event).to_string())),
        Progress::Tui => Box::new(Late::new(write)),
        Progress::Auto | Progress::Plain => Box::new(move |event: Event<'_>| write(&plain(event))),
    }
}

pub(crate) fn silent() -> Box<dyn Reporter + Send> {
    Box::new(|_: Event<'_>| {})
}

/// Plain lines, said when the dashboard has left the screen: everything but the steps that it
/// showed, of which the last one is said.
struct Late<F: FnMut(&str)> {
    write: F,
    lines: Vec<String>,
    last_step: Option<String>,
}

impl<F: FnMut(&str)> Late<F> {
    fn new(write: F) -> Self {
        Late {
            write,
            lines: Vec::new(),
            last_step: None,
        }
    }
}

impl<F: FnMut(&str)> Reporter for Late<F> {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Step(_) => {
                signals::keep_signals();
                self.last_step = Some(plain(event));
            }
            _ => self.lines.push(plain(event)),
        }
    }
}

impl<F: FnMut(&str)> Drop for Late<F> {
    fn drop(&mut self) {
        let lines = self.lines.iter().chain(&self.last_step);
        lines.for_each(|line| (self.write)(line));
    }
}

fn plain(event: Event<'_>) -> String {
    match event {
        Event::Step(metrics) => step_line(metrics),
        Event::Eval(metrics) => eval_line(metrics),
        Event::Sample { prompt, text } => {
            let indented = format!("{prompt}{text}").trim_end().replace('\n', "\n  | ");
            format!("sample\n  | {indented}")
        }
        Event::Message(text) => text.to_owned(),
    }
}

fn object(event: Event<'_>) -> Value {
    let (mut head, rest) = match event {
        Event::Step(m) => (
            json!({ "event": "step", "total_steps": m.total_steps, "eta_s": m.eta_s }),
            m.to_json(),
        ),
        Event::Eval(m) => (json!({ "event": "eval" }), m.to_json()),
        Event::Sample { prompt, text } => {
            return json!({ "event": "sample", "prompt": prompt, "text": text });
        }
        Event::Message(text) => return json!({ "event": "message", "text": text }),
    };
    if let (Value::Object(head), Value::Object(rest)) = (&mut head, rest) {
        head.extend(rest);
    }
    head
}

/// `step 00500/20000 (2.5%) | loss 3.2145 | ppl 24.9 | lr 2.98e-4 | gnorm 0.83 | 41,203 tok/s |
/// mem 3.1 GiB | 00:03:12<02:04:55`.
fn step_line(m: &StepMetrics) -> String {
    let (step, total) = (m.step, m.total_steps);
    let width = total.to_string().len().max(5);
    let percent = 100.0 * step as f64 / total.max(1) as f64;
    let loss = m.loss.map_or("nothing to predict".to_owned(), |loss| {
        format!("loss {loss:.4} | ppl {}", perplexity(loss.exp()))
    });
    let (rate, norm) = (m.learning_rate, m.grad_norm);
    let speed = grouped(m.tokens_per_s.max(0.0).round() as u64);
    let mut line = format!(
        "step {step:0width$}/{total} ({percent:.1}%) | {loss} | lr {rate:.2e} | gnorm {norm:.2} | {speed} tok/s"
    );
    if m.memory_bytes > 0 {
        line += &format!(" | mem {}", bytes(m.memory_bytes));
    }
    if m.skipped > 0 {
        line += &format!(" | skipped {}", m.skipped);
    }
    line + &format!(" | {}<{}", clock(m.elapsed_s), clock(m.eta_s))
}

/// `eval @500 | val_loss 3.1021 | ppl 22.2 | bpb 1.41 | 4.1s | best`.
fn eval_line(m: &EvalMetrics) -> String {
    let best = if m.best { " | best" } else { "" };
    let EvalMetrics { step, report, .. } = m;
    let (loss, ppl) = (report.loss, perplexity(report.perplexity));
    let (bpb, seconds) = (report.bits_per_byte, report.seconds);
    format!("eval @{step} | val_loss {loss:.4} | ppl {ppl} | bpb {bpb:.3} | {seconds:.1}s{best}")
}

/// Two digits after the point while they mean something, none for the thousands of a first step.
pub(crate) fn perplexity(value: f64) -> String {
    match value {
        0.0..100.0 => format!("{value:.2}"),
        100.0..1e6 => format!("{value:.0}"),
        _ => format!("{value:.2e}"),
    }
}

/// Says now and then how many tokens have been read, of how many.
pub(crate) fn reading() -> impl FnMut(u64, u64) {
    let mut told = Instant::now();
    move |done, total| {
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let [done, total] = [done, total].map(grouped);
            remark(&format!("read {done} of {total} tokens"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_train::EvalReport;

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
            report: EvalReport {
                loss: 3.1021,
                perplexity: 22.244,
                bits_per_byte: 1.41,
                tokens: 0,
                bytes: 0,
                seconds: 4.1,
            },
            best: true,
            gates: Vec::new(),
        }
    }

    /// What a run says, one event of each kind.
    fn told(mut hear: impl FnMut(Event<'_>)) {
        hear(Event::Step(&step()));
        hear(Event::Eval(&eval()));
        let (prompt, text) = ("Once", " upon\na time");
        hear(Event::Sample { prompt, text });
        hear(Event::Message("a word"));
    }

    #[test]
    fn plain_lines() {
        let mut lines = Vec::new();
        told(|event| lines.push(plain(event)));
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
        let mut lines = Vec::new();
        let mut late = Late::new(|line: &str| lines.push(line.to_owned()));
        told(|event| late.hear(event));
        drop(late);
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
        let mut values = Vec::new();
        told(|event| values.push(object(event)));
        assert_eq!(values[0]["train/loss"], 3.2145);
        assert_eq!(values[1]["eval/bpb"], 1.41);
        assert_eq!(values[2]["text"], " upon\na time");
        assert_eq!(values.len(), 4);
    }
}
