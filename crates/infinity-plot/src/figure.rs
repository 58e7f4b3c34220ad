//! One or several runs in one picture: panels of loss, learning rate, gradient norm, speed and memory.

use crate::Run;
use crate::chart::{Chart, Line, Mark, Panel, Scale, Style};

/// Colours of Okabe and Ito, told apart by all kinds of sight, that have a contrast of at least 3
/// on white and on a dark page. From the fifth run on they come again, with dashes.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const DASHES: [&str; 3] = ["none", "9 5", "2 4"];

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

/// Draws `runs` as an SVG picture.
pub fn figure(runs: &[Run], across: Across) -> String {
    let (x, caption) = match across {
        Across::Step => ("step", "step"),
        Across::Tokens => ("tokens", "training tokens"),
        Across::Time => ("time_s", "seconds of training"),
    };
    let lines = |key: &str, width: f64| -> Vec<Line> {
        let line = |(i, run): (usize, &Run)| Line {
            points: run.series(key, x),
            style: style(i, width),
        };
        runs.iter().enumerate().map(line).collect()
    };
    let (loss_title, losses) = loss(lines("train/loss", 1.5), lines("eval/loss", 2.6));
    let (memory_title, memory) = memory(lines("mem/bytes", 1.8));
    // The same in all panels. A run starts at nothing, whatever its first line says.
    let points = losses.iter().flat_map(|line| &line.points);
    let range = vec![0.0, points.fold(1.0, |most, point| point.0.max(most))];
    let panel = |title: &str, lines: Vec<Line>| Panel {
        title: title.to_owned(),
        caption: caption.to_owned(),
        lines,
        reach: [range.clone(), vec![0.0]],
        ..Panel::default()
    };
    let loss = Panel {
        scale: Scale::Either,
        reach: [range.clone(), Vec::new()],
        ..panel(loss_title, losses)
    };
    let line = |title: &str, key: &str| panel(title, lines(key, 1.8));
    let rate = line("Learning rate", "train/lr");
    let norm = Panel {
        scale: Scale::Either,
        ..line("Gradient norm", "train/grad_norm")
    };
    let speed = line("Speed (tokens a second)", "train/tok_per_sec");
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let entry = |(i, run): (usize, &Run)| (run.name.clone(), style(i, 3.0));
    Chart {
        title: format!("Training of {}", names.join(", ")),
        width: 1080.0,
        legend: runs.iter().enumerate().map(entry).collect(),
        rows: vec![
            (280.0, vec![loss]),
            (150.0, vec![rate, norm]),
            (150.0, vec![speed, panel(memory_title, memory)]),
        ],
        notes: Vec::new(),
    }
    .svg()
}

/// The colour and dashes of run `i`.
pub(crate) fn style(i: usize, width: f64) -> Style {
    Style {
        dashes: DASHES[i / COLOURS.len() % DASHES.len()],
        ..Style::solid(COLOURS[i % COLOURS.len()], width)
    }
}

/// Training losses thin and pale, validation losses above them, strong and with dots.
fn loss(mut train: Vec<Line>, mut valid: Vec<Line>) -> (&'static str, Vec<Line>) {
    if valid.iter().all(|line| line.points.is_empty()) {
        return ("Training loss (nats a token)", train);
    }
    for (train, valid) in train.iter_mut().zip(&mut valid) {
        train.style.opacity = 0.55;
        valid.style.mark = Some(Mark::Circle);
    }
    train.extend(valid);
    let title = "Loss (nats a token): training thin, validation with dots";
    (title, train)
}

/// Bytes in a unit in which they are numbers of a few digits.
fn memory(mut lines: Vec<Line>) -> (&'static str, Vec<Line>) {
    // 0 is what a system says that does not tell.
    for line in &mut lines {
        line.points.retain(|(_, bytes)| *bytes > 0.0);
    }
    let bytes = lines.iter().flat_map(|line| &line.points);
    let (title, unit) = match bytes.fold(0.0, |most, point| point.1.max(most)) {
        1e9.. => ("Memory (GB)", 1e9),
        _ => ("Memory (MB)", 1e6),
    };
    for point in lines.iter_mut().flat_map(|line| &mut line.points) {
        point.1 /= unit;
    }
    (title, lines)
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
        let styles: Vec<_> = (0..9).map(|i| style(i, 1.0)).collect();
        for (i, a) in styles.iter().enumerate() {
            for b in &styles[..i] {
                assert!(a.colour != b.colour || a.dashes != b.dashes);
            }
        }
        let svg = figure(&runs, Across::Step);
        let names = svg.lines().filter(|line| line.contains(">a-run-of"));
        let at = |line: &str, axis: &str| -> f64 {
            let rest = line.split_once(&format!(" {axis}=\"")).unwrap().1;
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let places: Vec<_> = names.map(|line| [at(line, "x"), at(line, "y")]).collect();
        assert_eq!(places.len(), 9);
        assert!(places.iter().any(|place| place[1] > places[0][1]));
        assert!(places.iter().all(|place| place[0] < 1080.0 - 200.0 + 36.0));
    }
}
