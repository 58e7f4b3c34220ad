//! As much of SVG as a chart needs. Positions are in pixels from the top left.

use std::fmt::{Arguments, Write};

/// The colour of words and axes: legible on a white page and on a dark one.
pub const TEXT: &str = "#72787f";

/// The look of every class.
const STYLE: &str = "\
text{font-family:-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
.name{font-size:16px;font-weight:600}.note{font-size:14px}.small{font-size:13px}\
.grid{stroke-width:1;opacity:.28}.axis{stroke-width:1.5}";

/// The elements of a picture.
#[derive(Default)]
pub(crate) struct Svg(String);

impl Svg {
    /// A straight line of a class of `STYLE`: `grid` or `axis`.
    pub(crate) fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{TEXT}\"/>"
        ));
    }

    /// Words of a class of `STYLE` (`name`, `note` or `small`), with their `start`, `middle` or `end` at a point.
    pub(crate) fn text(&mut self, [x, y]: [f64; 2], anchor: &str, class: &str, words: &str) {
        let words = escaped(words);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
             fill=\"{TEXT}\">{words}</text>"
        ));
    }

    /// Any element.
    pub(crate) fn push(&mut self, element: Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a string takes everything");
    }

    /// The text of a file; `title` is for those who cannot see it.
    pub(crate) fn finish(self, width: f64, height: f64, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n{}</svg>\n",
            escaped(title),
            self.0
        )
    }
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
