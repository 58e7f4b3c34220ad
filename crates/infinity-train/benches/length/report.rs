//! Everything that was measured: as a table and as a JSON file, which `cargo xtask plot` draws.

use crate::flags::Flags;
use crate::generation::Memory;
use crate::machine::{Fields, Machine, date};
use crate::training::{LeftOut, Point};
use crate::{Outcome, decoding};
use infinity_model::config::Mixer;
use infinity_model::count::ParameterCount;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Time a token in the longest window over that in the shortest one.
const TRAINING_LIMIT: f64 = 1.15;
/// A decoding step at the last position over one at the first.
const DECODING_LIMIT: f64 = 1.05;

/// One run of the bench. Field names are those of the file.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bench: &'static str,
    date: String,
    #[serde(with = "Fields")]
    machine: Machine,
    model: Model,
    tokens_per_step: usize,
    rounds: usize,
    pub(crate) checks: Vec<String>,
    pub(crate) training: Vec<Point>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) decoding: Vec<decoding::Point>,
    pub(crate) generation: Option<Memory>,
    limits: Vec<Limit>,
}

#[derive(Debug, Serialize)]
struct Model {
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    infinity_parameters: u64,
    softmax_parameters: u64,
}

/// A claim and whether it holds.
#[derive(Debug, Serialize)]
struct Limit {
    what: String,
    value: f64,
    limit: f64,
    met: bool,
}

impl Report {
    pub(crate) fn new(flags: &Flags) -> Self {
        let parameters = |mixer| ParameterCount::of(&flags.model(mixer)).total();
        Report {
            bench: "length",
            date: date(),
            machine: Machine::this(),
            model: Model {
                num_hidden_layers: flags.layers,
                hidden_size: flags.hidden,
                num_attention_heads: flags.heads,
                vocab_size: flags.vocab,
                infinity_parameters: parameters(Mixer::Infinity),
                softmax_parameters: parameters(Mixer::Softmax),
            },
            tokens_per_step: flags.tokens,
            rounds: flags.rounds,
            checks: Vec::new(),
            training: Vec::new(),
            left_out: Vec::new(),
            decoding: Vec::new(),
            generation: None,
            limits: Vec::new(),
        }
    }

    /// Machine and model in two lines.
    pub(crate) fn heading(&self) -> String {
        let (machine, model) = (&self.machine, &self.model);
        format!(
            "{machine}; {}\n\
             {} layers, D {}, H {}, vocabulary {}; parameters: infinity {}, softmax {}",
            self.date,
            model.num_hidden_layers,
            model.hidden_size,
            model.num_attention_heads,
            model.vocab_size,
            model.infinity_parameters,
            model.softmax_parameters,
        )
    }

    /// Holds the measurements against the limits.
    pub(crate) fn judge(&mut self, flags: &Flags) {
        let ours: Vec<&Point> = self
            .training
            .iter()
            .filter(|p| p.mixer == Mixer::Infinity)
            .collect();
        if let [first, .., last] = ours[..] {
            let what = format!(
                "training, time a token: T = {} over T = {}",
                grouped(last.length),
                grouped(first.length)
            );
            let value = last.us_per_token / first.us_per_token;
            self.limits
                .push(Limit::at_most(what, value, TRAINING_LIMIT));
        }
        let ours: Vec<_> = self
            .decoding
            .iter()
            .filter(|p| p.mixer == Mixer::Infinity)
            .collect();
        if let [first, .., last] = ours[..] {
            let what = format!(
                "decoding, time a step: position {} over {}",
                grouped(last.position),
                grouped(first.position)
            );
            let value = last.us_per_token / first.us_per_token;
            self.limits
                .push(Limit::at_most(what, value, DECODING_LIMIT));
        }
        if let Some(memory) = &self.generation {
            let what = format!(
                "resident memory, MB: after {} tokens, at most that after {} and {:.1}",
                grouped(memory.tokens),
                grouped(flags.every),
                memory.slack_bytes as f64 / 1e6,
            );
            let (last, limit) = (memory.last(), memory.first() + memory.slack_bytes);
            self.limits
                .push(Limit::at_most(what, last as f64 / 1e6, limit as f64 / 1e6));
        }
    }

    /// Everything, in columns.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        self.write_table(&mut out)
            .expect("a string takes everything");
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        if !self.training.is_empty() {
            let tokens = grouped(self.tokens_per_step);
            writeln!(out, "\ntraining step of {tokens} tokens")?;
            writeln!(
                out,
                "  mixer     length  rows  µs a token  (fastest, slowest)  peak GB"
            )?;
        }
        for p in &self.training {
            writeln!(
                out,
                "  {:<8} {:>7}  {:>4}  {:>10.2}  ({:>7.2}, {:>7.2})  {:>7}",
                p.mixer,
                grouped(p.length),
                p.rows,
                p.us_per_token,
                p.us_per_token_min,
                p.us_per_token_max,
                gigabytes(p.peak_bytes),
            )?;
        }
        for LeftOut { mixer, length, why } in &self.left_out {
            writeln!(
                out,
                "  {mixer:<8} {:>7}  and longer left out: {why}",
                grouped(*length)
            )?;
        }
        if !self.decoding.is_empty() {
            writeln!(
                out,
                "\ndecoding step\n  mixer    position   µs a token  state KB"
            )?;
        }
        for p in &self.decoding {
            let (position, state_kb) = (grouped(p.position), p.state_bytes as f64 / 1e3);
            let (mixer, us) = (p.mixer, p.us_per_token);
            writeln!(
                out,
                "  {mixer:<8} {position:>8}  {us:>10.1}  {state_kb:>8.1}"
            )?;
        }
        if let Some(memory) = &self.generation {
            let mb = |bytes: u64| bytes as f64 / 1e6;
            let (tokens, per_s) = (
                grouped(memory.tokens),
                memory.tokens as f64 / memory.seconds,
            );
            writeln!(
                out,
                "\ngenerating {tokens} tokens, {per_s:.0} tokens/s: resident memory"
            )?;
            let (first, last, max) = (mb(memory.first()), mb(memory.last()), mb(memory.max()));
            writeln!(
                out,
                "  first {first:.1} MB, last {last:.1} MB, largest {max:.1} MB"
            )?;
        }
        writeln!(out, "\nlimits")?;
        for Limit {
            what,
            value,
            limit,
            met,
        } in &self.limits
        {
            let verdict = if *met { "ok" } else { "NOT MET" };
            writeln!(out, "  {what}: {value:.3}, limit {limit:.3}: {verdict}")?;
        }
        Ok(())
    }

    /// Writes the JSON file.
    pub(crate) fn save(&self, path: &Path) -> Outcome<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = format!("{:#}\n", serde_json::to_value(self)?);
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

impl Limit {
    fn at_most(what: String, value: f64, limit: f64) -> Self {
        Limit {
            what,
            value,
            limit,
            met: value <= limit,
        }
    }
}

/// Bytes as gigabytes with two decimals.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}

/// A number with commas between groups of three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
