//! `cargo xtask valgrind`: the CPU kernels' small tests under valgrind's memcheck, which reports every decision that
//! rests on memory nobody wrote.
//!
//! It knows no AVX-512 and hides it from the programs it runs, so kernels choose AVX2 there. Their tests use the
//! system's allocator, which it can follow. A test that reads an unwritten value on purpose comes first: if that is
//! not reported, no other answer counts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::child;
use crate::workspace::cargo;

/// Valgrind's exit code after an error.
const ERROR: i32 = 9;
/// More than all tests take.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// Executables of the kernels' tests by the names of their targets, and what of them runs.
const TESTS: [(&str, &[&str]); 2] = [
    (
        "infinity_kernels",
        &[
            "cpu::gemm",
            "cpu::product",
            "cpu::results",
            "cpu::tensors",
            "cpu::transpose",
        ],
    ),
    ("kernels", &["flex::"]),
];
const ON_PURPOSE: &str = "cpu::results::tests::a_value_left_unwritten_is_caught";

/// Builds the tests, as `cargo test --workspace` does, and runs them under valgrind.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let version = Command::new("valgrind").arg("--version").output();
    ensure!(
        version.is_ok_and(|output| output.status.success()),
        "valgrind is not installed (apt-get install valgrind)"
    );
    let executables = build(root)?;
    let (first, _) = TESTS[0];
    let mut command = valgrind(root, find(&executables, first)?);
    command.args(["--ignored", "--exact", ON_PURPOSE]);
    let status = command.status().context("cannot start valgrind")?;
    ensure!(
        status.code() == Some(ERROR),
        "a value left unwritten on purpose was not reported: valgrind {status}"
    );
    for (name, filters) in TESTS {
        let mut command = valgrind(root, find(&executables, name)?);
        let outcome = child::run(command.args(filters), LIMIT).outcome;
        if let Err(why) = outcome {
            bail!("the tests of `{name}` under valgrind: {why}");
        }
    }
    println!("no decision of the kernels' tests rests on memory that nobody wrote");
    Ok(())
}

fn valgrind(root: &Path, executable: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.current_dir(root.join("crates/infinity-kernels"));
    command.env("RAYON_NUM_THREADS", "2");
    command.arg(format!("--error-exitcode={ERROR}"));
    command.arg("--quiet").arg(executable);
    // One test at a time: valgrind runs one thread at a time anyway.
    command.arg("--test-threads=1");
    command
}

/// Executables of tests, with the names of their targets.
type Executables = Vec<(String, PathBuf)>;

fn build(root: &Path) -> anyhow::Result<Executables> {
    let line = "test --release --workspace --lib --test kernels --no-run --message-format=json";
    println!("cargo {line}");
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = cargo(root, &words).stderr(std::process::Stdio::inherit());
    let output = output.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo test: {}", output.status);
    executables(&String::from_utf8_lossy(&output.stdout))
}

/// What Cargo's messages, one a line, say was built.
fn executables(messages: &str) -> anyhow::Result<Executables> {
    let mut found = Executables::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)
            .with_context(|| format!("not a message of Cargo: {line}"))?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            found.push((name.to_owned(), path.into()));
        }
    }
    Ok(found)
}

fn find<'a>(executables: &'a Executables, name: &str) -> anyhow::Result<&'a Path> {
    let found = executables.iter().find(|(target, _)| target == name);
    let (_, path) = found.with_context(|| format!("Cargo built no tests of `{name}`"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"burn"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"kernels"},"executable":"/a/kernels-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = executables(messages).unwrap();
        assert_eq!(find(&found, "kernels").unwrap(), Path::new("/a/kernels-1"));
        let error = find(&found, "burn").unwrap_err().to_string();
        assert!(error.contains("`burn`"), "{error}");
        assert!(executables("warning: no JSON").is_err());
    }
}
