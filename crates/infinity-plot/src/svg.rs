//! As much of SVG as a plot needs. Positions are in pixels from the top left.

use std::fmt::Write;

#[cfg(feature = "png")]
pub use pixels::png;

/// The look of every class. No colours: the page may be light or dark.
const STYLE: &str = "\
text{font-family:-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:15px}\
.title{font-size:17px;font-weight:600}.name{font-size:16px;font-weight:600}.note{font-size:14px}\
.small{font-size:13px}.grid{stroke-width:1;opacity:.28}.axis{stroke-width:1.5}";

/// Which end of a text stands at its position.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Stroke<'a> {
    /// Colour, `#rrggbb`.
    pub colour: &'a str,
    /// Width in pixels.
    pub width: f64,
    /// From 0, not to be seen, to 1.
    pub opacity: f64,
    /// Lengths of dashes and gaps in pixels; empty is a line without gaps.
    pub dashes: &'a str,
}

impl<'a> Stroke<'a> {
    /// A line without gaps.
    pub fn solid(colour: &'a str, width: f64) -> Self {
        Stroke {
            colour,
            width,
            opacity: 1.0,
            dashes: "",
        }
    }
}

/// A picture in the making.
pub struct Svg {
    text: String,
}

impl Svg {
    /// An empty picture; `title` is for those who cannot see it.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escaped(title);
        Svg {
            text: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
                 width=\"{width}\" height=\"{height}\" role=\"img\">\n\
                 <title>{title}</title>\n<style>{STYLE}</style>\n"
            ),
        }
    }

    /// A straight line of a class of `STYLE`: `grid` or `axis`.
    pub fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], colour: &str, class: &str) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{colour}\"/>"
        ));
    }

    /// A line through `points`.
    pub fn polyline(&mut self, points: &[[f64; 2]], stroke: &Stroke<'_>) {
        let Stroke {
            colour,
            width,
            opacity,
            dashes,
        } = stroke;
        let points: Vec<String> = points
            .iter()
            .map(|[x, y]| format!("{x:.1},{y:.1}"))
            .collect();
        let mut more = String::new();
        if *opacity < 1.0 {
            more = format!(" stroke-opacity=\"{opacity}\"");
        }
        if !dashes.is_empty() {
            more = format!("{more} stroke-dasharray=\"{dashes}\"");
        }
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"{more}/>",
            points.join(" ")
        ));
    }

    /// A diamond of 12 pixels around a point.
    pub fn diamond(&mut self, [x, y]: [f64; 2], colour: &str) {
        let corners = [[x, y - 6.0], [x + 6.0, y], [x, y + 6.0], [x - 6.0, y]];
        let corners = corners.map(|[x, y]| format!("{x:.1},{y:.1}")).join(" ");
        self.push(format_args!(
            "<polygon points=\"{corners}\" fill=\"{colour}\"/>"
        ));
    }

    /// A dot of radius `r`.
    pub fn circle(&mut self, [x, y]: [f64; 2], r: f64, colour: &str) {
        self.push(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" fill=\"{colour}\"/>"
        ));
    }

    /// A square of 9 pixels around a point.
    pub fn square(&mut self, [x, y]: [f64; 2], colour: &str) {
        let (x, y) = (x - 4.5, y - 4.5);
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>"
        ));
    }

    /// Words of a class of `STYLE` (`title`, `name`, `note`, `small`, or another for plain ones).
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, colour: &str, class: &str, words: &str) {
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
    pub fn finish(mut self) -> String {
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

/// A picture in pixels: the same SVG, drawn with a font that comes along, on white.
#[cfg(feature = "png")]
mod pixels {
    use crate::PlotError;
    use resvg::tiny_skia::{Color, Pixmap, Transform};
    use resvg::usvg::{Options, Tree, fontdb};
    use std::sync::Arc;

    /// DejaVu Sans, cut down to what labels need; its licence lies beside it.
    const FONTS: [&[u8]; 2] = [
        include_bytes!("../font/DejaVuSans.ttf"),
        include_bytes!("../font/DejaVuSans-Bold.ttf"),
    ];
    const FAMILY: &str = "DejaVu Sans";

    /// Draws `svg` on white, `scale` pixels for each of its units, as the bytes of a PNG file.
    ///
    /// # Errors
    /// If `svg` is not one, or the picture would not fit into memory.
    pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
        let raster = |what: &dyn std::fmt::Display| PlotError::Raster(what.to_string());
        let tree = Tree::from_str(svg, &options()).map_err(|error| raster(&error))?;
        let size = tree.size().to_int_size().scale_by(scale);
        let size = size.ok_or_else(|| raster(&"it has no size"))?;
        let pixels = Pixmap::new(size.width(), size.height());
        let mut pixels = pixels.ok_or_else(|| raster(&"it is too large"))?;
        pixels.fill(Color::WHITE);
        resvg::render(
            &tree,
            Transform::from_scale(scale, scale),
            &mut pixels.as_mut(),
        );
        pixels.encode_png().map_err(|error| raster(&error))
    }

    /// Fonts of our own only: the same picture everywhere, also where none is installed.
    fn options() -> Options<'static> {
        let mut fonts = fontdb::Database::new();
        for font in FONTS {
            fonts.load_font_data(font.to_vec());
        }
        fonts.set_sans_serif_family(FAMILY);
        Options {
            font_family: FAMILY.to_owned(),
            fontdb: Arc::new(fonts),
            ..Options::default()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::svg::{Anchor, Svg};

        /// The share of pixels that are not white.
        fn inked(png: &[u8]) -> f64 {
            let pixels = Pixmap::decode_png(png).unwrap();
            let all = pixels.pixels();
            let dark = all.iter().filter(|pixel| pixel.red() < 200).count();
            dark as f64 / all.len() as f64
        }

        #[test]
        fn letters_leave_ink_without_installed_fonts() {
            let picture = |words: &str| {
                let mut svg = Svg::new(200.0, 40.0, "words");
                svg.text(10.0, 25.0, Anchor::Start, "#000000", "name", words);
                png(&svg.finish(), 2.0).unwrap()
            };
            let (words, none) = (picture("train 0.5 µs"), picture(""));
            assert_eq!(inked(&none), 0.0);
            assert!(inked(&words) > 0.02, "{}", inked(&words));
            let size = Pixmap::decode_png(&words).unwrap();
            assert_eq!((size.width(), size.height()), (400, 80));
        }

        #[test]
        fn what_is_no_picture_is_an_error() {
            assert!(matches!(png("<svg", 1.0), Err(PlotError::Raster(_))));
        }
    }
}
