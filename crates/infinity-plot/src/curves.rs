//! Lines over lengths: one panel, a logarithmic axis across, a legend.

use crate::axis::{Area, Axis, TEXT};
use crate::figure::stroke;
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
    let area = Area {
        left: LEFT,
        top,
        width: WIDTH - 40.0 - LEFT,
        height: HEIGHT,
    };
    let mut svg = Svg::new(WIDTH, area.bottom() + 60.0, title);
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
        area.empty(&mut svg);
        return svg.finish();
    }
    let x_axis = Axis::lengths(all().map(|point| point.0), LEFT, area.right());
    let ends = [area.bottom(), top];
    let y_axis = Axis::linear(all().map(|point| point.1), ends, zero, true);
    area.frame(&mut svg, "", [&x_axis, &y_axis], across);
    for (i, (curve, points)) in curves.iter().zip(&lines).enumerate() {
        let (y, stroke) = (54.0 + ROW * i as f64, stroke(i, 2.4));
        svg.polyline(&[[LEFT, y], [LEFT + 28.0, y]], &stroke);
        let (x, y) = (LEFT + 36.0, y + 5.0);
        svg.text(x, y, Anchor::Start, TEXT, "small", &curve.name);
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
