//! Every operator in every form on one device: right first, then time, memory and distance from
//! the roof.
//!
//! ```text
//! cargo xtask bench kernels [--device flex] [--operator memory_scan] [--lengths 256,1024] [--out FOLDER]
//! ```
//!
//! Each case runs in a process of its own, so that peak memory is its own: it compares outputs and
//! gradients with the `f64` reference (or, where a reference is forward only, gradients with the
//! tensor form), then times forward and forward with backward. The parent measures memory bandwidth
//! and matmul peak before and after, and writes a table and a file for `cargo xtask plot`. What
//! would not fit into the memory that is free is left out by name.
#![allow(clippy::print_stdout, reason = "a bench shows what it measured")]

mod attention;
mod case;
mod child;
mod counted;
mod device;
mod report;
mod rows;
mod scan;

use case::{Case, LENGTHS, Operator};
use infinity_kernels::testing::check_flags;
use report::Report;
use std::path::PathBuf;

#[global_allocator]
static GLOBAL: counted::Counted = counted::Counted;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    check_flags(&[
        "--case=",
        "--device=",
        "--lengths=",
        "--operator=",
        "--out=",
    ])?;
    let device = device::named(&after("--device").unwrap_or_else(|| "flex".to_owned()))?;
    if let Some(case) = after("--case") {
        println!("{}", child::measure(&case.parse()?, &device)?);
        return Ok(());
    }
    let lengths = match after("--lengths") {
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => LENGTHS.to_vec(),
    };
    let only = after("--operator");
    let cases: Vec<Case> = Operator::ALL
        .into_iter()
        .filter(|operator| only.as_ref().is_none_or(|name| operator.name() == name))
        .flat_map(|operator| operator.cases(&lengths, &device))
        .collect();
    if cases.is_empty() {
        return Err(format!("no such operator: one of {}", Operator::names()).into());
    }
    let mut report = Report::new(&device);
    println!("{}", report.heading());
    for case in cases {
        println!("{}", report.add(case)?);
    }
    report.finish(&device);
    // Cargo runs benches in the package's folder; paths are given from the workspace's.
    let folder = PathBuf::from("../..").join(after("--out").unwrap_or("docs/benchmarks".into()));
    println!("written: {}", report.write(&folder)?);
    Ok(())
}

/// What follows `flag` on the command line.
fn after(flag: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != flag).nth(1)
}
