//! `cargo xtask gpu <device>`: everything there is to show on a GPU, in one command that ends with a table.
//!
//! | file | |
//! |---|---|
//! | `plan.rs` | what was asked for, what Cargo builds, and the steps in order of worth |
//! | `pack.rs` | how it is carried |
//! | `findings.rs` | what programs say, every criterion, and the table |
//! | `machine_code.rs` | what is found without a GPU: `--compile-only` |
//! | `peers.py` | PyTorch's attention and GPT, flash-linear-attention's gated delta rule and model |
//!
//! Benches check before they time. If `memory_scan`'s own tests fail on the device, it alone is not timed; every
//! finding is written when it comes, and what was not measured is not met.

mod findings;
mod machine_code;
mod pack;
mod plan;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::check;
use findings::Findings;
use plan::{Options, Place, Programs, Step, USAGE};

/// Compiled kernels and what was tuned stay in `CACHE` from one call to the next.
const CUBECL: &str =
    "[compilation]\ncache = true\n[environment]\npath = { directory = \"CACHE\" }\n";
/// Where what is to start without caches has its own.
const STARTED: &str = "started";
/// Writes a line a launch.
const COUNTED: &str = "[profiling.logger]\nlevel = \"minimal\"\nfile = \"launches.log\"\n";

/// Does what `args` ask for.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(args)?;
    match &options.place {
        Place::Compiled => machine_code::run(root, options.tools.as_deref()),
        Place::Pack(folder) => {
            // Before minutes of building.
            pack::is_empty(folder)?;
            pack::pack(&Programs::build(root, &options)?, folder, &options)
        }
        Place::Here => measure(
            &options,
            &Programs::build(root, &options)?,
            root.join("target/gpu"),
        ),
        Place::Unpacked(folder) => {
            measure(&options, &Programs::unpacked(folder)?, folder.join("out"))
        }
    }
}

/// Runs every step that was asked for and judges what they say.
fn measure(options: &Options, programs: &Programs, out: PathBuf) -> anyhow::Result<()> {
    let out = std::path::absolute(options.out.clone().unwrap_or(out))?;
    let mut notes = Notes::new(&out)?;
    let deadline = options.seconds.map(|seconds| Instant::now() + seconds);
    for step in plan::steps(options, programs) {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let outcome = may_run(&step, options, &notes.found, left).and_then(|()| {
            println!("\n{}", step.shown());
            let limit = Duration::from_secs(step.limit);
            take(
                &mut notes,
                &step,
                &out,
                left.map_or(limit, |left| left.min(limit)),
            )
        });
        if let Err(why) = outcome {
            if options.parts.contains(&step.part) {
                println!("{}: {why}", step.part);
            }
            for what in &step.whats {
                let line = notes.found.explain(what, step.tokens, &why);
                notes.write(&line);
            }
        }
    }
    let rows = findings::rows(&notes.found);
    let subject = format!(
        "memory_scan on {} in {}: B 1, {} tokens, 32 heads, K = V = 128, S = 1 unless a row says otherwise",
        options.gpu,
        options.dtype,
        findings::TOKENS
    );
    let settings: Vec<&str> = std::iter::once(&*subject)
        .chain(notes.found.settings())
        .collect();
    let table = findings::table(&rows, &settings);
    println!("\n{table}");
    let context = || format!("--out {}", out.display());
    fs::write(out.join("table.txt"), table).with_context(context)?;
    println!("written: findings.jsonl and table.txt in {}", out.display());
    findings::verdict(&rows)
}

/// What was found, in memory and on disk.
struct Notes {
    found: Findings,
    file: fs::File,
}

impl Notes {
    fn new(out: &Path) -> anyhow::Result<Self> {
        let context = || format!("--out {}", out.display());
        let settings = |cache: &str| {
            let cache = out.join(cache).display().to_string().replace('\\', "/");
            CUBECL.replace("CACHE", &cache)
        };
        for (folder, settings) in [
            (out.to_path_buf(), settings("cache")),
            (out.join("counted"), settings("cache") + COUNTED),
            (out.join(STARTED), settings("started/cache")),
        ] {
            fs::create_dir_all(&folder).with_context(context)?;
            fs::write(folder.join("cubecl.toml"), settings).with_context(context)?;
        }
        let file = fs::File::create(out.join("findings.jsonl")).with_context(context)?;
        Ok(Notes {
            found: Findings::default(),
            file,
        })
    }

    fn write(&mut self, line: &str) {
        if let Err(error) = writeln!(self.file, "{line}") {
            eprintln!("findings.jsonl: {error}");
        }
    }
}

/// Why a step does not run, if it does not.
fn may_run(
    step: &Step,
    options: &Options,
    found: &Findings,
    left: Option<Duration>,
) -> Result<(), String> {
    if !options.parts.contains(&step.part) {
        return Err(format!("--only leaves out {}", step.part));
    }
    let failed = found
        .tests(findings::SCAN_TESTS)
        .is_ok_and(|(_, failed)| failed > 0);
    if failed && step.part == "scan" {
        return Err("memory_scan's tests did not pass, so it is not timed".to_owned());
    }
    if left.is_some_and(|left| left < Duration::from_secs(step.needs)) {
        return Err(format!(
            "no time was left of --seconds: {} needed",
            step.needs
        ));
    }
    step.program.clone().map(drop)
}

/// Runs a step, keeps its findings as they come, and says what went wrong.
fn take(notes: &mut Notes, step: &Step, out: &Path, limit: Duration) -> Result<(), String> {
    let folder = match (step.counts, step.starts) {
        (true, _) => out.join("counted"),
        (_, Some(_)) => out.join(STARTED),
        _ => out.to_path_buf(),
    };
    if step.starts == Some(true) {
        // Those of an earlier call; there may be none.
        let _ = fs::remove_dir_all(folder.join("cache"));
    }
    let log = folder.join("launches.log");
    // That of an earlier call; there may be none.
    let _ = fs::remove_file(&log);
    let mut broken = None;
    let ended = step.run(&folder, limit, |line| {
        if step.counts {
            return;
        }
        match notes.found.read(line, step.label) {
            Ok(Some(line)) => notes.write(&line),
            Ok(None) => {}
            Err(error) => broken = broken.take().or(Some(format!("{error:#}"))),
        }
    });
    let name = step.shown();
    let outcome = ended.outcome.map_err(|why| format!("`{name}` {why}"));
    let mut add = |lines: &[serde_json::Value]| {
        for line in lines.iter().map(ToString::to_string) {
            // They are made here, complete.
            if let Ok(Some(line)) = notes.found.read(&line, "") {
                notes.write(&line);
            }
        }
    };
    if step.part == "tests" {
        let mut tests = check::Tests::default();
        tests.count(&ended.lines);
        if tests.passed == 0 && tests.failed == 0 {
            return outcome.and(Err(format!("`{name}` ran no test")));
        }
        // A test that ends the whole program is counted by nobody.
        if outcome.is_err() {
            tests.failed = tests.failed.max(1);
        }
        let (passed, failed) = (tests.passed, tests.failed);
        add(&[
            json!({ "kind": "tests", "what": step.whats[0], "passed": passed, "failed": failed }),
        ]);
    }
    if step.counts {
        outcome?;
        let launches =
            fs::read_to_string(&log).map_err(|error| format!("launches.log: {error}"))?;
        let steps = steps_of(&ended.lines)
            .ok_or_else(|| format!("`{name}` does not say how many steps it made"))?;
        let each = launches.lines().count() as f64 / steps;
        add(&[
            json!({ "kind": "check", "what": step.whats[0], "ok": each > 0.0, "detail": "every launch is a line" }),
            json!({ "kind": "time", "what": step.whats[0], "pass": "step", "ms": each }),
        ]);
        return Ok(());
    }
    outcome.and(broken.map_or(Ok(()), |error| Err(format!("`{name}`: {error}"))))
}

/// How many training steps a bench made, as its findings say.
fn steps_of(lines: &[String]) -> Option<f64> {
    let found = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    found.filter_map(|found| found["steps"].as_f64()).next()
}

#[cfg(test)]
mod tests;
