//! One panel: axes, ticks, and lines over a common x axis.

use crate::axis::Axis;
use crate::svg::{Anchor, Stroke, Svg};

/// Of words and axes: legible on a white page and on a dark one.
pub const TEXT: &str = "#72787f";

/// Values whose greatest is this many times their median are shown by their logarithm.
const WIDE: f64 = 20.0;
/// Points a line has at most: more than a picture can show only make it large.
const POINTS: usize = 1200;

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// x and y, by ascending x. What is not finite is a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub stroke: Stroke<'a>,
    /// Dots at the points.
    pub dots: bool,
}

/// Where a panel stands: left, top, width, height of the area of its lines.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Pixels from the left.
    pub left: f64,
    /// Pixels from the top.
    pub top: f64,
    /// Pixels across.
    pub width: f64,
    /// Pixels down.
    pub height: f64,
}

/// One panel.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    /// What is shown, with its unit.
    pub title: &'a str,
    /// Where.
    pub area: Area,
    /// Whether the y axis starts at 0.
    pub zero: bool,
    /// Whether the y axis may be logarithmic, where values differ by much.
    pub may_log: bool,
    /// The lines, later ones above earlier ones.
    pub lines: Vec<Line<'a>>,
    /// What the x axis shows; empty writes nothing.
    pub across: &'a str,
    /// Least and greatest x, the same for panels that stand above each other.
    pub range: [f64; 2],
}

impl Panel<'_> {
    /// Draws it.
    pub fn draw(&self, svg: &mut Svg) {
        let Area {
            left,
            top,
            width,
            height,
        } = self.area;
        let bottom = top + height;
        let ends = [left, left + width];
        let across = Axis::linear(self.range.into_iter(), ends, false, false);
        let (up, scale) = self.up();
        let title = format!("{}{scale}", self.title);
        svg.text(left, top - 14.0, Anchor::Start, TEXT, "name", &title);
        for (value, label) in &up.ticks {
            let y = up.at(*value);
            svg.line([left, y], [left + width, y], TEXT, "grid");
            svg.text(left - 8.0, y + 4.5, Anchor::End, TEXT, "small", label);
        }
        for (value, label) in &across.ticks {
            let x = across.at(*value);
            svg.line([x, bottom], [x, bottom + 5.0], TEXT, "axis");
            svg.text(x, bottom + 20.0, Anchor::Middle, TEXT, "small", label);
        }
        svg.line([left, bottom], [left + width, bottom], TEXT, "axis");
        let (x, y) = (left + width / 2.0, bottom + 38.0);
        svg.text(x, y, Anchor::Middle, TEXT, "small", self.across);
        let mut empty = true;
        for line in &self.lines {
            for piece in pieces(&line.points, |y| y.is_finite() && (!up.is_log() || y > 0.0)) {
                empty = false;
                draw(svg, line, piece, |(x, y)| [across.at(x), up.at(y)]);
            }
        }
        if empty {
            let (x, y) = (left + width / 2.0, top + height / 2.0);
            svg.text(x, y, Anchor::Middle, TEXT, "note", "not measured");
        }
    }

    /// The y axis, and a word about it for the title.
    fn up(&self) -> (Axis, &'static str) {
        let Area { top, height, .. } = self.area;
        let values = self.lines.iter().flat_map(|line| &line.points);
        let mut values: Vec<f64> = values.map(|(_, y)| *y).filter(|y| y.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let above: Vec<f64> = values.iter().copied().filter(|y| *y > 0.0).collect();
        let median = above.get(above.len() / 2).copied().unwrap_or(1.0);
        let wide = above.last().is_some_and(|most| *most > WIDE * median);
        let ends = [top + height, top];
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

fn draw(
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
