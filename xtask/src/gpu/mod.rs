//! `cargo xtask gpu <device>`: everything there is to show on a GPU, in one command that ends with a
//! table.
//!
//! | file | |
//! |---|---|
//! | `options.rs` | what was asked for |
//! | `programs.rs`, `pack.rs` | what Cargo builds, and how it gets to a machine without Cargo |
//! | `steps.rs`, `child.rs` | which programs run, with what limits |
//! | `findings.rs` | what they say |
//! | `criteria.rs`, `table.rs` | what that comes to |
//! | `peers.py` | PyTorch's attention and flash-linear-attention's gated delta rule |
//!
//! First every test of the kernels and a short training run on that device, then times. A bench checks
//! before it times, nothing is timed if a test fails, and what was not measured is not met.

mod child;
mod criteria;
mod findings;
mod options;
mod pack;
mod programs;
mod steps;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use child::Ended;
use findings::{Findings, Tests};
use options::{Options, Part, Place, USAGE};
use programs::Programs;
use steps::Step;

/// Less than this is no time to start something in.
const TOO_LATE: Duration = Duration::from_secs(5);

/// Does what `args` ask for.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(args)?;
    match &options.place {
        Place::Pack(folder) => {
            // Before minutes of building.
            pack::is_empty(folder)?;
            pack::write(folder, &options, &Programs::build(root, &options)?)
        }
        Place::Here => {
            let programs = Programs::build(root, &options)?;
            measure(&options, &programs, root.join("target/gpu"))
        }
        Place::Unpacked(folder) => {
            let programs = Programs::unpacked(folder)?;
            let out = programs.folder.join("out");
            measure(&options, &programs, out)
        }
    }
}

/// Runs every step that was asked for and judges what they say.
fn measure(options: &Options, programs: &Programs, out: PathBuf) -> anyhow::Result<()> {
    let out = options.out.clone().unwrap_or(out);
    let deadline = options.seconds.map(|seconds| Instant::now() + seconds);
    let mut found = Findings::default();
    let mut said = String::new();
    let mut tests_failed = false;
    for step in steps::steps(options, programs) {
        let mut outcome = may_run(&step, options, tests_failed);
        if outcome.is_ok() {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let ended = start(&step, options, programs, left);
            let findings = ended.lines.iter().filter(|line| line.starts_with('{'));
            findings.for_each(|line| said += &format!("{line}\n"));
            outcome = take(&mut found, &step, ended);
            tests_failed |= step.part == Part::Tests && outcome.is_err();
        }
        if let Err(why) = outcome {
            if options.parts.contains(&step.part) {
                println!("{}: {why}", step.part.name());
            }
            for what in &step.whats {
                found.explain(what, step.tokens, &why);
            }
        }
    }
    let rows = criteria::rows(&found);
    found.settings.insert(0, subject(options));
    let table = table::table(&rows, &found.settings);
    println!("\n{table}");
    write(&out, &said, &table)?;
    table::verdict(&rows)
}

/// What the rows are about.
fn subject(options: &Options) -> String {
    format!(
        "memory_scan on {} in {}: B 1, {} tokens, 32 heads, K = V = 128, S = 1 unless a row says otherwise",
        options.gpu.name,
        options.gpu.dtype,
        criteria::TOKENS
    )
}

/// Why a step does not run, if it does not.
fn may_run(step: &Step, options: &Options, tests_failed: bool) -> Result<(), String> {
    if !options.parts.contains(&step.part) {
        return Err(format!("--only leaves out {}", step.part.name()));
    }
    if tests_failed && step.part != Part::Tests {
        return Err("the tests did not pass, so nothing is timed".to_owned());
    }
    step.program.clone().map(drop)
}

/// Runs a step within its limit and the time that is left.
fn start(step: &Step, options: &Options, programs: &Programs, left: Option<Duration>) -> Ended {
    let limit = left.map_or(step.limit, |left| left.min(step.limit));
    let program = match &step.program {
        Ok(program) if limit >= TOO_LATE => program,
        Ok(_) => return Ended::without("no time was left of --seconds"),
        Err(why) => return Ended::without(why),
    };
    println!("\n{}", step.shown());
    let mut command = Command::new(program);
    command.args(&step.args).current_dir(&programs.folder);
    if let (Part::Peers, Some(fla)) = (step.part, &options.fla) {
        command.env("PYTHONPATH", with_path(fla, std::env::var_os("PYTHONPATH")));
    }
    child::run(&mut command, limit)
}

/// PYTHONPATH with `folder` first.
fn with_path(folder: &Path, before: Option<OsString>) -> OsString {
    // The program runs in another folder.
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let before = before.unwrap_or_default();
    let others = std::env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
    let all = std::iter::once(folder.clone()).chain(others);
    std::env::join_paths(all).unwrap_or_else(|_| folder.into())
}

/// What a step's lines and its end come to.
fn take(found: &mut Findings, step: &Step, ended: Ended) -> Result<(), String> {
    let name = step.shown();
    let outcome = ended.outcome.map_err(|why| format!("`{name}` {why}"));
    let (Part::Tests, [what]) = (step.part, &step.whats[..]) else {
        let read = ended.lines.iter().try_for_each(|line| found.read(line));
        return outcome.and(read.map_err(|error| format!("`{name}`: {error:#}")));
    };
    let mut tests = counted(&ended.lines);
    if tests.passed == 0 && tests.failed == 0 {
        return outcome.and(Err(format!("`{name}` ran no test")));
    }
    // A test that ends the whole program is counted by nobody.
    if outcome.is_err() {
        tests.failed = tests.failed.max(1);
    }
    found.tested(what, tests);
    outcome
}

/// How many tests passed and failed, as their executable says, and the distance that one prints.
fn counted(lines: &[String]) -> Tests {
    let mut tests = Tests::default();
    for line in lines {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let before = |word: &str| -> u64 {
                let words: Vec<&str> = counts.split_whitespace().collect();
                let at = words.iter().position(|one| one.starts_with(word));
                let number = at.and_then(|at| words.get(at.checked_sub(1)?));
                number.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            tests.passed += before("passed");
            tests.failed += before("failed");
        } else if line.ends_with(" nats apart") {
            let figure = line.rsplit("... ").next().unwrap_or(line);
            tests.figure = Some(figure.to_owned());
        }
    }
    tests
}

/// Keeps what was found.
fn write(out: &Path, findings: &str, table: &str) -> anyhow::Result<()> {
    let context = || format!("--out {}", out.display());
    std::fs::create_dir_all(out).with_context(context)?;
    std::fs::write(out.join("findings.jsonl"), findings).with_context(context)?;
    std::fs::write(out.join("table.txt"), table).with_context(context)?;
    println!("written: findings.jsonl and table.txt in {}", out.display());
    Ok(())
}

#[cfg(test)]
mod tests;
