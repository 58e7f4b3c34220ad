//! Plots of training runs and benchmarks, as SVG and PNG. Knows no Burn.
//!
//! - [`svg`]: as much of SVG as a plot needs; [`axis`]: where a value stands, and the ticks.
//! - [`chart`]: one panel of lines; [`curves`](mod@curves): lines over lengths. [`runs`]: a run's `metrics.jsonl`. [`figure`]: runs in one
//!   picture.
//! - [`png`] (feature `png`): any of these pictures in pixels, with a font of its own.

pub mod axis;
pub mod chart;
pub mod curves;
mod error;
pub mod figure;
#[cfg(feature = "png")]
pub mod png;
pub mod runs;
pub mod svg;

pub use curves::{Curve, curves};
pub use error::PlotError;
pub use figure::{Across, figure};
pub use runs::Run;
