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

use infinity_plot::axis::{Area, Axis, TEXT, grouped};
use infinity_plot::svg::{Anchor, Stroke, Svg};

const USAGE: &str = "usage: cargo xtask plot <length.json or kernels.json> <out.svg>
       cargo xtask plot stream <out.svg> <name>=<stream.json> ...";

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 400.0;
/// Where the two panels begin from the left, and the size of each.
const PANELS: [f64; 2] = [64.0, 524.0];
const PANEL_WIDTH: f64 = 340.0;
const PANEL_TOP: f64 = 56.0;
const PANEL_HEIGHT: f64 = 254.0;
/// Room for the name of a line beside its last point.
const NAME_WIDTH: f64 = 90.0;

/// Colours with a contrast of at least 4 on white and on GitHub's dark page: a picture in a README
/// cannot know on which of them it is shown. Lines differ in shape too.
const LINES: [(&str, &str); 4] = [
    ("infinity", "#2f75e0"),
    ("softmax", "#c4620b"),
    (FUSED, "#2f75e0"),
    (CHUNKWISE, THIRD),
];
const THIRD: &str = "#8a63d2";

/// Draws the file that `args` names first into the one it names second.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    if let [first, output, named @ ..] = args
        && first == "stream"
    {
        return stream(output, named);
    }
    let [input, output] = args else {
        bail!("{USAGE}");
    };
    let text = fs::read_to_string(input).with_context(|| format!("cannot read {input}"))?;
    let measurements = Measurements::parse(&text).with_context(|| input.clone())?;
    infinity_files::write(output.as_ref(), picture(&measurements).as_bytes())
        .with_context(|| format!("cannot write {output}"))?;
    println!("written: {output}");
    Ok(())
}

/// The whole picture.
fn picture(measurements: &Measurements) -> String {
    let mut svg = Svg::new(
        WIDTH,
        HEIGHT,
        "Time per token and peak memory against sequence length",
    );
    let panels = [
        (measurements.titles[0], &measurements.time),
        (measurements.titles[1], &measurements.memory),
    ];
    for (left, (title, series)) in PANELS.into_iter().zip(panels) {
        panel(&mut svg, left, title, series);
    }
    for (line, words) in measurements.notes.iter().enumerate() {
        let y = PANEL_TOP + PANEL_HEIGHT + 66.0 + 19.0 * line as f64;
        svg.text(PANELS[0], y, Anchor::Start, TEXT, "note", words);
    }
    svg.finish()
}

/// One panel with its axes, lines and the names of the lines.
fn panel(svg: &mut Svg, left: f64, title: &str, series: &[Series]) {
    let points = || series.iter().flat_map(|line| &line.points);
    let area = area(left);
    let across = Axis::lengths(points().map(|point| point.0), left, area.right());
    let up = Axis::values(points().map(|point| point.1), area.bottom(), area.top);
    area.frame(svg, title, [&across, &up], "sequence length (tokens)");
    for line in series {
        let places: Vec<[f64; 2]> = line
            .points
            .iter()
            .map(|(x, y)| [across.at(*x), up.at(*y)])
            .collect();
        draw(svg, line, &places, area.right());
    }
}

/// Of the panel that begins at `left`.
fn area(left: f64) -> Area {
    Area {
        left,
        top: PANEL_TOP,
        width: PANEL_WIDTH,
        height: PANEL_HEIGHT,
    }
}

/// A line, its markers, and its name at its last point. The panel ends at `edge`.
fn draw(svg: &mut Svg, line: &Series, places: &[[f64; 2]], edge: f64) {
    let colour = LINES
        .iter()
        .find(|(name, _)| *name == line.name)
        .map_or(TEXT, |found| found.1);
    svg.polyline(places, &Stroke::solid(colour, 2.5));
    for place in places {
        match line.name.as_str() {
            "infinity" | FUSED => svg.circle(*place, 5.0, colour),
            _ => svg.square(*place, colour),
        }
    }
    let Some([x, y]) = places.last() else { return };
    // Beside the last point where there is room, else above it.
    if edge - x > NAME_WIDTH {
        svg.text(x + 13.0, y + 6.0, Anchor::Start, colour, "name", &line.name);
    } else {
        svg.text(*x, y - 13.0, Anchor::End, colour, "name", &line.name);
    }
}

/// Lines to draw and words to put below them.
#[derive(Debug)]
struct Measurements {
    /// Microseconds a token, by length.
    time: Vec<Series>,
    /// Peak memory by length, in what its title says. Without lines where the system did not tell.
    memory: Vec<Series>,
    /// What stands above the two.
    titles: [&'static str; 2],
    /// Machine and model, and what was left out.
    notes: Vec<String>,
}

/// One line of a panel.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    /// Length and value, by ascending length.
    points: Vec<(f64, f64)>,
}

impl Measurements {
    /// Reads the text of the file.
    ///
    /// # Errors
    ///
    /// If it is no JSON, if a field is missing (the message names it), or without measurements.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Value = serde_json::from_str(text).context("not JSON")?;
        if file["bench"] == "kernels" {
            return of_kernels(&file);
        }
        let training = list(&file, "training")?;
        ensure!(
            !training.is_empty(),
            "`training` is empty: run the bench with rounds"
        );
        let mut memory = series(training, "peak_bytes", 1e-9)?;
        memory.retain(|line| line.points.iter().all(|point| point.1 > 0.0));
        ensure!(
            !memory.is_empty(),
            "`peak_bytes` is 0: the system did not tell"
        );
        Ok(Measurements {
            time: series(training, "us_per_token", 1.0)?,
            memory,
            titles: [
                "Training: time per token (µs)",
                "Training: peak memory (GB)",
            ],
            notes: notes(&file)?,
        })
    }
}

/// `field` of every point, one line a mixer, in the order of the file.
fn series(training: &[Value], field: &str, unit: f64) -> anyhow::Result<Vec<Series>> {
    let mut lines: Vec<Series> = Vec::new();
    for point in training {
        let name = word(point, "mixer")?;
        let place = (number(point, "length")?, number(point, field)? * unit);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(place),
            None => lines.push(Series {
                name: name.to_owned(),
                points: vec![place],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Ok(lines)
}

fn notes(file: &Value) -> anyhow::Result<Vec<String>> {
    let (machine, model) = (field(file, "machine")?, field(file, "model")?);
    let mut notes = vec![format!(
        "{} layers, D {}, H {}; {} tokens a step at every length. {}, {} cores, {}.",
        number(model, "num_hidden_layers")?,
        number(model, "hidden_size")?,
        number(model, "num_attention_heads")?,
        grouped(number(file, "tokens_per_step")?),
        word(machine, "cpu")?,
        number(machine, "cores")?,
        word(file, "date")?,
    )];
    if let Some(first) = list(file, "left_out")?.first() {
        let mixer = word(first, "mixer")?;
        let lengths = list(file, "training")?
            .iter()
            .filter(|point| point["mixer"] == mixer);
        let longest = lengths
            .filter_map(|point| point["length"].as_f64())
            .fold(0.0, f64::max);
        notes.push(format!(
            "{mixer} stops at {}. At {}: {}.",
            grouped(longest),
            grouped(number(first, "length")?),
            word(first, "why")?,
        ));
    }
    Ok(notes)
}

fn field<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    value
        .get(name)
        .with_context(|| format!("`{name}` is missing"))
}

fn list<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    field(value, name)?
        .as_array()
        .with_context(|| format!("`{name}` is not a list"))
}

fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    field(value, name)?
        .as_f64()
        .with_context(|| format!("`{name}` is not a number"))
}

fn word<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    field(value, name)?
        .as_str()
        .with_context(|| format!("`{name}` is not text"))
}

/// The native kernel.
const FUSED: &str = "fused";
/// The form on tensors.
const CHUNKWISE: &str = "chunkwise";

/// Width of keys and values, and states of `memory_scan`, that are drawn.
const HEAD_WIDTH: f64 = 64.0;
const STATES: f64 = 4.0;

/// The lines: name, operator, form, states.
const KERNEL_LINES: [(&str, &str, &str, f64); 3] = [
    (FUSED, "memory_scan", "fused", STATES),
    (CHUNKWISE, "memory_scan", "chunkwise", STATES),
    ("softmax", "softmax_attention", "native", 1.0),
];

/// What the file holds of that size.
///
/// # Errors
///
/// If a field is missing (the message names it), or nothing of that size was measured.
fn of_kernels(file: &Value) -> anyhow::Result<Measurements> {
    let rows = list(file, "rows")?;
    let lines = |field: &str, of: &dyn Fn(f64, f64) -> f64| -> anyhow::Result<Vec<Series>> {
        let lines = KERNEL_LINES.map(|line| kernel_series(rows, line, field, of));
        let lines = lines.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(lines
            .into_iter()
            .filter(|line| !line.points.is_empty())
            .collect())
    };
    let time = lines("both_s", &|length, seconds| seconds / length * 1e6)?;
    ensure!(
        !time.is_empty(),
        "nothing measured at K = V = {HEAD_WIDTH}, S = {STATES}"
    );
    Ok(Measurements {
        time,
        memory: lines("both_peak_bytes", &|_, bytes| bytes * 1e-6)?,
        titles: [
            "Forward and backward: time per token (µs)",
            "Peak memory (MB)",
        ],
        notes: vec![
            format!(
                "One layer: {} heads, K = V = {HEAD_WIDTH}, one row of the batch, f32; memory_scan with S = {STATES}; softmax is Burn's own.",
                number(file, "heads")?,
            ),
            format!("{}; {}.", word(file, "machine")?, word(file, "date")?),
        ],
    })
}

fn kernel_series(
    rows: &[Value],
    (name, operator, form, states): (&str, &str, &str, f64),
    field: &str,
    of: &dyn Fn(f64, f64) -> f64,
) -> anyhow::Result<Series> {
    let mut points = Vec::new();
    for row in rows {
        let here = word(row, "operator")? == operator && word(row, "form")? == form;
        if here && number(row, "states")? == states && number(row, "width")? == HEAD_WIDTH {
            let length = number(row, "length")?;
            let value = number(row, field).with_context(|| format!("{name} at {length}"))?;
            points.push((length, of(length, value)));
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Series {
        name: name.to_owned(),
        points,
    })
}

/// Losses above this much of the lowest one are drawn at the upper edge: what went that wrong must
/// not press the other lines flat.
const LOSS_SHOWN: f64 = 1.35;
/// Percent above which a difference is drawn at the upper edge.
const PERCENT_SHOWN: f64 = 3.0;
/// What the whole stream may cost, in percent.
const LIMIT: f64 = 1.0;
/// Room below the panels for names and notes.
const NAMES_TOP: f64 = PANEL_TOP + PANEL_HEIGHT + 68.0;

/// One model's file.
struct Model {
    name: String,
    /// Nats a token at the middle of every bin.
    loss: Vec<(f64, f64)>,
    /// Percent above the limited context, where a bin has a comparison.
    excess: Vec<(f64, f64)>,
    tokens: f64,
    context: f64,
}

/// Draws the files in `named`, `name=path` each, into `output`.
fn stream(output: &str, named: &[String]) -> anyhow::Result<()> {
    ensure!(
        (1..=3).contains(&named.len()),
        "one to three files\n{USAGE}"
    );
    let mut models = Vec::new();
    for word in named {
        let Some((name, path)) = word.split_once('=') else {
            bail!("`{word}` is no name=file\n{USAGE}");
        };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        models.push(Model::parse(name, &text).with_context(|| path.to_owned())?);
    }
    infinity_files::write(output.as_ref(), stream_picture(&models).as_bytes())
        .with_context(|| format!("cannot write {output}"))?;
    println!("written: {output}");
    Ok(())
}

impl Model {
    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let file: Value = serde_json::from_str(text).context("not JSON")?;
        let bins = file["bins"].as_array().context("`bins` is not a list")?;
        ensure!(!bins.is_empty(), "`bins` is empty");
        let (mut loss, mut excess) = (Vec::new(), Vec::new());
        for bin in bins {
            let middle = (number(bin, "from")? + number(bin, "to")?) / 2.0;
            loss.push((middle, number(bin, "loss")?));
            if !bin["compared"].is_null() {
                excess.push((middle, 100.0 * number(&bin["compared"], "excess")?));
            }
        }
        Ok(Model {
            name: name.to_owned(),
            loss,
            excess,
            tokens: number(&file, "tokens")?,
            context: number(&file, "context")?,
        })
    }
}

/// The whole picture.
fn stream_picture(models: &[Model]) -> String {
    let height = HEIGHT + 22.0 * models.len() as f64 - 22.0;
    let mut svg = Svg::new(WIDTH, height, "Loss along one long stream of text");
    let values = |of: fn(&Model) -> &Vec<(f64, f64)>| -> Vec<f64> {
        models.iter().flat_map(of).map(|point| point.1).collect()
    };
    let losses = values(|model| &model.loss);
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let losses = losses.into_iter().map(|loss| loss.min(LOSS_SHOWN * least));
    let excesses = values(|model| &model.excess).into_iter();
    let excesses = excesses.map(|percent| percent.min(PERCENT_SHOWN));
    // The limit and nothing at all are always in the picture.
    let excesses = excesses.chain([0.0, 1.5 * LIMIT]);
    let bottom = PANEL_TOP + PANEL_HEIGHT;
    let ups = [
        Axis::linear(losses, [bottom, PANEL_TOP], false, true),
        Axis::linear(excesses, [bottom, PANEL_TOP], false, true),
    ];
    let context = grouped(models[0].context);
    let titles = [
        "Loss, the whole stream behind (nats)".to_owned(),
        format!("… against {context} tokens behind (%)"),
    ];
    let longest = models.iter().map(|model| model.tokens).fold(0.0, f64::max);
    for (panel, (up, title)) in ups.iter().zip(&titles).enumerate() {
        let left = PANELS[panel];
        let across = Axis::linear(
            [longest].into_iter(),
            [left, left + PANEL_WIDTH],
            true,
            false,
        );
        area(left).frame(&mut svg, title, [&across, up], "tokens read");
        if panel == 1 {
            let y = up.at(LIMIT);
            svg.line([left, y], [left + PANEL_WIDTH, y], TEXT, "axis");
            svg.text(
                left + 6.0,
                y - 7.0,
                Anchor::Start,
                TEXT,
                "note",
                "limit: 1 % worse",
            );
        }
        for (place, model) in models.iter().enumerate() {
            let points = [&model.loss, &model.excess][panel];
            draw_points(&mut svg, points, [&across, up], place);
        }
    }
    for (place, model) in models.iter().enumerate() {
        named(&mut svg, model, place, longest);
    }
    svg.finish()
}

/// A line and its markers; what lies above the axis is put on its edge.
fn draw_points(svg: &mut Svg, points: &[(f64, f64)], [across, up]: [&Axis; 2], place: usize) {
    let (low, high) = up.ends();
    let places: Vec<[f64; 2]> = points
        .iter()
        .map(|(x, y)| [across.at(*x), up.at(y.clamp(low, high))])
        .collect();
    svg.polyline(&places, &Stroke::solid(colour(place), 2.5));
    for at in places {
        mark(svg, at, place);
    }
}

fn mark(svg: &mut Svg, at: [f64; 2], place: usize) {
    match place {
        0 => svg.circle(at, 5.0, colour(place)),
        1 => svg.diamond(at, colour(place)),
        _ => svg.square(at, colour(place)),
    }
}

fn colour(place: usize) -> &'static str {
    [LINES[0].1, THIRD, LINES[1].1][place.min(2)]
}

/// A line's name below the panels, with its worst bin and where it ends early.
fn named(svg: &mut Svg, model: &Model, place: usize, longest: f64) {
    let y = NAMES_TOP + 22.0 * place as f64;
    mark(svg, [PANELS[0] + 5.0, y - 5.0], place);
    let worst = model.excess.iter().map(|point| point.1);
    let worst = worst.fold(f64::NEG_INFINITY, f64::max);
    let highest = model.loss.iter().map(|point| point.1).fold(0.0, f64::max);
    let end = match model.tokens < longest {
        true => format!("; read up to {} tokens", grouped(model.tokens)),
        false => String::new(),
    };
    let worst = match worst.is_finite() {
        true => format!("worst bin {worst:+.2} %"),
        false => "no bin compared".to_owned(),
    };
    let words = format!("{}: {worst}, highest loss {highest:.2}{end}", model.name);
    svg.text(
        PANELS[0] + 18.0,
        y,
        Anchor::Start,
        colour(place),
        "name",
        &words,
    );
}

#[cfg(test)]
mod tests;
