//! Lines over lengths: one panel, a logarithmic axis across, a legend.

use crate::chart::{Chart, Line, Mark, Panel, Style};
use crate::figure::style;

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
    let style = |i| Style {
        mark: Some(Mark::Circle),
        ..style(i, 2.4)
    };
    let (mut legend, mut lines) = (Vec::new(), Vec::new());
    for (i, Curve { name, points }) in curves.iter().enumerate() {
        let mut points = points.clone();
        points.retain(|(x, y)| *x > 0.0 && x.is_finite() && y.is_finite());
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let style = style(i);
        legend.push((name.clone(), style));
        lines.push(Line { points, style });
    }
    let panel = Panel {
        title: title.to_owned(),
        caption: across.to_owned(),
        lines,
        lengths: true,
        reach: [vec![], if zero { vec![0.0] } else { vec![] }],
        ..Panel::default()
    };
    let chart = Chart {
        title: title.to_owned(),
        width: 760.0,
        legend,
        rows: vec![(300.0, vec![panel])],
        notes: Vec::new(),
    };
    chart.svg()
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
        assert_eq!(
            heights.len(),
            6,
            "one in the legend and two points a curve: {svg}"
        );
        assert!(heights[2] < heights[4], "higher is nearer the top");
        assert!(curves("Loss", "x", false, &[]).contains("not measured"));
    }
}
