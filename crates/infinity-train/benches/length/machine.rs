//! What the measurements were taken on, as fields of the bench's file.

use infinity_kernels::machine;
use serde::Serialize;

pub(crate) use machine::{Machine, available_bytes, date};

/// [`Machine`], which knows nothing of files.
#[derive(Serialize)]
#[serde(remote = "machine::Machine")]
pub(crate) struct Fields {
    cpu: String,
    cores: usize,
    memory_bytes: Option<u64>,
    load_average: Option<f64>,
    system: String,
}
