//! `infinity bench MODEL`: how fast a model reads and writes, and what it remembers in, at any depth of a
//! text.

use std::time::Instant;

use clap::{Args, ValueEnum};
use infinity_model::{Context, InfinityModel, Precision};
use infinity_train::metrics::resident_bytes;
use serde_json::{Value, json};

use crate::args::{Global, count, length, whole};
use crate::model_dir::{self, ModelArgs};
use crate::terminal::{self, signals};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    of: ModelArgs,
    /// Lengths of prompts to read: 512, 4k
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    #[arg(default_value = "512,4096", value_parser = length)]
    prompt_len: Vec<usize>,
    /// Tokens to write one after the other; 0: none
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count)]
    gen_len: usize,
    /// Tokens that were read before: 4, 64k, 1M
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    #[arg(default_value = "4,65536", value_parser = length)]
    depth: Vec<usize>,
    /// Measurements of each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<u64>(1..=1_000_000))]
    iterations: u64,
    /// Measurements before these that do not count
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>(0..=1_000_000))]
    warmup: u64,
    /// How to print
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for a terminal
    Table,
    /// A table for a page
    Markdown,
    /// One object
    Json,
}

/// Times of one kind of work at one depth.
struct Figure {
    test: &'static str,
    tokens: usize,
    depth: usize,
    /// Seconds of each measurement.
    seconds: Vec<f64>,
    state_bytes: usize,
    resident_bytes: u64,
}

impl Figure {
    /// Mean of the tokens a second, and their standard deviation.
    fn rate(&self) -> (f64, f64) {
        let n = self.seconds.len() as f64;
        let rates = self.seconds.iter().map(|s| self.tokens as f64 / s);
        let mean = rates.clone().sum::<f64>() / n;
        let squares: f64 = rates.map(|rate| (rate - mean).powi(2)).sum();
        (mean, (squares / (n - 1.0).max(1.0)).sqrt())
    }

    fn ms_per_token(&self) -> f64 {
        1e3 * self.seconds.iter().sum::<f64>() / (self.seconds.len() * self.tokens) as f64
    }

    fn cells(&self) -> [String; 7] {
        let (mean, deviation) = self.rate();
        [
            self.test.to_owned(),
            terminal::grouped(self.tokens as u64),
            terminal::grouped(self.depth as u64),
            format!("{mean:.1} ± {deviation:.1}"),
            format!("{:.3}", self.ms_per_token()),
            terminal::bytes(self.state_bytes as u64),
            match self.resident_bytes {
                0 => "?".to_owned(),
                bytes => terminal::bytes(bytes),
            },
        ]
    }

    fn to_json(&self) -> Value {
        let (mean, deviation) = self.rate();
        json!({
            "test": self.test, "tokens": self.tokens, "depth": self.depth,
            "tokens_per_s": mean, "standard_deviation": deviation,
            "ms_per_token": self.ms_per_token(), "seconds": self.seconds,
            "state_bytes": self.state_bytes, "resident_bytes": self.resident_bytes,
        })
    }
}

const COLUMNS: [&str; 7] = [
    "test", "tokens", "depth", "tokens/s", "ms/token", "state", "resident",
];

pub(crate) fn run(args: &BenchArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    signals::ends()?;
    let (chosen, loaded) = model_dir::load(&found, args.precision, global)?;
    let model = loaded.model;
    let mut depths = args.depth.clone();
    depths.sort_unstable();
    depths.dedup();
    let mut context = Context::new(&model);
    let mut figures = Vec::new();
    for depth in depths {
        let reading = terminal::grouped(depth as u64);
        terminal::remark(&format!("reading to depth {reading} …"));
        let read = context.position() as usize;
        context.read(&model, &text(&model, read, depth - read))?;
        context.past.recent.clear();
        // Prompts are read at once, and an answer token by token.
        let prompts = args.prompt_len.iter().map(|&n| ("prefill", n, n));
        let answer = (args.gen_len > 0).then_some(("decode", args.gen_len, 1));
        for (test, n, at_once) in prompts.chain(answer) {
            let tokens = text(&model, depth, n);
            let (mut seconds, mut state_bytes) = (Vec::new(), 0);
            for i in 0..args.warmup + args.iterations {
                let mut context = context.clone();
                let began = Instant::now();
                for piece in tokens.chunks(at_once) {
                    context.read(&model, piece)?;
                }
                if i >= args.warmup {
                    seconds.push(began.elapsed().as_secs_f64());
                }
                state_bytes = context.state.bytes();
            }
            figures.push(Figure {
                test,
                tokens: n,
                depth,
                seconds,
                state_bytes,
                resident_bytes: resident_bytes(),
            });
        }
    }
    print(args.format, &figures, &chosen.describe(), &model)
}

/// Tokens `from` on of a text without end. Which they are does not change the time.
fn text(model: &InfinityModel, from: usize, n: usize) -> Vec<u32> {
    let vocab_size = model.config().vocab_size as u64;
    let mixed = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let tokens = (from..from + n).map(|i| (mixed(i) % vocab_size) as u32);
    tokens.collect()
}

fn print(
    format: Format,
    figures: &[Figure],
    device: &str,
    model: &InfinityModel,
) -> anyhow::Result<()> {
    if format == Format::Json {
        let all = json!({
            "device": device, "precision": model.formats().describe(),
            "figures": figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
        });
        return terminal::line(all);
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(figures.iter().map(Figure::cells));
    let widths: [usize; 7] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let (left, between, right) = match format {
        Format::Markdown => ("| ", " | ", " |"),
        _ => ("", "  ", ""),
    };
    let line = |row: &[String; 7]| {
        let [test, numbers @ ..] = row;
        let mut line = format!("{left}{test:<width$}", width = widths[0]);
        for (cell, width) in numbers.iter().zip(&widths[1..]) {
            line += &format!("{between}{cell:>width$}");
        }
        line + right
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if format == Format::Markdown {
        lines.insert(1, format!("| --- |{}", " ---: |".repeat(COLUMNS.len() - 1)));
        lines.push(format!("\nOn {device}."));
    } else {
        lines.push(format!("on {device}"));
    }
    terminal::line(lines.join("\n"))
}
