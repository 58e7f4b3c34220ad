//! `cargo xtask plot`: measurements in JSON as SVG pictures for the README.
//!
//! The file of `cargo xtask bench length` becomes two panels that share the lengths: time a token and peak memory,
//! both axes logarithmic, so that linear cost is a level line in the first and slopes can be compared; that of
//! `cargo xtask bench kernels` the same for `memory_scan` and attention. Files of `infinity eval MODEL --stream --json`,
//! one a model, become a picture of the loss along the stream and of what the whole stream behind a token costs
//! against a limited context, with the limit of 1 % that the project holds itself to.

use std::fs;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use infinity_plot::{Chart, Line, Mark, Panel, Scale, Style, TEXT, grouped};

const USAGE: &str = "usage: cargo xtask plot <length.json or kernels.json> <out.svg>
       cargo xtask plot stream <out.svg> <name>=<stream.json> ...";

/// Colours with a contrast of at least 4 on white and on GitHub's dark page: a picture in a README
/// cannot know on which of them it is shown. Lines differ in their marks too.
const STYLES: [(&str, Mark); 4] = [
    ("#2f75e0", Mark::Circle),
    ("#8a63d2", Mark::Diamond),
    ("#c4620b", Mark::Square),
    (TEXT, Mark::Square),
];

/// Draws the file that `args` names first into the one it names second.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let (output, chart) = match args {
        [first, output, named @ ..] if first == "stream" => (output, streams(named)),
        [input, output] => (output, read(input, measurements)),
        _ => bail!("{USAGE}"),
    };
    let written = infinity_files::write(output.as_ref(), chart?.svg().as_bytes());
    written.with_context(|| format!("cannot write {output}"))?;
    println!("written: {output}");
    Ok(())
}

/// What `parse` makes of a file in JSON.
fn read<T>(path: &str, parse: impl Fn(&Value) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let file = serde_json::from_str(&text).with_context(|| format!("{path}: not JSON"))?;
    parse(&file).with_context(|| path.to_owned())
}

/// Two panels beside each other.
fn chart(
    title: &str,
    legend: Vec<(String, Style)>,
    panels: Vec<Panel>,
    notes: Vec<String>,
) -> Chart {
    Chart {
        title: title.to_owned(),
        width: 900.0,
        legend,
        rows: vec![(254.0, panels)],
        notes,
    }
}

fn style(place: usize) -> Style {
    let (colour, mark) = STYLES[place];
    Style {
        mark: Some(mark),
        ..Style::solid(colour, 2.5)
    }
}

/// The picture of a file of either bench.
///
/// # Errors
///
/// If a field is missing (the message names it), or without measurements.
fn measurements(file: &Value) -> anyhow::Result<Chart> {
    if file["bench"] == "kernels" {
        return of_kernels(file);
    }
    let training = list(file, "training")?;
    let measured = !training.is_empty();
    ensure!(measured, "`training` is empty: run the bench with rounds");
    let mixer = |point| word(point, "mixer").map(Some);
    let mut memory = series(training, mixer, "peak_bytes", |_, bytes| bytes * 1e-9)?;
    memory.retain(|(_, line)| line.points.iter().all(|point| point.1 > 0.0));
    let told = !memory.is_empty();
    ensure!(told, "`peak_bytes` is 0: the system did not tell");
    let time = series(training, mixer, "us_per_token", |_, time| time)?;
    let titles = [
        "Training: time per token (µs)",
        "Training: peak memory (GB)",
    ];
    Ok(against_length(titles, [time, memory], notes(file)?))
}

/// `value` of the length and `field` of every row that has a name, by ascending length: one line a name, in the order
/// of the file.
fn series<'a>(
    rows: &'a [Value],
    name: impl Fn(&'a Value) -> anyhow::Result<Option<&'a str>>,
    field: &str,
    value: impl Fn(f64, f64) -> f64,
) -> anyhow::Result<Vec<(&'a str, Line)>> {
    let mut lines: Vec<(&str, Line)> = Vec::new();
    for row in rows {
        let Some(name) = name(row)? else { continue };
        let length = number(row, "length")?;
        let found = number(row, field).with_context(|| format!("{name} at {length}"))?;
        let known = lines.iter().position(|line| line.0 == name);
        let at = known.unwrap_or_else(|| {
            let style = style(match name {
                "infinity" | "fused" => 0,
                "chunkwise" => 1,
                "softmax" => 2,
                _ => 3,
            });
            let points = Vec::new();
            lines.push((name, Line { points, style }));
            lines.len() - 1
        });
        let points = &mut lines[at].1.points;
        points.push((length, value(length, found)));
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Ok(lines)
}

fn against_length(titles: [&str; 2], lines: [Vec<(&str, Line)>; 2], notes: Vec<String>) -> Chart {
    let legend = lines[0].iter();
    let legend = legend.map(|(name, line)| ((*name).to_owned(), line.style));
    let legend = legend.collect();
    let panels = titles.into_iter().zip(lines).map(|(title, lines)| Panel {
        title: title.to_owned(),
        caption: "sequence length (tokens)".to_owned(),
        lines: lines.into_iter().map(|(_, line)| line).collect(),
        lengths: true,
        scale: Scale::Logarithmic,
        ..Panel::default()
    });
    let title = "Time per token and peak memory against sequence length";
    chart(title, legend, panels.collect(), notes)
}

/// Machine and model, and what was left out.
fn notes(file: &Value) -> anyhow::Result<Vec<String>> {
    let mut notes = vec![format!(
        "{} layers, D {}, H {}; {} tokens a step at every length. {}, {} cores, {}.",
        number(file, "model/num_hidden_layers")?,
        number(file, "model/hidden_size")?,
        number(file, "model/num_attention_heads")?,
        grouped(number(file, "tokens_per_step")?),
        word(file, "machine/cpu")?,
        number(file, "machine/cores")?,
        word(file, "date")?,
    )];
    if let Some(first) = list(file, "left_out")?.first() {
        let mixer = word(first, "mixer")?;
        let points = list(file, "training")?.iter();
        let lengths = points.filter(|point| point["mixer"] == mixer);
        let lengths = lengths.filter_map(|point| point["length"].as_f64());
        let longest = lengths.fold(0.0, f64::max);
        notes.push(format!(
            "{mixer} stops at {}. At {}: {}.",
            grouped(longest),
            grouped(number(first, "length")?),
            word(first, "why")?,
        ));
    }
    Ok(notes)
}

/// What `name` leads to, from the names of objects with `/` between them to a value that `read` takes for `kind`.
fn field<'a, T>(
    value: &'a Value,
    name: &str,
    kind: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> anyhow::Result<T> {
    let field = value.pointer(&format!("/{name}"));
    let field = field.with_context(|| format!("`{name}` is missing"))?;
    read(field).with_context(|| format!("`{name}` is not {kind}"))
}

fn list<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    field(value, name, "a list", Value::as_array)
}

fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    field(value, name, "a number", Value::as_f64)
}

fn word<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    field(value, name, "text", Value::as_str)
}

/// Width of keys and values, and states of `memory_scan`, that are drawn.
const HEAD_WIDTH: f64 = 64.0;
const STATES: f64 = 4.0;

/// The picture of what the file holds of that size.
fn of_kernels(file: &Value) -> anyhow::Result<Chart> {
    let rows = list(file, "rows")?;
    let name = |row| {
        let (name, states) = match (word(row, "operator")?, word(row, "form")?) {
            ("memory_scan", "fused") => ("fused", STATES),
            ("memory_scan", "chunkwise") => ("chunkwise", STATES),
            ("softmax_attention", "native") => ("softmax", 1.0),
            _ => return Ok(None),
        };
        let drawn = number(row, "states")? == states && number(row, "width")? == HEAD_WIDTH;
        Ok(drawn.then_some(name))
    };
    let time = series(rows, name, "both_s", |length, time| time / length * 1e6)?;
    ensure!(
        !time.is_empty(),
        "nothing measured at K = V = {HEAD_WIDTH}, S = {STATES}"
    );
    let memory = series(rows, name, "both_peak_bytes", |_, bytes| bytes * 1e-6)?;
    let titles = [
        "Forward and backward: time per token (µs)",
        "Peak memory (MB)",
    ];
    let notes = vec![
        format!(
            "One layer: {} heads, K = V = {HEAD_WIDTH}, one row of the batch, f32; memory_scan with S = {STATES}; softmax is Burn's own.",
            number(file, "heads")?,
        ),
        format!("{}; {}.", word(file, "machine")?, word(file, "date")?),
    ];
    Ok(against_length(titles, [time, memory], notes))
}

/// Losses above this much of the lowest one are drawn at the upper edge: what went that wrong must
/// not press the other lines flat.
const LOSS_SHOWN: f64 = 1.35;
/// Percent above which a difference is drawn at the upper edge.
const PERCENT_SHOWN: f64 = 3.0;
/// What the whole stream may cost, in percent.
const LIMIT: f64 = 1.0;

struct Model {
    name: String,
    /// Nats a token at the middle of every bin.
    loss: Vec<(f64, f64)>,
    /// Percent above the limited context, where a bin has a comparison.
    excess: Vec<(f64, f64)>,
    tokens: f64,
    context: f64,
}

/// The picture of the files in `named`, `name=path` each.
fn streams(named: &[String]) -> anyhow::Result<Chart> {
    ensure!(
        (1..=3).contains(&named.len()),
        "one to three files\n{USAGE}"
    );
    let models = named.iter().map(|word| {
        let pair = word.split_once('=');
        let (name, path) = pair.with_context(|| format!("`{word}` is no name=file\n{USAGE}"))?;
        read(path, |file| Model::parse(name, file))
    });
    Ok(along_stream(&models.collect::<anyhow::Result<Vec<_>>>()?))
}

impl Model {
    fn parse(name: &str, file: &Value) -> anyhow::Result<Self> {
        let bins = list(file, "bins")?;
        ensure!(!bins.is_empty(), "`bins` is empty");
        let (mut loss, mut excess) = (Vec::new(), Vec::new());
        for bin in bins {
            let middle = (number(bin, "from")? + number(bin, "to")?) / 2.0;
            loss.push((middle, number(bin, "loss")?));
            if !bin["compared"].is_null() {
                excess.push((middle, 100.0 * number(bin, "compared/excess")?));
            }
        }
        Ok(Model {
            name: name.to_owned(),
            loss,
            excess,
            tokens: number(file, "tokens")?,
            context: number(file, "context")?,
        })
    }

    /// Its name with its worst bin and where it ends early.
    fn summary(&self, longest: f64) -> String {
        let worst = self.excess.iter().map(|point| point.1);
        let worst = match worst.max_by(f64::total_cmp) {
            Some(worst) => format!("worst bin {worst:+.2} %"),
            None => "no bin compared".to_owned(),
        };
        let highest = self.loss.iter().map(|point| point.1).fold(0.0, f64::max);
        let mut summary = format!("{}: {worst}, highest loss {highest:.2}", self.name);
        if self.tokens < longest {
            summary += &format!("; read up to {} tokens", grouped(self.tokens));
        }
        summary
    }
}

fn along_stream(models: &[Model]) -> Chart {
    let longest = models.iter().map(|model| model.tokens).fold(0.0, f64::max);
    let losses = models.iter().flat_map(|model| &model.loss);
    let least = losses.fold(f64::INFINITY, |least, point| point.1.min(least));
    let panel = |points: fn(&Model) -> &Vec<(f64, f64)>| {
        let lines = models.iter().enumerate().map(|(place, model)| Line {
            points: points(model).clone(),
            style: style(place),
        });
        Panel {
            caption: "tokens read".to_owned(),
            lines: lines.collect(),
            reach: [vec![0.0, longest], Vec::new()],
            ..Panel::default()
        }
    };
    let loss = Panel {
        title: "Loss, the whole stream behind (nats)".to_owned(),
        cut: Some(LOSS_SHOWN * least),
        ..panel(|model| &model.loss)
    };
    let excess = Panel {
        title: format!("… against {} tokens behind (%)", grouped(models[0].context)),
        cut: Some(PERCENT_SHOWN),
        limit: Some((LIMIT, format!("limit: {LIMIT} % worse"))),
        // The limit and nothing at all are always in the picture.
        reach: [vec![0.0, longest], vec![0.0, 1.5 * LIMIT]],
        ..panel(|model| &model.excess)
    };
    let legend = models.iter().enumerate();
    let legend = legend.map(|(place, model)| (model.summary(longest), style(place)));
    let title = "Loss along one long stream of text";
    chart(title, legend.collect(), vec![loss, excess], Vec::new())
}

#[cfg(test)]
mod tests;
