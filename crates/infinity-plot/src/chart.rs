//! Panels of lines below a legend: what every picture is made of.

use crate::axis::Axis;
use crate::svg::Svg;

/// Where panels begin from the left, and the room beside and between them, in pixels.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 30.0;
const BETWEEN: f64 = 114.0;
/// Between the bottom of a panel's area and the top of the next one's.
const GAP: f64 = 92.0;
/// Pixels that a letter of the legend takes, about, so that entries do not run into each other.
const LETTER: f64 = 10.5;
/// Points a line has at most: more than a picture can show only make it large.
const POINTS: usize = 1200;
/// Points up to which a line's marks do not run into each other.
const MARKS: usize = 100;
/// Values whose greatest is this many times their median are wide apart.
const WIDE: f64 = 20.0;

/// A picture: a legend, rows of panels below it, notes at the end.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is shown, for those who cannot see it.
    pub title: String,
    /// Width in pixels.
    pub width: f64,
    /// Names of lines.
    pub legend: Vec<(String, Style)>,
    /// Panels beside each other, with the height of their areas in pixels.
    pub rows: Vec<(f64, Vec<Panel>)>,
    /// Lines of text below the panels.
    pub notes: Vec<String>,
}

/// A pair of axes and what is drawn in it.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    /// What is shown, with its unit.
    pub title: String,
    /// What the axis across shows.
    pub caption: String,
    /// The lines, later ones above earlier ones.
    pub lines: Vec<Line>,
    /// Whether the axis across is logarithmic, with a tick at every x that was measured.
    pub lengths: bool,
    /// The axis up the page.
    pub scale: Scale,
    /// Values that the axes across and up the page reach besides those of the lines.
    pub reach: [Vec<f64>; 2],
    /// y above which points are drawn at the upper edge, that they do not press the others flat.
    pub cut: Option<f64>,
    /// A y to be marked, and words for it.
    pub limit: Option<(f64, String)>,
}

/// How values are spread over the axis up the page.
#[derive(Clone, Copy, Debug, Default)]
pub enum Scale {
    /// Equal differences are equally far apart.
    #[default]
    Linear,
    /// Equal ratios are; what is not above 0 is left out.
    Logarithmic,
    /// Logarithmic where values are wide apart, which the title then says, else linear.
    Either,
}

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line {
    /// x and y, by ascending x. A y that is not finite is a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Colour, `#rrggbb`.
    pub colour: &'static str,
    /// Width in pixels.
    pub width: f64,
    /// From 0, not to be seen, to 1.
    pub opacity: f64,
    /// Lengths of dashes and gaps in pixels, or `none`.
    pub dashes: &'static str,
    /// What stands at its points.
    pub mark: Option<Mark>,
}

/// The shape of a mark. All are of about one size.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// A dot.
    Circle,
    /// A square on its side.
    Square,
    /// A square on its corner.
    Diamond,
}

impl Chart {
    /// The picture as the text of an SVG file.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let (mut left, mut y) = (LEFT, 30.0);
        for (name, style) in &self.legend {
            let width = 60.0 + LETTER * name.chars().count() as f64;
            if left + width > self.width && left > LEFT {
                (left, y) = (LEFT, y + 24.0);
            }
            style.line(&mut svg, &[[left, y], [left + 28.0, y]]);
            style.mark(&mut svg, [left + 14.0, y]);
            svg.text([left + 36.0, y + 5.0], "start", "name", name);
            left += width;
        }
        let mut bottom = y - 32.0;
        for (height, panels) in &self.rows {
            let columns = panels.len() as f64;
            let room = self.width - LEFT - RIGHT - BETWEEN * (columns - 1.0);
            for (i, panel) in panels.iter().enumerate() {
                let area = Area {
                    left: LEFT + i as f64 * (room / columns + BETWEEN),
                    top: bottom + GAP,
                    width: room / columns,
                    height: *height,
                };
                panel.draw(&mut svg, &area);
            }
            bottom += GAP + height;
        }
        bottom += 54.0;
        for note in &self.notes {
            svg.text([LEFT, bottom + 12.0], "start", "note", note);
            bottom += 20.0;
        }
        svg.finish(self.width, bottom, &self.title)
    }
}

struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Panel {
    fn draw(&self, svg: &mut Svg, area: &Area) {
        let (across, up) = self.axes(area);
        let title = match self.scale {
            Scale::Either if up.log => format!("{}, logarithmic", self.title),
            _ => self.title.clone(),
        };
        let (right, bottom) = (area.left + area.width, area.top + area.height);
        let x = |value| area.left + area.width * across.part(value);
        let y = |value: f64| bottom - area.height * up.part(value.clamp(up.low, up.high));
        for (value, label) in &up.ticks {
            let y = y(*value);
            svg.line([area.left, y], [right, y], "grid");
            svg.text([area.left - 8.0, y + 4.5], "end", "small", label);
        }
        for (value, label) in &across.ticks {
            let x = x(*value);
            svg.line([x, bottom], [x, bottom + 5.0], "axis");
            svg.text([x, bottom + 20.0], "middle", "small", label);
        }
        svg.line([area.left, bottom], [right, bottom], "axis");
        svg.text([area.left, area.top - 14.0], "start", "name", &title);
        let middle = (area.left + right) / 2.0;
        svg.text([middle, bottom + 38.0], "middle", "small", &self.caption);
        if let Some((limit, words)) = &self.limit {
            let y = y(*limit);
            svg.line([area.left, y], [right, y], "axis");
            svg.text([area.left + 6.0, y - 7.0], "start", "note", words);
        }
        let mut empty = true;
        let gap = |(_, y): &(f64, f64)| !y.is_finite() || up.log && *y <= 0.0;
        for line in &self.lines {
            let pieces = line.points.split(gap).filter(|piece| !piece.is_empty());
            for piece in pieces {
                empty = false;
                let places = thinned(piece).into_iter().map(|at| [x(at.0), y(at.1)]);
                line.style.draw(svg, &places.collect::<Vec<_>>());
            }
        }
        if empty {
            let middle = [middle, area.top + area.height / 2.0];
            svg.text(middle, "middle", "note", "not measured");
        }
    }

    /// The axes across and up the page.
    fn axes(&self, area: &Area) -> (Axis, Axis) {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let (mut xs, mut ys): (Vec<f64>, Vec<f64>) = points.copied().unzip();
        xs.extend(&self.reach[0]);
        ys.extend(&self.reach[1]);
        let across = match self.lengths {
            true => Axis::lengths(xs, area.width),
            false => Axis::linear(&xs, area.width, false),
        };
        let cut = self.cut.unwrap_or(f64::INFINITY);
        ys.retain(|y| y.is_finite());
        ys.iter_mut().for_each(|y| *y = y.min(cut));
        let up = match self.scale {
            Scale::Logarithmic => Axis::logarithmic(&ys),
            Scale::Either if wide_apart(&ys) => Axis::logarithmic(&ys),
            _ => Axis::linear(&ys, area.height, true),
        };
        (across, up)
    }
}

fn wide_apart(values: &[f64]) -> bool {
    let mut above = values.to_vec();
    above.retain(|value| *value > 0.0);
    above.sort_by(f64::total_cmp);
    let most = above.last();
    most.is_some_and(|most| *most > WIDE * above[above.len() / 2])
}

impl Style {
    /// A line without gaps and marks.
    pub fn solid(colour: &'static str, width: f64) -> Self {
        Style {
            colour,
            width,
            opacity: 1.0,
            dashes: "none",
            mark: None,
        }
    }

    /// A line through `places` with its marks.
    fn draw(&self, svg: &mut Svg, places: &[[f64; 2]]) {
        if let ([[x, y]], None) = (places, self.mark) {
            return circle(svg, [*x, *y], self.width, self.colour);
        }
        self.line(svg, places);
        if places.len() <= MARKS {
            places.iter().for_each(|place| self.mark(svg, *place));
        }
    }

    fn line(&self, svg: &mut Svg, places: &[[f64; 2]]) {
        let places = places.iter().map(|[x, y]| format!("{x:.1},{y:.1}"));
        let places = places.collect::<Vec<_>>().join(" ");
        let Style {
            colour,
            width,
            opacity,
            dashes,
            ..
        } = self;
        svg.push(format_args!(
            "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\" stroke-opacity=\"{opacity}\" stroke-dasharray=\"{dashes}\"/>"
        ));
    }

    fn mark(&self, svg: &mut Svg, [x, y]: [f64; 2]) {
        let colour = self.colour;
        let ([x, y], way) = match self.mark {
            None => return,
            Some(Mark::Circle) => return circle(svg, [x, y], 4.0, colour),
            Some(Mark::Square) => ([x - 4.0, y - 4.0], "h8v8h-8"),
            Some(Mark::Diamond) => ([x, y - 5.5], "l5.5,5.5l-5.5,5.5l-5.5,-5.5"),
        };
        svg.push(format_args!(
            "<path d=\"M{x:.1},{y:.1}{way}z\" fill=\"{colour}\"/>"
        ));
    }
}

fn circle(svg: &mut Svg, [x, y]: [f64; 2], r: f64, colour: &str) {
    svg.push(format_args!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" fill=\"{colour}\"/>"
    ));
}

/// Of every stretch of a long line its lowest and its highest point, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = (2 * points.len()).div_ceil(POINTS);
    let ends = points.chunks(stretch).flat_map(|chunk| {
        let mut chunk = chunk.to_vec();
        chunk.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut ends = [chunk[0], chunk[chunk.len() - 1]];
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> String {
        let style = Style::solid("#0072b2", 2.0);
        let panel = Panel {
            title: "norm".to_owned(),
            caption: "step".to_owned(),
            lines: vec![Line { points, style }],
            scale: Scale::Either,
            reach: [vec![0.0, 100.0], vec![0.0]],
            ..Panel::default()
        };
        Chart {
            title: "a panel".to_owned(),
            width: 300.0,
            legend: Vec::new(),
            rows: vec![(120.0, vec![panel])],
            notes: Vec::new(),
        }
        .svg()
    }

    #[test]
    fn a_gap_parts_a_line() {
        let whole = chart(vec![(0.0, 1.0), (50.0, 2.0), (100.0, 1.5)]);
        assert_eq!(whole.matches("<polyline").count(), 1);
        let points = vec![
            (0.0, 1.0),
            (25.0, 1.0),
            (50.0, f64::NAN),
            (75.0, 1.0),
            (100.0, 1.0),
        ];
        assert_eq!(chart(points).matches("<polyline").count(), 2);
        assert!(chart(Vec::new()).contains("not measured"));
    }

    #[test]
    fn one_spike_makes_the_axis_logarithmic_and_says_so() {
        let calm: Vec<(f64, f64)> = (0..100).map(|i| (i as f64, 1.0)).collect();
        assert!(!chart(calm.clone()).contains("logarithmic"));
        let mut spiked = calm;
        spiked[50].1 = 900.0;
        assert!(chart(spiked).contains("logarithmic"));
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
