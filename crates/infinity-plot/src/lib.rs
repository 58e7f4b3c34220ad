//! Training runs and benchmarks as pictures, SVG and PNG. Does not depend on Burn.
//!
//! ```
//! use infinity_plot::{Across, Run, figure};
//!
//! let run = Run::parse("first", "{\"step\":1,\"train/loss\":4.0}\n{\"step\":2,\"train/loss\":3.0}\n");
//! let svg = figure(&[run], Across::Step);
//! assert!(svg.contains("<polyline"));
//! ```
//!
//! [`Run`] reads a run's `metrics.jsonl`; [`figure()`] draws runs in one picture, [`curves()`] lines over lengths.
//! Both are a [`Chart`], as any other picture can be. With the feature `png`, `png` draws one in pixels.

#![forbid(unsafe_code)]

mod axis;
mod chart;
mod curves;
mod figure;
#[cfg(feature = "png")]
mod pixels;
mod runs;
mod svg;

pub use axis::grouped;
pub use chart::{Chart, Line, Mark, Panel, Scale, Style};
pub use curves::{Curve, curves};
pub use figure::{Across, figure};
#[cfg(feature = "png")]
pub use pixels::png;
pub use runs::{PlotError, Run};
pub use svg::TEXT;
