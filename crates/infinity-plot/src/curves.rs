//! Lines over lengths: one panel, a logarithmic axis across, a legend.

use crate::axis::Axis;
use crate::figure::{TEXT, stroke};
use crate::svg::{Anchor, Svg};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const ROW: f64 = 24.0;

/// A line with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What the legend says.
    pub name: String,
    /// x above 0, and y. What is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

/// Draws `curves` as an SVG picture: `title` above, `across` below; the axis up the page begins at 0 where
/// `zero`.
pub fn curves(title: &str, across: &str, zero: bool, curves: &[Curve]) -> String {
    let top = 70.0 + ROW * curves.len() as f64;
    let bottom = top + HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 60.0, title);
    svg.text(LEFT, 30.0, Anchor::Start, TEXT, "name", title);
    let shown = |curve: &Curve| -> Vec<(f64, f64)> {
        let finite = |(x, y): &(f64, f64)| *x > 0.0 && x.is_finite() && y.is_finite();
        let mut points: Vec<_> = curve.points.iter().copied().filter(finite).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let lines: Vec<_> = curves.iter().map(shown).collect();
    let all = || lines.iter().flatten();
    if all().next().is_none() {
        svg.text(
            WIDTH / 2.0,
            top + HEIGHT / 2.0,
            Anchor::Middle,
            TEXT,
            "note",
            "not measured",
        );
        return svg.finish();
    }
    let (left, right) = (LEFT, WIDTH - 40.0);
    let x_axis = Axis::lengths(all().map(|point| point.0), left, right);
    let y_axis = Axis::linear(all().map(|point| point.1), [bottom, top], zero, true);
    for (value, label) in &y_axis.ticks {
        let y = y_axis.at(*value);
        svg.line([left, y], [right, y], TEXT, "grid");
        svg.text(left - 8.0, y + 4.5, Anchor::End, TEXT, "small", label);
    }
    for (value, label) in &x_axis.ticks {
        let x = x_axis.at(*value);
        svg.line([x, bottom], [x, bottom + 5.0], TEXT, "axis");
        svg.text(x, bottom + 20.0, Anchor::Middle, TEXT, "small", label);
    }
    svg.line([left, bottom], [right, bottom], TEXT, "axis");
    svg.text(
        (left + right) / 2.0,
        bottom + 42.0,
        Anchor::Middle,
        TEXT,
        "small",
        across,
    );
    for (i, (curve, points)) in curves.iter().zip(&lines).enumerate() {
        let (y, stroke) = (54.0 + ROW * i as f64, stroke(i, 2.4));
        svg.polyline(&[[left, y], [left + 28.0, y]], &stroke);
        svg.text(
            left + 36.0,
            y + 5.0,
            Anchor::Start,
            TEXT,
            "small",
            &curve.name,
        );
        let places: Vec<[f64; 2]> = points
            .iter()
            .map(|(x, y)| [x_axis.at(*x), y_axis.at(*y)])
            .collect();
        svg.polyline(&places, &stroke);
        for at in places {
            svg.circle(at, 3.5, stroke.colour);
        }
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_drawn_and_named_and_the_better_one_is_higher() {
        let curve = |name: &str, y: f64| Curve {
            name: name.to_owned(),
            points: vec![(128.0, y), (32.0, y), (64.0, f64::NAN)],
        };
        let svg = curves(
            "Accuracy",
            "tokens back",
            true,
            &[curve("a", 1.0), curve("b", 0.25)],
        );
        for word in ["Accuracy", "tokens back", ">a<", ">b<", ">128<", ">32<"] {
            assert!(svg.contains(word), "{word} in {svg}");
        }
        let heights: Vec<f64> = svg
            .split("cy=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 4, "two points a curve: {svg}");
        assert!(heights[0] < heights[2], "higher is nearer the top");
        assert!(curves("Loss", "x", false, &[]).contains("not measured"));
    }
}
