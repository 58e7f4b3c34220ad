//! The workspace: where it lies, its Cargo, and what is started there: `cargo xtask bench <name>`, one table of
//! measurements, and the tests that run for long or under valgrind.
//!
//! The benches themselves check their results before they time anything; this only starts them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::child;

/// The folder above this package, as Cargo names it when it starts this program: a build folder may be shared
/// by several clones, and a path compiled in may be that of another one.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let package = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = package.parent().map(Path::to_path_buf);
    root.expect("xtask lies inside the workspace")
}

/// The Cargo that runs this program, so that nested calls use the same toolchain.
pub(crate) fn cargo(root: &Path, words: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(words.split_whitespace());
    command
}

/// A line a bench: its name, its package and target, and what it measures, as a user is shown it.
const BENCHES: &str = "\
model          infinity-train/model_throughput  training tokens/s of a config against the best f32 product and, with --python, against PyTorch; --profile
decoding       infinity-model/decoding          tokens generated and read, as shares of memory bandwidth and matmul peak
serving        infinity-serve/serving           texts at once against one, and the gap between tokens while a neighbour reads
length         infinity-train/length            time and memory against sequence length, softmax attention beside it
checkpointing  infinity-train/checkpointing     memory and time of every way of gradient checkpointing, and a million tokens
kernels        infinity-kernels/kernels         every operator, form and length: checked, then time, memory, distance from the roof
";

/// Runs the bench that `args` names first and hands it the rest of `args`.
pub(crate) fn bench(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let Some((name, rest)) = args.split_first() else {
        println!("usage: cargo xtask bench <name> [arguments of the bench]\n\n{BENCHES}");
        return Ok(());
    };
    let known = benches().find(|(known, ..)| known == name);
    let (_, _, target) = known.with_context(|| format!("unknown bench `{name}`\n\n{BENCHES}"))?;
    // Of the whole workspace, as the tests are built: for one package alone Cargo would put together other features
    // of Burn and build it once more.
    let line = format!("bench --workspace --bench {target} --");
    println!("cargo {line} {}", rest.join(" "));
    child::succeed(&format!("bench `{name}`"), cargo(root, &line).args(rest))
}

/// Name, package and target of every bench.
fn benches() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    BENCHES.lines().filter_map(|line| {
        let (name, line) = line.split_once(' ')?;
        let (package, line) = line.trim_start().split_once('/')?;
        Some((name, package, line.split(' ').next()?))
    })
}

/// `cargo xtask kills`: what CI does with a few kills, with 1,000.
pub(crate) fn kills(root: &Path, args: &[String]) -> anyhow::Result<()> {
    ensure!(args.is_empty(), "kills {args:?}: too many words");
    let line = "test --release --workspace --test resume a_thousand_kills -- --ignored --nocapture";
    println!("cargo {line}");
    child::succeed("kills", &mut cargo(root, line))
}

/// `cargo xtask fuzz [N]`: what CI does with a few inputs, with many.
pub(crate) fn fuzz(root: &Path, args: &[String]) -> anyhow::Result<()> {
    ensure!(args.len() <= 1, "fuzz {args:?}: too many words");
    let number = args.first().map_or("1000000", String::as_str);
    let whole = number.parse::<u64>();
    whole.with_context(|| format!("fuzz {args:?}: one whole number"))?;
    let line = "test --release --workspace --test fuzz -- --nocapture";
    println!("cargo {line}");
    child::succeed("fuzz", cargo(root, line).env("INFINITY_FUZZ", number))
}

/// What runs under valgrind if nothing is named: small tests of the products and of every native kernel.
const SMALL: &str = "cpu::exp cpu::gemm cpu::product cpu::results cpu::rows cpu::tensors cpu::transpose \
    linear::cpu linear::few_rows flex::";

/// Code with which valgrind ends a program in which it found an error.
const FOUND: i32 = 99;

/// `cargo xtask valgrind [FILTER...]`: the kernels' tests under valgrind, which must find no use of memory that nobody
/// wrote, and must find the one that a test makes on purpose. Up to AVX2: valgrind knows no AVX-512.
pub(crate) fn valgrind(root: &Path, filters: &[String]) -> anyhow::Result<()> {
    let line = "test --release --workspace --lib --test kernels --no-run --message-format json-render-diagnostics";
    let built = executables(root, line)?;
    let find = |name| {
        let tests = built.get(name);
        tests.with_context(|| format!("cargo built no tests of {name}"))
    };
    let (library, kernels) = (find("infinity_kernels")?, find("kernels")?);
    let run = |path: &Path, words: &str| {
        let mut command = Command::new("valgrind");
        command.arg(format!("--error-exitcode={FOUND}"));
        command.args(["--quiet", "--leak-check=no"]);
        command.arg(path).args(words.split_whitespace());
        command.envs([("INFINITY_SIMD", "avx2"), ("RAYON_NUM_THREADS", "2")]);
        println!("\n── valgrind {} {words}", path.display());
        let status = command.status().context("cannot start valgrind")?;
        anyhow::Ok(status.code())
    };
    let caught = run(library, "a_value_left_unwritten_is_caught --ignored")?;
    ensure!(
        caught == Some(FOUND),
        "valgrind does not see a value that nobody wrote: {caught:?}"
    );
    let filters = match filters {
        [] => SMALL.to_owned(),
        _ => filters.join(" "),
    };
    for path in [library, kernels] {
        let ended = run(path, &filters)?;
        ensure!(ended == Some(0), "{} ended with {ended:?}", path.display());
    }
    println!("\nvalgrind: nothing found but what was put there on purpose");
    Ok(())
}

/// Builds with the words given and returns every executable by the name of its target.
pub(crate) fn executables(root: &Path, words: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    println!("cargo {words}");
    let output = cargo(root, words).stderr(Stdio::inherit()).output();
    let output = output.context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {words}: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(executable).collect())
}

/// The executable that a line of Cargo's messages tells of.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?;
    Some((name.to_owned(), message["executable"].as_str()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bench_exists_in_its_package() {
        assert_eq!(benches().count(), BENCHES.lines().count());
        for (name, package, target) in benches() {
            let path = root().join(format!("crates/{package}/benches/{target}"));
            let exists = path.with_extension("rs").is_file() || path.join("main.rs").is_file();
            let path = path.display();
            assert!(exists, "`{name}` starts {path}, which is missing");
        }
    }

    #[test]
    fn an_unknown_bench_is_answered_with_the_list() {
        let error = bench(Path::new("."), &["modle".to_owned()]).unwrap_err();
        assert!(error.to_string().contains(BENCHES), "{error}");
    }

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"memory_scan"},"executable":"/t/memory_scan-1"}"#;
        let expected = ("memory_scan".to_owned(), "/t/memory_scan-1".into());
        assert_eq!(executable(line), Some(expected));
        for other in [
            &*line.replace("\"/t/memory_scan-1\"", "null"),
            "warning: unused",
        ] {
            assert_eq!(executable(other), None, "{other}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_named() {
        let error = fuzz(Path::new("."), &["many".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("many"), "{error}");
    }
}
