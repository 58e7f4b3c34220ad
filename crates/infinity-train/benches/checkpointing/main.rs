//! What every way of gradient checkpointing costs and saves.
//!
//! ```text
//! cargo bench --workspace --bench checkpointing -- [--rounds 3] [--long 1048576] …
//! ```
//!
//! One run checks first that every way gives the gradients of the whole graph, and stops when one
//! does not. Then each way is measured in processes of its own (this program again, with `--case`):
//! once for its memory, where the allocator returns what is freed at once, so that resident memory
//! is what lives; and in rounds that take turns for its time, where the allocator keeps it, as
//! `.cargo/config.toml` has it. At last one step goes through a very long window.
#![allow(
    clippy::print_stdout,
    reason = "a program that prints its measurements"
)]

mod case;
mod checks;
mod flags;
mod report;

use case::{Case, Measured, Way};
use flags::Flags;
use std::process::ExitCode;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What every part of the bench may fail with: a message for the person who started it.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    match flags.case {
        Some(case) => println!("{}", serde_json::to_string(&case.measure(&flags)?)?),
        None => bench(&flags)?,
    }
    Ok(())
}

fn bench(flags: &Flags) -> Outcome<()> {
    println!("{}", report::heading(flags));
    for found in checks::run(flags) {
        println!("check: {found}");
    }
    if flags.rounds > 0 {
        println!("{}", report::ways(flags, &in_turns(flags)?));
    }
    for length in [flags.long / 16, flags.long / 4, flags.long] {
        if length > 0 {
            let measured = Case::Long(length).in_child()?;
            println!("{}", report::long(flags, length, &measured));
        }
    }
    Ok(())
}

/// What was measured of a way.
struct Series {
    way: Way,
    memory: Measured,
    step_s: Vec<f64>,
    cpu_s: Vec<f64>,
}

/// The memory of every way, then its time in rounds.
fn in_turns(flags: &Flags) -> Outcome<Vec<Series>> {
    let mut series = Vec::new();
    for way in Way::ALL {
        series.push(Series {
            way,
            memory: Case::Memory(way).in_child()?,
            step_s: Vec::new(),
            cpu_s: Vec::new(),
        });
    }
    for _ in 0..flags.rounds {
        for one in &mut series {
            let measured = Case::Time(one.way).in_child()?;
            one.step_s.extend(measured.step_s);
            one.cpu_s.extend(measured.cpu_s);
        }
    }
    Ok(series)
}
