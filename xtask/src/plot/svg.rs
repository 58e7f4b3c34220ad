//! As much of SVG as a plot needs. Positions are in pixels from the top left.

use std::fmt::Write;

/// The look of every class. No colours: the page may be light or dark.
const STYLE: &str = "\
text{font-family:-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:15px}\
.title{font-size:17px;font-weight:600}.name{font-size:16px;font-weight:600}.note{font-size:14px}\
.grid{stroke-width:1;opacity:.28}.axis{stroke-width:1.5}";

/// Which end of a text stands at its position.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture in the making.
pub(super) struct Svg {
    text: String,
}

impl Svg {
    /// An empty picture; `title` is for those who cannot see it.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escaped(title);
        Svg {
            text: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
                 width=\"{width}\" height=\"{height}\" role=\"img\">\n\
                 <title>{title}</title>\n<style>{STYLE}</style>\n"
            ),
        }
    }

    pub(super) fn line(
        &mut self,
        [x1, y1]: [f64; 2],
        [x2, y2]: [f64; 2],
        colour: &str,
        class: &str,
    ) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{colour}\"/>"
        ));
    }

    pub(super) fn polyline(&mut self, points: &[[f64; 2]], colour: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|[x, y]| format!("{x:.1},{y:.1}"))
            .collect();
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            points.join(" ")
        ));
    }

    pub(super) fn diamond(&mut self, [x, y]: [f64; 2], colour: &str) {
        let corners = [[x, y - 6.0], [x + 6.0, y], [x, y + 6.0], [x - 6.0, y]];
        let corners = corners.map(|[x, y]| format!("{x:.1},{y:.1}")).join(" ");
        self.push(format_args!(
            "<polygon points=\"{corners}\" fill=\"{colour}\"/>"
        ));
    }

    pub(super) fn circle(&mut self, [x, y]: [f64; 2], colour: &str) {
        self.push(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>"
        ));
    }

    pub(super) fn square(&mut self, [x, y]: [f64; 2], colour: &str) {
        let (x, y) = (x - 4.5, y - 4.5);
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>"
        ));
    }

    pub(super) fn text(
        &mut self,
        x: f64,
        y: f64,
        anchor: Anchor,
        colour: &str,
        class: &str,
        words: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
             fill=\"{colour}\">{}</text>",
            escaped(words)
        ));
    }

    /// The picture as the text of a file.
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{element}").expect("a string takes everything");
    }
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
