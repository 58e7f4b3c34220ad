//! `cargo xtask gpu <device>`: everything there is to show on a GPU, in one command that ends with a table.
//!
//! Benches check before they time. If `memory_scan`'s own tests fail on the device, it alone is not timed; every
//! finding is written when it comes, and what was not measured is not met.

mod findings;
mod machine_code;
mod pack;
mod plan;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};

use crate::{check, child};
use findings::{EMPTY, Findings, LAUNCHES};
use plan::{COUNTED, Options, Programs, STARTED, Step};

/// Where [`COUNTED`] has a line for every launch.
const LOG: &str = "launches.log";

/// Does what `args` ask for.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let options = &Options::parse_from(args);
    if options.compile_only {
        let gpu = &options.gpu;
        ensure!(gpu == "cuda", "--compile-only: of cuda, not of {gpu}");
        return machine_code::run(root, options.tools.as_deref());
    }
    if let Some(folder) = &options.pack {
        // Before minutes of building.
        pack::is_empty(folder)?;
        return pack::pack(&Programs::build(root, options)?, folder, options);
    }
    let (programs, out) = match &options.unpacked {
        Some(folder) => (Programs::unpacked(folder, options)?, folder.join("out")),
        None => (Programs::build(root, options)?, root.join("target/gpu")),
    };
    measure(options, &programs, out)
}

/// Runs every step that was asked for and judges what they say.
fn measure(options: &Options, programs: &Programs, out: PathBuf) -> anyhow::Result<()> {
    let out = std::path::absolute(options.out.clone().unwrap_or(out))?;
    let context = || format!("--out {}", out.display());
    let mut found = Findings::kept_in(prepared(&out).with_context(context)?);
    let start = Instant::now();
    for step in plan::steps(options, programs) {
        let limit = options.seconds.map_or(Duration::MAX, Duration::from_secs);
        let left = limit.saturating_sub(start.elapsed());
        let Err(why) = take(&mut found, &step, options, &out, left) else {
            continue;
        };
        let why = format!("{why:#}");
        if options.asks_for(step.part) {
            println!("{}: {why}", step.part);
        }
        for what in &step.whats {
            found.explain(what, step.tokens, &why);
        }
    }
    let rows = findings::rows(&found);
    let (gpu, dtype, tokens) = (&options.gpu, options.dtype(), findings::TOKENS);
    let subject = format!(
        "memory_scan on {gpu} in {dtype}: B 1, {tokens} tokens, 32 heads, K = V = 128, S = 1 unless a row says otherwise"
    );
    let settings: Vec<&str> = std::iter::once(&*subject).chain(found.settings()).collect();
    let table = findings::table(&rows, &settings);
    println!("\n{table}");
    fs::write(out.join("table.txt"), table).with_context(context)?;
    println!("written: findings.jsonl and table.txt in {}", out.display());
    let met = |(.., verdict): &&findings::Row| matches!(verdict, Ok((true, _)));
    let open = rows.len() - rows.iter().filter(met).count();
    ensure!(open == 0, "{open} of {} criteria are not met", rows.len());
    Ok(())
}

/// Makes the folders that steps run in, with settings that keep what is compiled and tuned from one call to the next,
/// and the file of findings.
fn prepared(out: &Path) -> std::io::Result<File> {
    let log = format!("[profiling.logger]\nlevel = \"minimal\"\nfile = \"{LOG}\"\n");
    for (folder, cache, more) in [
        ("", "cache", ""),
        (COUNTED, "cache", &*log),
        (STARTED, "started/cache", ""),
    ] {
        let cache = out.join(cache).display().to_string().replace('\\', "/");
        let settings = format!(
            "[compilation]\ncache = true\n[environment]\npath = {{ directory = \"{cache}\" }}\n{more}"
        );
        let folder = out.join(folder);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("cubecl.toml"), settings)?;
    }
    File::create(out.join("findings.jsonl"))
}

/// Runs a step if it was asked for and may run, keeps its findings as they come, and says what went wrong.
fn take(
    found: &mut Findings,
    step: &Step,
    options: &Options,
    out: &Path,
    left: Duration,
) -> anyhow::Result<()> {
    let (part, [needs, limit]) = (step.part, step.seconds);
    ensure!(options.asks_for(part), "--only leaves out {part}");
    let broke = |(_, failed)| failed > 0;
    if part == "scan" && found.tests(findings::SCAN_TESTS).is_ok_and(broke) {
        bail!("memory_scan's tests did not pass, so it is not timed");
    }
    let has_time = left >= Duration::from_secs(needs);
    ensure!(has_time, "no time was left of --seconds: {needs} needed");
    let program = step.program.clone().map_err(anyhow::Error::msg)?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{name} {}", step.args.join(" "));
    println!("\n{name}");
    let context = || format!("`{name}`");
    let folder = out.join(step.folder);
    // What an earlier call left; there may be nothing.
    let _ = fs::remove_file(folder.join(LOG));
    if step.label == EMPTY {
        let _ = fs::remove_dir_all(folder.join("cache"));
    }
    let mut command = Command::new(&program);
    command.args(&step.args).current_dir(&folder);
    if let Some(fla) = options.fla.as_ref().filter(|_| part == "peers") {
        let others = std::env::var_os("PYTHONPATH").unwrap_or_default();
        let others = std::env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
        let all = std::env::join_paths([fla.clone()].into_iter().chain(others));
        command.env("PYTHONPATH", all.context("--fla")?);
    }
    let (mut tests, mut steps, mut broken) = (check::Tests::default(), None, None);
    let limit = left.min(Duration::from_secs(limit));
    let outcome = child::run(&mut command, limit, |line| {
        tests.count(line);
        if step.folder == COUNTED {
            let line = serde_json::from_str::<Value>(line).unwrap_or_default();
            steps = steps.or(line["steps"].as_f64());
        } else if let Err(why) = found.read(line, step.label) {
            broken.get_or_insert(why);
        }
    });
    let outcome = outcome.with_context(context);
    if part == "tests" {
        if tests.passed == 0 && tests.failed == 0 {
            outcome?;
            bail!("`{name}` ran no test");
        }
        // A test that ends the whole program is counted by nobody.
        let failed = tests.failed.max(outcome.is_err().into());
        let (what, passed) = (&step.whats[0], tests.passed);
        found.add(json!({ "kind": "tests", "what": what, "passed": passed, "failed": failed }));
        return outcome;
    }
    outcome?;
    if step.folder == COUNTED {
        let launches = fs::read_to_string(folder.join(LOG)).context(LOG)?;
        let steps =
            steps.with_context(|| format!("`{name}` does not say how many steps it made"))?;
        let each = launches.lines().count() as f64 / steps;
        let detail = "every launch is a line";
        found.add(json!({ "kind": "check", "what": LAUNCHES, "ok": each > 0.0, "detail": detail }));
        found.add(json!({ "kind": "time", "what": LAUNCHES, "pass": "step", "ms": each }));
    }
    broken.map_or(Ok(()), Err).with_context(context)
}

#[cfg(test)]
mod tests;
