//! The parent's side: cases started one by one, a table, and a file for the plot.

use crate::Outcome;
use crate::case::{Case, HEADS};
use burn::tensor::Device;
use infinity_kernels::machine::{self, matmul_flops, read_bandwidth};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What was measured so far.
pub(crate) struct Report {
    machine: machine::Machine,
    device: String,
    date: String,
    /// FLOP/s and bytes a second, the better of before and after.
    matmul: f64,
    bandwidth: f64,
    rows: Vec<Row>,
    left_out: Vec<String>,
}

struct Row {
    case: Case,
    forward_s: f64,
    both_s: f64,
    both_peak_bytes: u64,
}

impl Report {
    pub(crate) fn new(device: &Device) -> Self {
        Report {
            machine: machine::Machine::this(),
            device: format!("{device:?}"),
            date: machine::date(),
            matmul: matmul_flops(device),
            bandwidth: read_bandwidth(),
            rows: Vec::new(),
            left_out: Vec::new(),
        }
    }

    pub(crate) fn heading(&self) -> String {
        format!(
            "{} on {}; {}\n\n{HEADER}",
            self.device, self.machine, self.date
        )
    }

    /// Runs a case and returns its row, or why there is none.
    pub(crate) fn add(&mut self, case: Case) -> Outcome<String> {
        let free = machine::available_bytes().unwrap_or(u64::MAX) as f64;
        if case.guessed_peak_bytes() > 0.8 * free {
            let gigabytes = case.guessed_peak_bytes() / 1e9;
            let why = format!("{case}: would need about {gigabytes:.0} GB");
            self.left_out.push(why.clone());
            return Ok(why);
        }
        let output = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args(["--case", &case.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("the case {case} ended with {}", output.status).into());
        }
        let found: Value = serde_json::from_slice(&output.stdout)?;
        let number = |key: &str| found[key].as_f64().ok_or(format!("{case}: no {key}"));
        self.rows.push(Row {
            case,
            forward_s: number("forward_s")?,
            both_s: number("both_s")?,
            both_peak_bytes: number("both_peak_bytes")? as u64,
        });
        Ok(self.row(self.rows.last().expect("just pushed")))
    }

    pub(crate) fn finish(&mut self, device: &Device) {
        self.matmul = self.matmul.max(matmul_flops(device));
        self.bandwidth = self.bandwidth.max(read_bandwidth());
    }

    /// Share of what the slower of arithmetic and memory would allow.
    fn of_the_roof(&self, case: &Case, passes: f64, seconds: f64) -> f64 {
        let arithmetic = passes * case.flops() / self.matmul;
        let memory = passes * case.bytes() / self.bandwidth;
        arithmetic.max(memory) / seconds
    }

    fn row(&self, row: &Row) -> String {
        let Row {
            case,
            forward_s,
            both_s,
            both_peak_bytes,
        } = row;
        format!(
            "| {} | {} | {} | {} | {} | {:.3} | {:.3} | {:.1} | {:.0} % | {:.0} % |",
            case.operator.name(),
            case.way,
            case.states,
            case.width,
            case.tokens,
            forward_s * 1e3,
            both_s * 1e3,
            *both_peak_bytes as f64 / 1e6,
            100.0 * self.of_the_roof(case, 1.0, *forward_s),
            100.0 * self.of_the_roof(case, 3.0, *both_s),
        )
    }

    /// Writes `kernels.md` and `kernels.json` into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Outcome<String> {
        std::fs::create_dir_all(folder)?;
        let table = folder.join("kernels.md");
        std::fs::write(&table, self.table())?;
        let file = folder.join("kernels.json");
        std::fs::write(&file, serde_json::to_string_pretty(&self.json())? + "\n")?;
        Ok(format!("{} and {}", table.display(), file.display()))
    }

    fn table(&self) -> String {
        let mut text = format!(
            "# Kernels\n\n`cargo xtask bench kernels`, {}: {} on {}. Read bandwidth {:.1} GB/s, f32 matmul peak {:.1} \
             GFLOP/s, the better of before and after.\n\nOne row of the batch, {HEADS} heads, f32. Every row was checked \
             before it was timed. Memory is the most that was allocated on the host above the inputs: results, gradients and whatever lies between. *Of the roof* is the time \
             that arithmetic (`memory_scan` counted in its recurrent form) or inputs and outputs would take at those \
             peaks, whichever is longer, over the time taken.\n\n{HEADER}",
            self.date,
            self.device,
            self.machine,
            self.bandwidth / 1e9,
            self.matmul / 1e9,
        );
        for row in &self.rows {
            let _ = write!(text, "\n{}", self.row(row));
        }
        text.push('\n');
        if !self.left_out.is_empty() {
            let _ = write!(text, "\nLeft out:\n\n- {}\n", self.left_out.join("\n- "));
        }
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let Case {
                    operator,
                    way,
                    tokens,
                    states,
                    width,
                } = row.case;
                json!({
                    "operator": operator.name(),
                    "form": way.to_string(),
                    "length": tokens,
                    "states": states,
                    "width": width,
                    "forward_s": row.forward_s,
                    "both_s": row.both_s,
                    "both_peak_bytes": row.both_peak_bytes,
                })
            })
            .collect();
        json!({
            "bench": "kernels",
            "date": self.date,
            "device": self.device,
            "machine": self.machine.to_string(),
            "matmul_flops": self.matmul,
            "read_bytes_per_s": self.bandwidth,
            "heads": HEADS,
            "rows": rows,
            "left_out": self.left_out,
        })
    }
}

const HEADER: &str = "\
| operator | form | S | K = V | T | forward, ms | with backward, ms | peak, MB | of the roof, forward | with backward |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";
