//! `infinity eval MODEL --task NAME`: what a memory holds, by distance, length or position.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use infinity_model::{InfinityModel, Tokenizer, count::ParameterCount};
use infinity_plot::{Curve, curves};
use infinity_train::config::RunConfig;
use infinity_train::data::{DataSource, TokenStore};
use infinity_train::evaluate::tasks::{
    Figure, Needle, QUESTION, TaskOptions, evaluate_needle, evaluate_positions, evaluate_rows,
};
use serde_json::json;

use super::plot;
use crate::args::{count, length, whole};
use crate::model_dir;
use crate::terminal::{self, refuse};

/// What is measured, and where.
pub(super) struct Run<'a> {
    /// Whether figures are printed as JSON.
    pub(super) json: bool,
    pub(super) model: &'a InfinityModel,
    pub(super) tokenizer: Option<&'a Tokenizer>,
    pub(super) config: &'a RunConfig,
    pub(super) device: &'a str,
}

/// Which task, at which lengths.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tasks")]
pub(crate) struct TaskArgs {
    /// Measure what the memory holds: recall, sticky, parity and copy with a model that learned them; a
    /// needle in a text, or the loss by position, with any
    #[arg(long, value_name = "NAME")]
    #[arg(conflicts_with_all = ["stream", "stateful", "max_eval_batches"])]
    pub(crate) task: Option<Named>,
    /// Tokens of a row or a text, each measured on its own: 1k,4k,1M (k = 1,024, M = 1,048,576) [default: the
    /// training window]
    #[arg(long, value_name = "N,…", value_delimiter = ',', requires = "task")]
    #[arg(value_parser = length)]
    context_lengths: Vec<usize>,
    /// Independent samples of every length [default: 3; of a needle 20]
    #[arg(long, value_name = "N", requires = "task", value_parser = whole::<u64>(1..=1_000_000))]
    seeds: Option<u64>,
    /// Rows of every sample (recall, sticky, parity, copy)
    #[arg(long, value_name = "N", default_value_t = 256, requires = "task", value_parser = count)]
    task_rows: usize,
    /// Sentence before the needle's value, and the question for it
    #[arg(long, value_name = "TEXT", requires = "task")]
    question: Option<String>,
    /// Picture to write: .svg or .png
    #[arg(long, value_name = "FILE", requires = "task")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Named {
    /// The value behind a key, of many pairs
    Recall,
    /// Keys written once, and keys overwritten all the time
    Sticky,
    /// Whether the number of ones so far is odd
    Parity,
    /// Everything before the mark, again
    Copy,
    /// A sentence hidden in a text: the right one of 100 values, by likelihood
    Needle,
    /// The loss on a text by position behind an empty state
    Positions,
}

impl Named {
    /// The data source of this name, which makes its rows; none for what is measured on a text.
    pub(crate) fn source(self) -> Option<DataSource> {
        serde_json::from_value(self.name().into()).ok()
    }

    fn name(self) -> String {
        let value = self.to_possible_value().expect("none is left out");
        value.get_name().to_owned()
    }
}

/// Tokens that a call reads at least: shorter windows are slow and give the same.
const WINDOW: usize = 512;

/// Refuses what does not fit the task, before anything is read.
pub(super) fn check(args: &TaskArgs, config: &RunConfig, file: Option<&str>) -> anyhow::Result<()> {
    let Some(task) = args.task else { return Ok(()) };
    if args.question.is_some() && task != Named::Needle {
        refuse!("--question belongs to --task needle");
    }
    if let Some(path) = args.plot.as_ref().filter(|path| !plot::is_picture(path)) {
        refuse!(
            "--plot {}: name a file that ends in .svg or .png",
            path.display()
        );
    }
    model_dir::can_hold("--plot", args.plot.as_ref())?;
    let (trained, name) = (config.data.source, task.name());
    match (task.source(), file) {
        (Some(_), Some(file)) => refuse!("--file {file}: --task {name} makes its own rows"),
        (Some(source), None) if source != trained => refuse!(
            "--task {name}: this model did not learn it; train one with `data.source = \"{name}\"`"
        ),
        (None, None) if trained.task().is_some() => refuse!(
            "--task {name}: this model learned from no text; give --file PATH and a model that \
             reads it"
        ),
        _ => Ok(()),
    }
}

pub(super) fn run(
    args: &TaskArgs,
    task: Named,
    text: Option<&TokenStore>,
    run: &Run<'_>,
) -> anyhow::Result<()> {
    let config = run.config;
    let window = config.data.max_seq_length;
    let seeds = if task == Named::Needle { 20 } else { 3 };
    let mut lengths = args.context_lengths.clone();
    if lengths.is_empty() {
        lengths.push(window);
    }
    let options = TaskOptions {
        lengths,
        seeds: args.seeds.unwrap_or(seeds),
        rows: args.task_rows,
        batch: config.training.per_device_eval_batch_size,
        window: window.max(WINDOW),
        loss_chunk: config.training.loss_chunk,
    };
    let mut progress = terminal::progress::reading();
    let figures = match (task, text) {
        (Named::Needle, Some(text)) => {
            let Some(tokenizer) = run.tokenizer else {
                refuse!("--task needle: the model has no tokenizer to write the needle with");
            };
            let needle = Needle::new(tokenizer, args.question.as_deref().unwrap_or(QUESTION))?;
            evaluate_needle(run.model, text, &needle, &options, &mut progress)?
        }
        (Named::Positions, Some(text)) => {
            evaluate_positions(run.model, text, &options, &mut progress)?
        }
        _ => evaluate_rows(run.model, &config.data, &options, &mut progress)?,
    };
    match run.json {
        true => lines(task, run, options.seeds, &figures)?,
        false => table(task, run, &options, &figures)?,
    }
    match &args.plot {
        Some(path) => plot::save(&picture(task, &figures), path, !run.json),
        None => Ok(()),
    }
}

fn lines(task: Named, run: &Run<'_>, seeds: u64, figures: &[Figure]) -> anyhow::Result<()> {
    let parameters = ParameterCount::of(run.model.config()).total();
    for figure in figures {
        let line = json!({
            "task": task.name(), "length": figure.length, "kind": figure.kind,
            "from": figure.range.start, "to": figure.range.end, "answers": figure.answers,
            "accuracy": figure.accuracy, "loss": figure.loss,
            "standard_error": figure.standard_error, "seeds": seeds,
            "state_bytes": figure.state_bytes, "parameters": parameters, "device": run.device,
        });
        terminal::line(line.to_string())?;
    }
    Ok(())
}

fn table(
    task: Named,
    run: &Run<'_>,
    options: &TaskOptions,
    figures: &[Figure],
) -> anyhow::Result<()> {
    let (places, counted) = match task {
        Named::Positions => ("positions", "tokens"),
        Named::Needle => ("positions", "needles"),
        _ => ("tokens back", "answers"),
    };
    let of = match task.source() {
        Some(_) => format!(" of {} rows", options.rows),
        None => String::new(),
    };
    terminal::line(format!(
        "{} | {} seeds{of} | {} parameters on {}",
        task.name(),
        options.seeds,
        terminal::grouped(ParameterCount::of(run.model.config()).total()),
        run.device
    ))?;
    terminal::line(format!(
        "{:>9}  {:<8}  {places:>19}  {counted:>9}  {:>8}  {:>7}  {:>7}  {:>10}",
        "length", "kind", "accuracy", "±", "loss", "state"
    ))?;
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
    for figure in figures {
        let [start, end] = [figure.range.start, figure.range.end].map(terminal::grouped);
        let range = format!("{start}–{end}");
        terminal::line(format!(
            "{:>9}  {:<8}  {range:>19}  {:>9}  {:>8}  {:>7}  {:>7.4}  {:>10}",
            terminal::grouped(figure.length as u64),
            figure.kind.unwrap_or("–"),
            terminal::grouped(figure.answers),
            number(figure.accuracy),
            number(figure.standard_error),
            figure.loss,
            terminal::bytes(figure.state_bytes),
        ))?;
    }
    Ok(())
}

/// A line for every length and kind; of a needle, one over the lengths.
fn picture(task: Named, figures: &[Figure]) -> String {
    let mut drawn: Vec<Curve> = Vec::new();
    for figure in figures {
        let state = terminal::bytes(figure.state_bytes);
        let tokens = terminal::grouped(figure.length as u64);
        let name = match (task, figure.kind) {
            (Named::Needle, _) => "needle".to_owned(),
            (_, Some(kind)) => format!("{kind}, {tokens} tokens, {state}"),
            (_, None) => format!("{tokens} tokens, {state}"),
        };
        let (x, y) = (figure.range.end, figure.accuracy.unwrap_or(figure.loss));
        let point = (x as f64, y);
        match drawn.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => {
                let points = vec![point];
                drawn.push(Curve { name, points });
            }
        }
    }
    let (title, across) = match task {
        Named::Needle => ("Accuracy, one of 100", "tokens of text"),
        Named::Positions => ("Loss (nats a token)", "position, up to"),
        Named::Parity => ("Accuracy", "bits so far, up to"),
        _ => ("Accuracy", "tokens back, up to"),
    };
    let title = format!("{title}: {}", task.name());
    curves(&title, across, task != Named::Positions, &drawn)
}
