//! What can go wrong between a run directory and a picture.

use std::io;
use std::path::PathBuf;

/// An error of reading metrics or drawing them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to read.
    #[error(
        "there is no {file} in {directory}: it is no run directory, or its run had `logging.jsonl = false`"
    )]
    NoMetrics {
        /// The directory that was named.
        directory: PathBuf,
        /// The file that is missing in it.
        file: &'static str,
    },
    /// Nothing was logged.
    #[error("{path} has no complete line: the run has logged nothing yet")]
    Empty {
        /// The metrics file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The metrics file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The picture cannot be turned into pixels.
    #[error("cannot draw the picture: {0}")]
    Raster(String),
}
