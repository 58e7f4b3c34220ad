//! One or several runs in one picture: panels of loss, learning rate, gradient norm, speed and memory.

use crate::Run;
use crate::axis::{Area, Axis, TEXT};
use crate::svg::{Anchor, Stroke, Svg};

const WIDTH: f64 = 1080.0;
/// Left edges of the two columns, and their width.
const COLUMNS: [f64; 2] = [72.0, 618.0];
const COLUMN: f64 = 432.0;
const LOSS_HEIGHT: f64 = 280.0;
const ROW_HEIGHT: f64 = 150.0;
/// Between the bottom of a panel's area and the top of the next one's.
const GAP: f64 = 92.0;
/// Colours of Okabe and Ito, told apart by all kinds of sight, that have a contrast of at least 3
/// on white and on a dark page. From the fifth run on they come again, with dashes.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const DASHES: [&str; 3] = ["", "9 5", "2 4"];
/// Pixels that a letter of the legend takes, about, so that entries do not run into each other.
const LETTER: f64 = 10.5;

/// What the x axis shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Across {
    /// Optimizer steps.
    #[default]
    Step,
    /// Training tokens.
    Tokens,
    /// Seconds of training.
    Time,
}

impl Across {
    fn key(self) -> &'static str {
        match self {
            Across::Step => "step",
            Across::Tokens => "tokens",
            Across::Time => "time_s",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Across::Step => "step",
            Across::Tokens => "training tokens",
            Across::Time => "seconds of training",
        }
    }
}

/// Draws `runs` as an SVG picture.
pub fn figure(runs: &[Run], across: Across) -> String {
    let legend = legend(runs);
    let top = 66.0 + 24.0 * legend.iter().map(|entry| entry.row + 1).max().unwrap_or(0) as f64;
    let height = top + LOSS_HEIGHT + 2.0 * (GAP + ROW_HEIGHT) + 54.0;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let mut svg = Svg::new(WIDTH, height, &format!("Training of {}", names.join(", ")));
    entries(&mut svg, &legend);
    for panel in panels(runs, across, top) {
        panel.draw(&mut svg);
    }
    svg.finish()
}

/// A run's place in the legend.
struct Entry<'a> {
    name: &'a str,
    stroke: Stroke<'static>,
    left: f64,
    row: usize,
}

/// The colour and dashes of run `i`.
pub(crate) fn stroke(i: usize, width: f64) -> Stroke<'static> {
    Stroke {
        dashes: DASHES[i / COLOURS.len() % DASHES.len()],
        ..Stroke::solid(COLOURS[i % COLOURS.len()], width)
    }
}

fn legend(runs: &[Run]) -> Vec<Entry<'_>> {
    let (mut left, mut row) = (COLUMNS[0], 0);
    let mut entries = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let width = 60.0 + LETTER * run.name.chars().count() as f64;
        if left + width > WIDTH && left > COLUMNS[0] {
            (left, row) = (COLUMNS[0], row + 1);
        }
        entries.push(Entry {
            name: &run.name,
            stroke: stroke(i, 3.0),
            left,
            row,
        });
        left += width;
    }
    entries
}

fn entries(svg: &mut Svg, legend: &[Entry<'_>]) {
    for entry in legend {
        let y = 30.0 + 24.0 * entry.row as f64;
        svg.polyline(&[[entry.left, y], [entry.left + 28.0, y]], &entry.stroke);
        svg.text(
            entry.left + 36.0,
            y + 5.0,
            Anchor::Start,
            TEXT,
            "title",
            entry.name,
        );
    }
}

/// A unit in which the greatest of `values` is a number of one to three digits, and its size.
fn memory_unit(values: impl Iterator<Item = f64>) -> (&'static str, f64) {
    match values.fold(0.0, f64::max) {
        most if most >= 1e9 => ("GB", 1e9),
        _ => ("MB", 1e6),
    }
}

fn panels(runs: &[Run], across: Across, top: f64) -> Vec<Panel<'static>> {
    let x = across.key();
    let all =
        |key: &str| -> Vec<Vec<(f64, f64)>> { runs.iter().map(|run| run.series(key, x)).collect() };
    let (train, valid) = (all("train/loss"), all("eval/loss"));
    let range = range(train.iter().chain(&valid).flatten());
    let memory = all("mem/bytes");
    let (unit, size) = memory_unit(memory.iter().flatten().map(|point| point.1));
    // 0 is what a system says that does not tell.
    let memory = memory.into_iter().map(|line| {
        let measured = line.into_iter().filter(|(_, bytes)| *bytes > 0.0);
        measured.map(|(x, bytes)| (x, bytes / size)).collect()
    });
    let area = |column: usize, row: usize| Area {
        left: COLUMNS[column],
        top: top + LOSS_HEIGHT + GAP + row as f64 * (ROW_HEIGHT + GAP),
        width: COLUMN,
        height: ROW_HEIGHT,
    };
    let small = |title, column, row, zero: bool, lines: Vec<Vec<(f64, f64)>>| Panel {
        title,
        area: area(column, row),
        zero,
        may_log: title == NORM,
        lines: one_each(lines, 1.8),
        across: if row == 1 { across.label() } else { "" },
        range,
    };
    let memory_title = if unit == "GB" {
        "Memory (GB)"
    } else {
        "Memory (MB)"
    };
    vec![
        loss_panel(train, valid, across, range, top),
        small("Learning rate", 0, 0, true, all("train/lr")),
        small(NORM, 1, 0, true, all("train/grad_norm")),
        small(
            "Speed (tokens a second)",
            0,
            1,
            true,
            all("train/tok_per_sec"),
        ),
        small(memory_title, 1, 1, true, memory.collect()),
    ]
}

const NORM: &str = "Gradient norm";

fn one_each(lines: Vec<Vec<(f64, f64)>>, width: f64) -> Vec<Line<'static>> {
    let lines = lines.into_iter().enumerate();
    let drawn = lines.map(|(i, points)| Line {
        points,
        stroke: stroke(i, width),
        dots: false,
    });
    drawn.collect()
}

/// Training losses thin and pale, validation losses above them, strong and with dots.
fn loss_panel(
    train: Vec<Vec<(f64, f64)>>,
    valid: Vec<Vec<(f64, f64)>>,
    across: Across,
    range: [f64; 2],
    top: f64,
) -> Panel<'static> {
    let validated = valid.iter().any(|line| !line.is_empty());
    let mut lines = one_each(train, 1.5);
    for line in &mut lines {
        line.stroke.opacity = if validated { 0.55 } else { 1.0 };
    }
    let mut valid = one_each(valid, 2.6);
    valid.iter_mut().for_each(|line| line.dots = true);
    lines.extend(valid);
    Panel {
        title: match validated {
            true => "Loss (nats a token): training thin, validation with dots",
            false => "Training loss (nats a token)",
        },
        area: Area {
            left: COLUMNS[0],
            top,
            width: COLUMNS[1] + COLUMN - COLUMNS[0],
            height: LOSS_HEIGHT,
        },
        zero: false,
        may_log: true,
        lines,
        across: across.label(),
        range,
    }
}

fn range<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> [f64; 2] {
    let ends = points.fold(
        [f64::INFINITY, f64::NEG_INFINITY],
        |[least, most], (x, _)| [least.min(*x), most.max(*x)],
    );
    // A run starts at nothing, whatever its first line says.
    [ends[0].min(0.0), ends[1].max(1.0)]
}

/// Values whose greatest is this many times their median are shown by their logarithm.
const WIDE: f64 = 20.0;
/// Points a line has at most: more than a picture can show only make it large.
const POINTS: usize = 1200;

/// A line of a panel.
#[derive(Clone, Debug)]
struct Line<'a> {
    /// x and y, by ascending x. What is not finite is a gap.
    points: Vec<(f64, f64)>,
    /// How it is drawn.
    stroke: Stroke<'a>,
    /// Dots at the points.
    dots: bool,
}

/// One panel.
#[derive(Clone, Debug)]
struct Panel<'a> {
    /// What is shown, with its unit.
    title: &'a str,
    /// Where.
    area: Area,
    /// Whether the y axis starts at 0.
    zero: bool,
    /// Whether the y axis may be logarithmic, where values differ by much.
    may_log: bool,
    /// The lines, later ones above earlier ones.
    lines: Vec<Line<'a>>,
    /// What the x axis shows; empty writes nothing.
    across: &'a str,
    /// Least and greatest x, the same for panels that stand above each other.
    range: [f64; 2],
}

impl Panel<'_> {
    /// Draws it.
    fn draw(&self, svg: &mut Svg) {
        let ends = [self.area.left, self.area.right()];
        let across = Axis::linear(self.range.into_iter(), ends, false, false);
        let (up, scale) = self.up();
        let title = format!("{}{scale}", self.title);
        self.area.frame(svg, &title, [&across, &up], self.across);
        let mut empty = true;
        for line in &self.lines {
            for piece in pieces(&line.points, |y| y.is_finite() && (!up.is_log() || y > 0.0)) {
                empty = false;
                draw_piece(svg, line, piece, |(x, y)| [across.at(x), up.at(y)]);
            }
        }
        if empty {
            self.area.empty(svg);
        }
    }

    /// The y axis, and a word about it for the title.
    fn up(&self) -> (Axis, &'static str) {
        let values = self.lines.iter().flat_map(|line| &line.points);
        let mut values: Vec<f64> = values.map(|(_, y)| *y).filter(|y| y.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let above: Vec<f64> = values.iter().copied().filter(|y| *y > 0.0).collect();
        let median = above.get(above.len() / 2).copied().unwrap_or(1.0);
        let wide = above.last().is_some_and(|most| *most > WIDE * median);
        let ends = [self.area.bottom(), self.area.top];
        if self.may_log && wide {
            let axis = Axis::values(above.into_iter(), ends[0], ends[1]);
            return (axis, ", logarithmic");
        }
        (Axis::linear(values.into_iter(), ends, self.zero, true), "")
    }
}

/// The stretches of `points` without a gap.
fn pieces(
    points: &[(f64, f64)],
    shown: impl Fn(f64) -> bool,
) -> impl Iterator<Item = &[(f64, f64)]> {
    let pieces = points.split(move |(_, y)| !shown(*y));
    pieces.filter(|piece| !piece.is_empty())
}

fn draw_piece(
    svg: &mut Svg,
    line: &Line<'_>,
    piece: &[(f64, f64)],
    place: impl Fn((f64, f64)) -> [f64; 2],
) {
    let places: Vec<[f64; 2]> = thinned(piece).into_iter().map(place).collect();
    match places[..] {
        [alone] if !line.dots => svg.circle(alone, line.stroke.width, line.stroke.colour),
        _ => svg.polyline(&places, &line.stroke),
    }
    if line.dots && places.len() <= 60 {
        for at in &places {
            svg.circle(*at, 3.5, line.stroke.colour);
        }
    }
}

/// Of every stretch of a long line its lowest and its highest point, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = (2 * points.len()).div_ceil(POINTS);
    let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let ends = points.chunks(stretch).flat_map(|chunk| {
        let (low, high) = (
            chunk.iter().min_by(by_height),
            chunk.iter().max_by(by_height),
        );
        let mut pair: Vec<(f64, f64)> = low.into_iter().chain(high).copied().collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair.dedup();
        pair
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, worse: f64) -> Run {
        let mut text = String::new();
        for step in 1..=20 {
            let loss = worse + 4.0 / f64::from(step).sqrt();
            text += &format!(
                "{{\"step\":{step},\"tokens\":{},\"time_s\":{step}.5,\"train/loss\":{loss},\
                 \"train/lr\":0.001,\"train/grad_norm\":1.5,\"train/tok_per_sec\":4000.0,\
                 \"mem/bytes\":300000000}}\n",
                step * 64
            );
        }
        text += &format!("{{\"step\":20,\"eval/loss\":{}}}\n", worse + 1.0);
        Run::parse(name, &text)
    }

    /// Heights of the last points of all lines of a colour.
    fn last_points(svg: &str, colour: &str) -> Vec<f64> {
        let lines = svg.split("<polyline points=\"").skip(1);
        let ours = lines.filter(|line| line.contains(colour));
        let last = ours.map(|line| {
            line.split('"')
                .next()
                .unwrap()
                .split(' ')
                .next_back()
                .unwrap()
        });
        last.map(|point| point.split_once(',').unwrap().1.parse().unwrap())
            .collect()
    }

    #[test]
    fn every_panel_has_a_line_of_every_run_and_the_worse_one_is_higher() {
        let svg = figure(&[run("good", 0.0), run("bad", 2.0)], Across::Step);
        for words in [
            "good",
            "bad",
            "Loss",
            "Learning rate",
            "Gradient norm",
            "Speed",
            "MB",
            "step",
        ] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("not measured"));
        let (good, bad) = (last_points(&svg, COLOURS[0]), last_points(&svg, COLOURS[1]));
        // Legend, training, one validation is a line of one point, and four panels.
        assert_eq!((good.len(), bad.len()), (7, 7));
        assert!(
            bad[1] < good[1] && bad[2] < good[2],
            "higher is nearer the top"
        );
        assert_eq!(bad[3..], good[3..], "the same rate, norm, speed, memory");
    }

    #[test]
    fn the_axis_can_count_tokens_or_time() {
        for (across, word) in [
            (Across::Tokens, "training tokens"),
            (Across::Time, "seconds"),
        ] {
            let svg = figure(&[run("a", 0.0)], across);
            assert!(svg.contains(word), "{across:?}");
        }
    }

    #[test]
    fn many_runs_differ_and_long_names_take_more_rows() {
        let runs: Vec<Run> = (0..9)
            .map(|i| run(&format!("a-run-of-some-length-{i}"), 0.0))
            .collect();
        let strokes: Vec<_> = (0..9).map(|i| stroke(i, 1.0)).collect();
        for (i, a) in strokes.iter().enumerate() {
            for b in &strokes[..i] {
                assert!(a.colour != b.colour || a.dashes != b.dashes);
            }
        }
        assert!(legend(&runs).iter().any(|entry| entry.row > 0));
        assert!(legend(&runs).iter().all(|entry| entry.left < WIDTH - 200.0));
    }

    fn panel(points: Vec<(f64, f64)>) -> String {
        let mut svg = Svg::new(300.0, 200.0, "a panel");
        let line = Line {
            points,
            stroke: Stroke::solid("#0072b2", 2.0),
            dots: false,
        };
        let panel = Panel {
            title: "norm",
            area: Area {
                left: 50.0,
                top: 30.0,
                width: 200.0,
                height: 120.0,
            },
            zero: true,
            may_log: true,
            lines: vec![line],
            across: "step",
            range: [0.0, 100.0],
        };
        panel.draw(&mut svg);
        svg.finish()
    }

    #[test]
    fn a_gap_parts_a_line() {
        let whole = panel(vec![(0.0, 1.0), (50.0, 2.0), (100.0, 1.5)]);
        assert_eq!(whole.matches("<polyline").count(), 1);
        let points = vec![
            (0.0, 1.0),
            (25.0, 1.0),
            (50.0, f64::NAN),
            (75.0, 1.0),
            (100.0, 1.0),
        ];
        assert_eq!(panel(points).matches("<polyline").count(), 2);
        assert!(panel(Vec::new()).contains("not measured"));
    }

    #[test]
    fn one_spike_makes_the_axis_logarithmic_and_says_so() {
        let calm: Vec<(f64, f64)> = (0..100).map(|i| (i as f64, 1.0)).collect();
        assert!(!panel(calm.clone()).contains("logarithmic"));
        let mut spiked = calm;
        spiked[50].1 = 900.0;
        assert!(panel(spiked).contains("logarithmic"));
    }

    #[test]
    fn long_lines_keep_their_extremes() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i), 1.0)).collect();
        points[31_234].1 = 9.0;
        points[7].1 = -3.0;
        let few = thinned(&points);
        assert!(few.len() <= POINTS + 2, "{}", few.len());
        assert!(few.contains(&(31_234.0, 9.0)) && few.contains(&(7.0, -3.0)));
        assert!(few.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
