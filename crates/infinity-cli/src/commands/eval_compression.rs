//! What compressing the memory cost along a stream: the loss, and for every layer the bound on its error
//! beside the measured one.

use anyhow::ensure;
use infinity_model::ModelConfig;
use infinity_model::compression::Held;
use infinity_train::StreamReport;
use infinity_train::evaluate::StreamCompression;
use serde_json::{Value, json};

use crate::terminal;

/// Refuses a report in which a bound did not hold: it would be a fault of this program.
pub(super) fn check(report: &StreamReport) -> anyhow::Result<()> {
    let held = report.compression.iter().flat_map(|cost| &cost.held);
    for (layer, held) in held.enumerate() {
        ensure!(
            held.broken == 0,
            "the bound on the error of the compressed memory did not hold in layer {layer}: {} of {} \
             comparisons, the largest error {:.3} of its bound",
            held.broken,
            held.checks,
            held.closest
        );
    }
    Ok(())
}

pub(super) fn to_json(model: &ModelConfig, cost: &StreamCompression) -> Value {
    let [exact, compressed] = cost.compression.memory_bytes(model);
    let layers = cost.held.iter().map(|held| {
        let sizes = [held.memory, held.outputs].map(|sizes| {
            json!({
                "bound": sizes.bound(), "measured": sizes.measured(), "expected": sizes.expected(),
            })
        });
        json!({
            "checks": held.checks, "broken": held.broken, "closest": held.closest,
            "memory": sizes[0], "outputs": sizes[1],
        })
    });
    json!({
        "bits": cost.compression.width, "every": cost.compression.every,
        "loss": cost.loss, "exact": cost.exact, "difference": cost.loss - cost.exact,
        "standard_error": cost.standard_error,
        "memory_bytes": exact, "compressed_bytes": compressed,
        "layers": layers.collect::<Vec<_>>(),
    })
}

pub(super) fn print(model: &ModelConfig, cost: &StreamCompression) -> anyhow::Result<()> {
    let bytes = cost.compression.memory_bytes(model);
    let times = bytes[0] as f64 / bytes[1] as f64;
    let [whole, compressed] = bytes.map(|bytes| terminal::bytes(bytes as u64));
    let (width, every) = (cost.compression.width, cost.compression.every);
    let (loss, exact, error) = (cost.loss, cost.exact, cost.standard_error);
    terminal::line(format!(
        "memory in {width} bits every {every} tokens: loss {loss:.6} against {exact:.6} exact, {:+.6} ± {error:.6} \
         nats | {whole} in {compressed} ({times:.2} times)",
        loss - exact
    ))?;
    if cost.held.is_empty() {
        return terminal::line("no certificate: half formats have none");
    }
    terminal::line(format!(
        "{:>5}  {:^32}  {:^32}  {:>9}  {:>13}  {:>6}",
        "", "error of the memory", "error of its outputs", "closest", "", ""
    ))?;
    let names = ["bound", "measured", "expected"]
        .map(|name| format!("{name:>10}"))
        .join(" ");
    terminal::line(format!(
        "{:>5}  {names}  {names}  {:>9}  {:>13}  {:>6}",
        "layer", "to bound", "comparisons", "broken"
    ))?;
    for (layer, held) in cost.held.iter().enumerate() {
        terminal::line(row(layer, held))?;
    }
    Ok(())
}

fn row(layer: usize, held: &Held) -> String {
    let percent = |part: f64| format!("{:>8.3} %", 100.0 * part);
    let [memory, outputs] = [held.memory, held.outputs].map(|sizes| {
        [sizes.bound(), sizes.measured(), sizes.expected()]
            .map(percent)
            .join(" ")
    });
    format!(
        "{layer:>5}  {memory}  {outputs}  {:>9.4}  {:>13}  {:>6}",
        held.closest,
        terminal::grouped(held.checks),
        held.broken
    )
}
