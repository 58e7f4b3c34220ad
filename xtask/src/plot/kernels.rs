//! `memory_scan` beside attention, of what `cargo xtask bench kernels` measured: one size, all lengths.

use super::measurements::{Measurements, Series, list, number, word};
use anyhow::{Context, ensure};
use serde_json::Value;

/// The native kernel.
pub(super) const FUSED: &str = "fused";
/// The form on tensors.
pub(super) const CHUNKWISE: &str = "chunkwise";

/// Width of keys and values, and states of `memory_scan`, that are drawn.
const WIDTH: f64 = 64.0;
const STATES: f64 = 4.0;

/// The lines: name, operator, form, states.
const LINES: [(&str, &str, &str, f64); 3] = [
    (FUSED, "memory_scan", "fused", STATES),
    (CHUNKWISE, "memory_scan", "chunkwise", STATES),
    ("softmax", "softmax_attention", "native", 1.0),
];

/// What the file holds of that size.
///
/// # Errors
///
/// If a field is missing (the message names it), or nothing of that size was measured.
pub(super) fn measurements(file: &Value) -> anyhow::Result<Measurements> {
    let rows = list(file, "rows")?;
    let lines = |field: &str, of: &dyn Fn(f64, f64) -> f64| -> anyhow::Result<Vec<Series>> {
        let lines = LINES.map(|line| series(rows, line, field, of));
        let lines = lines.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(lines
            .into_iter()
            .filter(|line| !line.points.is_empty())
            .collect())
    };
    let time = lines("both_s", &|length, seconds| seconds / length * 1e6)?;
    ensure!(
        !time.is_empty(),
        "nothing measured at K = V = {WIDTH}, S = {STATES}"
    );
    Ok(Measurements {
        time,
        memory: lines("both_peak_bytes", &|_, bytes| bytes * 1e-6)?,
        titles: [
            "Forward and backward: time per token (µs)",
            "Peak memory (MB)",
        ],
        notes: vec![
            format!(
                "One layer: {} heads, K = V = {WIDTH}, one row of the batch, f32; memory_scan with S = {STATES}; softmax is Burn's own.",
                number(file, "heads")?,
            ),
            format!("{}; {}.", word(file, "machine")?, word(file, "date")?),
        ],
    })
}

fn series(
    rows: &[Value],
    (name, operator, form, states): (&str, &str, &str, f64),
    field: &str,
    of: &dyn Fn(f64, f64) -> f64,
) -> anyhow::Result<Series> {
    let mut points = Vec::new();
    for row in rows {
        let here = word(row, "operator")? == operator && word(row, "form")? == form;
        if here && number(row, "states")? == states && number(row, "width")? == WIDTH {
            let length = number(row, "length")?;
            let value = number(row, field).with_context(|| format!("{name} at {length}"))?;
            points.push((length, of(length, value)));
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Series {
        name: name.to_owned(),
        points,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(form: &str) -> Value {
        let row = |operator: &str, form: &str, states: u32, length: u32, seconds: f64| {
            json!({"operator": operator, "form": form, "states": states, "width": 64,
                   "length": length, "both_s": seconds, "both_peak_bytes": 2e6})
        };
        json!({"bench": "kernels", "heads": 4, "machine": "A processor", "date": "2026-01-02", "rows": [
            row("memory_scan", form, 4, 1024, 0.002048),
            row("memory_scan", form, 4, 256, 0.000512),
            row("memory_scan", form, 1, 256, 9.0),
            row("softmax_attention", "native", 1, 256, 0.001),
        ]})
    }

    #[test]
    fn lines_of_one_size_by_ascending_length() {
        let found = Measurements::parse(&file("fused").to_string()).expect("a file of the bench");
        let names: Vec<&str> = found.time.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["fused", "softmax"]);
        let [first, second] = [found.time[0].points[0], found.time[0].points[1]];
        assert_eq!([first.0, second.0], [256.0, 1024.0]);
        assert!((first.1 - 2.0).abs() < 1e-9 && (second.1 - 2.0).abs() < 1e-9);
        assert_eq!(found.memory[0].points[0], (256.0, 2.0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut without = file("fused");
        without["rows"][0]["both_s"] = Value::Null;
        let error = measurements(&without).expect_err("broken");
        assert!(
            format!("{error:#}").contains("fused at 1024: `both_s`"),
            "{error:#}"
        );
        let mut nothing = file("fused");
        nothing["rows"] = json!([]);
        assert!(measurements(&nothing).is_err());
    }
}
