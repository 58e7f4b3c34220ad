//! The measurements as text.

use crate::Series;
use crate::case::{Measured, Way};
use crate::flags::Flags;
use infinity_model::count::ParameterCount;
use infinity_train::step::default_segment;
use std::fmt::Write;

/// `blocks` needs at least this much less activation memory than `none` …
const MEMORY: f64 = 4.0;
/// … in at most this much of its time.
const TIME: f64 = 1.4;
/// What a million tokens may take.
const LONG_BYTES: u64 = 2_000_000_000;

/// What is measured, on what.
pub(crate) fn heading(flags: &Flags) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{cores} cores, load {}; {} layers, D {}, H {}, vocabulary {}, {} parameters; {} rows × {} tokens",
        load.split(' ').next().unwrap_or("unknown"),
        flags.layers,
        flags.hidden,
        flags.heads,
        flags.vocab,
        ParameterCount::of(&flags.model()).total(),
        flags.rows,
        flags.length,
    )
}

/// One way in the units of the table.
struct Row {
    way: Way,
    resting_mb: f64,
    /// What a step needs beyond the resting model.
    activations_mb: f64,
    step_s: f64,
    cpu_s: f64,
}

impl Row {
    fn of(series: &Series) -> Self {
        let fastest = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let Measured {
            resting_bytes,
            peak_bytes,
            ..
        } = series.memory;
        Row {
            way: series.way,
            resting_mb: resting_bytes as f64 / 1e6,
            activations_mb: peak_bytes.saturating_sub(resting_bytes) as f64 / 1e6,
            step_s: fastest(&series.step_s),
            cpu_s: fastest(&series.cpu_s),
        }
    }
}

/// Memory beyond the resting model, and the fastest step. On a machine that does other things too,
/// processor time is the better measure.
pub(crate) fn ways(flags: &Flags, series: &[Series]) -> String {
    let rows: Vec<Row> = series.iter().map(Row::of).collect();
    let none = &rows[0];
    let mut out = format!(
        "\nfastest of {} steps\n  way       resting MB  activations MB  less by      step s   times       cpu s   times\n",
        flags.rounds * flags.steps
    );
    for row in &rows {
        let _ = writeln!(
            out,
            "  {:<8}  {:>10.1}  {:>14.1}  {:>7.2}  {:>10.3}  {:>6.3}  {:>10.2}  {:>6.3}",
            row.way,
            row.resting_mb,
            row.activations_mb,
            none.activations_mb / row.activations_mb,
            row.step_s,
            row.step_s / none.step_s,
            row.cpu_s,
            row.cpu_s / none.cpu_s,
        );
    }
    for row in rows.iter().filter(|row| row.way == Way::Blocks) {
        let less = none.activations_mb / row.activations_mb;
        let times = row.step_s / none.step_s;
        let (memory, time) = (verdict(less >= MEMORY), verdict(times <= TIME));
        let _ = write!(
            out,
            "limits: blocks, memory less by {less:.2}, at least {MEMORY}: {memory}; \
             time {times:.3}, at most {TIME}: {time}"
        );
    }
    out
}

/// One step through a long window.
pub(crate) fn long(flags: &Flags, length: usize, measured: &Measured) -> String {
    let seconds: f64 = measured.step_s.iter().sum();
    let line = format!(
        "segments of {}: {length} tokens through {} layers, D {}: peak {:.3} GB (resting {:.3}), {seconds:.1} s",
        default_segment(length),
        flags.long_layers,
        flags.long_hidden,
        measured.peak_bytes as f64 / 1e9,
        measured.resting_bytes as f64 / 1e9,
    );
    match length == flags.long {
        true => {
            let met = verdict(measured.peak_bytes <= LONG_BYTES);
            format!(
                "{line}\nlimits: at most {} GB: {met}",
                LONG_BYTES / 1_000_000_000
            )
        }
        false => line,
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "NOT MET" }
}
