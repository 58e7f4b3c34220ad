//! A picture in pixels: the same SVG, drawn with a font that comes along, on white.

use crate::PlotError;
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// DejaVu Sans, cut down to what labels need; its licence lies beside it.
const FONTS: [&[u8]; 2] = [
    include_bytes!("../font/DejaVuSans.ttf"),
    include_bytes!("../font/DejaVuSans-Bold.ttf"),
];

/// Draws `svg` on white, `scale` pixels for each of its units, as the bytes of a PNG file.
///
/// # Errors
/// If `svg` is not one, or the picture would not fit into memory.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
    let raster = |what: &dyn std::fmt::Display| PlotError::Raster(what.to_string());
    // Fonts of our own only: the same picture everywhere, also where none is installed.
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    for font in FONTS {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family("DejaVu Sans");
    let tree = Tree::from_str(svg, &options).map_err(|error| raster(&error))?;
    let size = tree.size().to_int_size().scale_by(scale);
    let size = size.ok_or_else(|| raster(&"it has no size"))?;
    let pixels = Pixmap::new(size.width(), size.height());
    let mut pixels = pixels.ok_or_else(|| raster(&"it is too large"))?;
    pixels.fill(Color::WHITE);
    let scaled = Transform::from_scale(scale, scale);
    resvg::render(&tree, scaled, &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| raster(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::Svg;

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
            let mut svg = Svg::default();
            svg.text([10.0, 25.0], "start", "name", words);
            png(&svg.finish(200.0, 40.0, "words"), 2.0).unwrap()
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
