//! `cargo xtask check`: every gate of this repository in turn. Its steps are listed here and nowhere else:
//! `.ci/run` and the hosted workflow call it. A step that fails does not hide the next one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::child;
use crate::tidy;
use crate::workspace::cargo;

/// More than any step takes.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);
const PACKAGES: &str = "mesa-vulkan-drivers libvulkan1";

/// Names of the steps, and the words of Cargo; quick steps first. Clippy and tests use the release profile, as numerics
/// without optimisation take minutes.
///
/// The tests' words are the block after `<!-- ci:test -->` in README.md: read, not repeated, so that the two cannot
/// differ. One source serves every CubeCL runtime, so what passes on software Vulkan is the GPU kernels' arithmetic on
/// all of them. Of those tests only the ones that name the device or what it is reached by run there; the rest ran on
/// the CPU before.
const STEPS: &str = "\
fmt: fmt --all --check
tidy:
deny: deny check licenses bans sources
clippy: clippy --locked --workspace --all-targets --release -- -D warnings
doc: doc --locked --workspace --lib --no-deps --release
test:
wgpu: test --locked --release -p infinity-kernels --features wgpu --tests -- wgpu:: cube::";

/// Tests of all `test result:` lines.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Runs all steps and ends with a line that counts all tests; an error if a step failed or no test ran.
/// With `--install`, a missing Vulkan driver is installed with apt-get where there is one.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let install = match args {
        [] => false,
        [flag] if flag == "--install" => true,
        _ => bail!("check: {args:?}: only --install is known"),
    };
    let mut tests = Tests::default();
    let mut summary = String::from("\nsummary\n");
    let mut failed = Vec::new();
    for (name, line) in STEPS.lines().filter_map(|step| step.split_once(':')) {
        let start = Instant::now();
        let verdict = match perform(root, name, line, install, &mut tests) {
            Ok(None) => "ok".to_owned(),
            Ok(Some(why)) => format!("SKIPPED: {why}"),
            Err(error) => {
                println!("{name}: {error:#}");
                failed.push(name);
                "FAILED".to_owned()
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        summary += &format!("  {name:<7} {seconds:>7.1} s  {verdict}\n");
    }
    if tests.passed == 0 {
        failed.push("no test ran");
    }
    let [ok, bad, skipped] = [tests.passed, tests.failed, tests.skipped];
    println!("{summary}\n{ok} passed, {bad} failed, {skipped} skipped");
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs a step, shows what it says and counts its tests, or says why it is left out.
fn perform(
    root: &Path,
    name: &str,
    line: &str,
    install: bool,
    tests: &mut Tests,
) -> anyhow::Result<Option<String>> {
    let readme;
    let lines = match name {
        "tidy" => {
            println!("\n── {name}");
            return tidy::run(root).map(|()| None);
        }
        "test" => {
            readme = std::fs::read_to_string(root.join("README.md")).context("README.md")?;
            test_commands(&readme)?
        }
        "deny" if !has_deny(root) => {
            let why = "`cargo deny` is not installed (cargo install cargo-deny --locked)";
            return Ok(Some(why.to_owned()));
        }
        "wgpu" if !has_vulkan(install) => {
            let why = format!(
                "no Vulkan driver on this machine: THE KERNELS FOR GPUS WERE NOT TESTED (apt-get install {PACKAGES})"
            );
            eprintln!("\n!! {why}");
            return Ok(Some(why));
        }
        _ => vec![line],
    };
    for line in lines {
        let line = line.trim();
        println!("\n── {name}: cargo {line}");
        let mut command = cargo(root, line);
        if name == "doc" {
            command.env("RUSTDOCFLAGS", "-D warnings");
        }
        child::run(&mut command, LIMIT, |line| tests.count(line))?;
    }
    Ok(None)
}

/// The words behind `cargo` of every line of the README's test command.
fn test_commands(readme: &str) -> anyhow::Result<Vec<&str>> {
    let lines = readme.lines();
    let lines = lines.skip_while(|line| *line != "<!-- ci:test -->");
    let block = lines.skip(2).take_while(|line| !line.starts_with("```"));
    let commands = block.map(|line| {
        let words = line.strip_prefix("cargo ");
        words.with_context(|| format!("README.md: `{line}` is no call of cargo"))
    });
    let commands = commands.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        !commands.is_empty(),
        "README.md has no block after <!-- ci:test -->"
    );
    Ok(commands)
}

impl Tests {
    /// Adds what a line `test result: ok. 12 passed; 0 failed; 1 ignored; …` says.
    pub(crate) fn count(&mut self, line: &str) {
        let result = line.strip_prefix("test result: ").unwrap_or_default();
        for part in result.split([';', '.']) {
            let (number, word) = part.trim().split_once(' ').unwrap_or_default();
            let number = number.parse().unwrap_or(0);
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

fn has_deny(root: &Path) -> bool {
    let found = cargo(root, "deny --version").output();
    found.is_ok_and(|output| output.status.success())
}

/// Whether the loader of Vulkan and a driver are there, if need be after an attempt to install them.
fn has_vulkan(install: bool) -> bool {
    let drivers = std::fs::read_dir("/usr/share/vulkan/icd.d");
    let has_driver = drivers.is_ok_and(|mut files| files.next().is_some());
    if has_driver && child::loaders().contains("libvulkan.so.1") {
        return cfg!(target_os = "linux");
    }
    if install {
        println!("\n── installing software Vulkan: {PACKAGES}");
        for line in ["update -qq", &format!("install -qq -y {PACKAGES}")] {
            let mut command = Command::new("apt-get");
            command.args(line.split_whitespace());
            command.env("DEBIAN_FRONTEND", "noninteractive");
            if let Err(why) = child::run(&mut command, LIMIT, |_| {}) {
                eprintln!("apt-get {line}: {why:#}");
            }
        }
        return has_vulkan(false);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_of_this_workspace_names_a_test_command() {
        let readme = std::fs::read_to_string(crate::workspace::root().join("README.md")).unwrap();
        assert_eq!(
            test_commands(&readme).unwrap(),
            ["test --release --workspace"]
        );
    }

    #[test]
    fn a_readme_without_the_command_or_with_another_program_is_an_error() {
        assert!(test_commands("# A\n```bash\ncargo test\n```\n").is_err());
        let other = "<!-- ci:test -->\n```bash\nmake\n```\n";
        assert!(
            test_commands(other)
                .unwrap_err()
                .to_string()
                .contains("`make`")
        );
        let two = "<!-- ci:test -->\n```bash\ncargo test\ncargo bench\n```\ncargo no\n";
        assert_eq!(test_commands(two).unwrap(), ["test", "bench"]);
    }

    #[test]
    fn tests_of_all_executables_are_added_up() {
        let lines = [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 1.0s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        let mut tests = Tests::default();
        lines.iter().for_each(|line| tests.count(line));
        let expected = Tests {
            passed: 22,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(tests, expected);
    }
}
