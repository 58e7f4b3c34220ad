//! Files of `infinity eval MODEL --stream --json`, one a model, as one picture.
//!
//! Left the loss along the stream, right what the whole stream behind a token costs against a
//! limited context behind the same token, with the limit of 1 % that the project holds itself to.

use std::fs;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    HEIGHT, LINES, PANEL_HEIGHT, PANEL_TOP, PANEL_WIDTH, PANELS, TEXT, THIRD, USAGE, WIDTH, frame,
};
use infinity_plot::axis::{Axis, grouped};
use infinity_plot::svg::{Anchor, Stroke, Svg};

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
pub(super) fn run(output: &str, named: &[String]) -> anyhow::Result<()> {
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
    fs::write(output, picture(&models)).with_context(|| format!("cannot write {output}"))?;
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

fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    value[name]
        .as_f64()
        .with_context(|| format!("`{name}` is not a number"))
}

/// The whole picture.
fn picture(models: &[Model]) -> String {
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
        frame(&mut svg, left, [title, "tokens read"], [&across, up]);
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
            draw(&mut svg, points, [&across, up], place);
        }
    }
    for (place, model) in models.iter().enumerate() {
        named(&mut svg, model, place, longest);
    }
    svg.finish()
}

/// A line and its markers; what lies above the axis is put on its edge.
fn draw(svg: &mut Svg, points: &[(f64, f64)], [across, up]: [&Axis; 2], place: usize) {
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
mod tests {
    use super::*;

    /// A file of four bins with these losses and excesses.
    fn file(tokens: u64, losses: [f64; 4], excess: [f64; 4]) -> String {
        let width = tokens / 4;
        let bins = (0..4).map(|i| {
            let from = i as u64 * width;
            serde_json::json!({
                "from": from, "to": from + width, "loss": losses[i],
                "compared": if i == 0 { Value::Null } else {
                    serde_json::json!({ "excess": excess[i] })
                },
            })
        });
        let bins: Vec<Value> = bins.collect();
        serde_json::json!({ "tokens": tokens, "context": 4096, "bins": bins }).to_string()
    }

    fn models() -> Vec<Model> {
        [
            (
                "carried",
                file(1000, [3.0, 3.1, 3.0, 3.2], [0.0, -0.004, 0.001, 0.002]),
            ),
            (
                "softmax",
                file(100, [3.1, 4.0, 9.0, 9.0], [0.0, 0.5, 0.6, 0.7]),
            ),
        ]
        .into_iter()
        .map(|(name, text)| Model::parse(name, &text).expect("a file"))
        .collect()
    }

    #[test]
    fn what_went_far_wrong_stands_on_the_edge_and_is_told_in_numbers() {
        let svg = picture(&models());
        assert_eq!(svg.matches("<polyline").count(), 4, "{svg}");
        assert!(
            svg.contains("carried: worst bin +0.20 %, highest loss 3.20<"),
            "{svg}"
        );
        let told = "softmax: worst bin +70.00 %, highest loss 9.00; read up to 100 tokens";
        assert!(svg.contains(told), "{svg}");
        let numbers = svg.split('"').filter_map(|word| word.parse::<f64>().ok());
        assert!(numbers.clone().count() > 40);
        assert!(
            numbers
                .into_iter()
                .all(|number| (0.0..=WIDTH).contains(&number))
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |text: &str| match Model::parse("x", text) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        assert!(message("{").contains("not JSON"));
        assert!(message("{}").contains("`bins`"));
        let renamed = file(8, [1.0; 4], [0.0; 4]).replace("\"loss\"", "\"lost\"");
        assert!(message(&renamed).contains("`loss` is not a number"));
        assert_eq!(message(&file(8, [1.0; 4], [0.0; 4])), "");
        assert!(run("x.svg", &["no-file".to_owned()]).is_err());
    }
}
