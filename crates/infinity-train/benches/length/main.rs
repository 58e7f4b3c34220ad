//! Time and memory against the length of the text, softmax attention beside it.
//!
//! ```text
//! cargo bench --workspace --bench length -- [--rounds 3] [--lengths 1024,16384] …
//! ```
//!
//! One run checks first (the operator against its `f64` reference, whole = split for the models it
//! measures) and stops when a check fails. Then it measures a training step with a constant number
//! of tokens in windows of several lengths, a decoding step near and far, and the resident memory
//! over a long generation.
//!
//! Every case runs in a process of its own (this program again, with `--case`), so that a peak of
//! memory belongs to one case, and cases take turns in rounds, so that a busy machine slows all of
//! them alike. The medians are reported.
#![allow(
    clippy::print_stdout,
    reason = "a program that prints its measurements"
)]

mod case;
mod checks;
mod decoding;
mod flags;
mod generation;
mod machine;
mod report;
mod training;

use case::Case;
use flags::Flags;
use infinity_model::config::Mixer;
use report::Report;
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
        Some(case) => println!("{}", measure(case, &flags)?),
        None => bench(&flags)?,
    }
    Ok(())
}

/// One case, in the child process: a line of JSON.
fn measure(case: Case, flags: &Flags) -> Outcome<String> {
    Ok(match case {
        Case::Train(mixer, length) => {
            serde_json::to_string(&training::measure(flags, mixer, length)?)?
        }
        Case::Decode(mixer) => serde_json::to_string(&decoding::measure(flags, mixer))?,
        Case::Generate => serde_json::to_string(&generation::measure(flags)?)?,
    })
}

fn bench(flags: &Flags) -> Outcome<()> {
    let mut report = Report::new(flags);
    println!("{}", report.heading());
    report.checks = checks::run(flags);
    for check in &report.checks {
        println!("check: {check}");
    }
    if flags.rounds > 0 {
        (report.training, report.left_out) = training::in_rounds(flags)?;
    }
    if flags.decode_rounds > 0 {
        for mixer in [Mixer::Infinity, Mixer::Softmax] {
            report
                .decoding
                .extend(Case::Decode(mixer).in_child::<Vec<decoding::Point>>()?);
        }
    }
    if flags.generate > 0 {
        report.generation = Some(Case::Generate.in_child()?);
    }
    report.judge(flags);
    println!("{}", report.table());
    report.save(&flags.json)?;
    println!("written: {}", flags.json.display());
    Ok(())
}

/// The median of measurements.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
