//! `cargo xtask plot`: measurements in JSON as SVG pictures for the README.
//!
//! The file of `cargo xtask bench length` becomes two panels that share the lengths: time a token
//! and peak memory, both axes logarithmic, so that linear cost is a level line in the first and
//! slopes can be compared; that of `cargo xtask bench kernels` the same for `memory_scan` and attention. The files of `infinity eval --stream --json` are drawn by [`stream`].

mod kernels;
mod measurements;
mod stream;

use std::fs;

use anyhow::{Context, bail};

use infinity_plot::axis::Axis;
use infinity_plot::svg::{Anchor, Stroke, Svg};
use measurements::{Measurements, Series};

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
const TEXT: &str = "#72787f";
const LINES: [(&str, &str); 4] = [
    ("infinity", "#2f75e0"),
    ("softmax", "#c4620b"),
    (kernels::FUSED, "#2f75e0"),
    (kernels::CHUNKWISE, THIRD),
];
const THIRD: &str = "#8a63d2";

/// Draws the file that `args` names first into the one it names second.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    if let [first, output, named @ ..] = args
        && first == "stream"
    {
        return stream::run(output, named);
    }
    let [input, output] = args else {
        bail!("{USAGE}");
    };
    let text = fs::read_to_string(input).with_context(|| format!("cannot read {input}"))?;
    let measurements = Measurements::parse(&text).with_context(|| input.clone())?;
    fs::write(output, picture(&measurements)).with_context(|| format!("cannot write {output}"))?;
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
    let across = Axis::lengths(points().map(|point| point.0), left, left + PANEL_WIDTH);
    let bottom = PANEL_TOP + PANEL_HEIGHT;
    let up = Axis::values(points().map(|point| point.1), bottom, PANEL_TOP);
    frame(
        svg,
        left,
        [title, "sequence length (tokens)"],
        [&across, &up],
    );
    for line in series {
        let places: Vec<[f64; 2]> = line
            .points
            .iter()
            .map(|(x, y)| [across.at(*x), up.at(*y)])
            .collect();
        draw(svg, line, &places, left + PANEL_WIDTH);
    }
}

/// Title, grid, axes and what is written on them.
fn frame(svg: &mut Svg, left: f64, [title, caption]: [&str; 2], [across, up]: [&Axis; 2]) {
    let bottom = PANEL_TOP + PANEL_HEIGHT;
    svg.text(left, PANEL_TOP - 20.0, Anchor::Start, TEXT, "title", title);
    for (value, label) in &up.ticks {
        let y = up.at(*value);
        svg.line([left, y], [left + PANEL_WIDTH, y], TEXT, "grid");
        svg.text(left - 8.0, y + 5.0, Anchor::End, TEXT, "tick", label);
    }
    for (value, label) in &across.ticks {
        let x = across.at(*value);
        svg.line([x, bottom], [x, bottom + 5.0], TEXT, "axis");
        svg.text(x, bottom + 22.0, Anchor::Middle, TEXT, "tick", label);
    }
    svg.line([left, bottom], [left + PANEL_WIDTH, bottom], TEXT, "axis");
    let middle = left + PANEL_WIDTH / 2.0;
    svg.text(middle, bottom + 42.0, Anchor::Middle, TEXT, "tick", caption);
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
            "infinity" | kernels::FUSED => svg.circle(*place, 5.0, colour),
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("example.json");

    /// The coordinates of every line of the picture.
    fn polylines(svg: &str) -> Vec<Vec<[f64; 2]>> {
        let number = |text: &str| text.parse::<f64>().expect("a coordinate");
        svg.split("<polyline points=\"")
            .skip(1)
            .map(|rest| {
                let points = rest.split('"').next().expect("a closing quote");
                let pairs = points
                    .split(' ')
                    .map(|pair| pair.split_once(',').expect("x,y"));
                pairs.map(|(x, y)| [number(x), number(y)]).collect()
            })
            .collect()
    }

    #[test]
    fn larger_values_stand_further_right_and_higher() {
        let svg = picture(&Measurements::parse(FILE).expect("a file of the bench"));
        let lines = polylines(&svg);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2, 3, 2]);
        for line in &lines {
            assert!(
                line.windows(2).all(|pair| pair[0][0] < pair[1][0]),
                "{line:?}"
            );
            for [x, y] in line {
                assert!(
                    (0.0..WIDTH).contains(x) && (0.0..HEIGHT).contains(y),
                    "{line:?}"
                );
            }
        }
        let [infinity, softmax] = [&lines[0], &lines[1]];
        assert!(
            softmax[1][1] < softmax[0][1],
            "slower is higher on the page"
        );
        assert!(
            infinity[1][1] > softmax[1][1],
            "at one length, softmax is above"
        );
        assert_eq!(
            infinity[1][0], softmax[1][0],
            "at one length, both stand above each other"
        );
        let far = (infinity[2][0] - infinity[1][0]) - (infinity[1][0] - infinity[0][0]);
        assert!(
            far.abs() < 0.2,
            "equal ratios of lengths are equally far apart: {lines:?}"
        );
    }

    #[test]
    fn the_picture_is_well_formed_and_says_what_was_left_out() {
        let svg = picture(&Measurements::parse(FILE).expect("a file of the bench"));
        let closed = svg.matches("/>").count() + svg.matches("</").count();
        assert_eq!(svg.matches('<').count() - svg.matches("</").count(), closed);
        assert!(svg.contains("softmax stops at 4,096"), "{svg}");
        assert!(
            svg.contains("A&amp;B processor"),
            "special characters are escaped: {svg}"
        );
    }

    #[test]
    fn colours_are_legible_on_white_and_on_a_dark_page() {
        let channel = |hex: &str| {
            let value = f64::from(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
            let value = value / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        // WCAG's relative luminance and contrast.
        let luminance = |colour: &str| {
            let [r, g, b] = [1, 3, 5].map(|at| channel(&colour[at..at + 2]));
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            a.max(b) / a.min(b)
        };
        for colour in [TEXT, LINES[0].1, LINES[1].1, THIRD] {
            for page in ["#ffffff", "#0d1117"] {
                let found = contrast(colour, page);
                assert!(found >= 4.0, "{colour} on {page}: {found:.2}");
            }
        }
        assert!(
            contrast("#ffffff", "#ffff00") < 4.0,
            "yellow on white must be refused"
        );
    }
}
