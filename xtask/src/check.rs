//! `cargo xtask check`: every gate in turn, then a summary. A failing gate does not hide the next one.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::tidy;
use crate::workspace::cargo;

/// Quick gates first. Clippy and the tests use the release profile because the kernels are too slow without it.
const CARGO_GATES: [(&str, &[&str]); 3] = [
    ("fmt", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--release",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("test", &["test", "--locked", "--release", "--workspace"]),
];

/// Runs all gates; the error names those that failed.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut results = vec![timed("tidy", "cargo xtask tidy", || tidy::run(root))];
    for (name, args) in CARGO_GATES {
        let shown = format!("cargo {}", args.join(" "));
        results.push(timed(name, &shown, || {
            let status = cargo(root, args).status()?;
            anyhow::ensure!(status.success(), "{status}");
            Ok(())
        }));
    }

    println!("\nsummary");
    for gate in &results {
        let verdict = if gate.passed { "ok" } else { "FAILED" };
        println!(
            "  {:<7} {verdict:<7} {:>7.1} s",
            gate.name,
            gate.elapsed.as_secs_f64()
        );
    }
    let failed: Vec<&str> = results
        .iter()
        .filter(|g| !g.passed)
        .map(|g| g.name)
        .collect();
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

struct Gate {
    name: &'static str,
    passed: bool,
    elapsed: Duration,
}

fn timed(name: &'static str, shown: &str, gate: impl FnOnce() -> anyhow::Result<()>) -> Gate {
    println!("\n── {name}: {shown}");
    let start = Instant::now();
    let outcome = gate();
    if let Err(error) = &outcome {
        println!("{name}: {error:#}");
    }
    Gate {
        name,
        passed: outcome.is_ok(),
        elapsed: start.elapsed(),
    }
}
