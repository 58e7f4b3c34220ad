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
//! [`svg`] is as much of SVG as a plot needs and, with the feature `png`, draws it in pixels; [`axis`] maps values to
//! places. [`Run`] reads a run's `metrics.jsonl`; [`figure()`] draws runs in one picture,
//! [`curves()`] lines over lengths.

#![forbid(unsafe_code)]

pub mod axis;
mod curves;
mod figure;
mod runs;
pub mod svg;

pub use curves::{Curve, curves};
pub use figure::{Across, figure};
pub use runs::{PlotError, Run};
#[cfg(feature = "png")]
pub use svg::png;
