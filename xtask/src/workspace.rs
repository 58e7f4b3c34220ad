//! The workspace: where it lies, its Cargo, and what is started there: `cargo xtask bench <name>`, one table of
//! measurements, and the tests that run for long or under valgrind.
//!
//! The benches themselves check their results before they time anything; this only starts them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// The folder above this package, as Cargo names it when it starts this program: a build folder may be shared
/// by several clones, and a path compiled in may be that of another one.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let package = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = package.parent().map(Path::to_path_buf);
    root.expect("xtask lies inside the workspace")
}

/// The Cargo that runs this program, so that nested calls use the same toolchain.
pub(crate) fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(args);
    command
}

struct Bench {
    name: &'static str,
    about: &'static str,
    /// Where it is, for the list and for a test that it is there.
    package: &'static str,
    target: &'static str,
}

const BENCHES: [Bench; 6] = [
    Bench {
        name: "model",
        about: "training tokens/s of a config against the best f32 product and, with --python, against PyTorch; --profile",
        package: "infinity-train",
        target: "model_throughput",
    },
    Bench {
        name: "decoding",
        about: "tokens generated and read, as shares of memory bandwidth and matmul peak",
        package: "infinity-model",
        target: "decoding",
    },
    Bench {
        name: "serving",
        about: "texts at once against one, and the gap between tokens while a neighbour reads",
        package: "infinity-serve",
        target: "serving",
    },
    Bench {
        name: "length",
        about: "time and memory against sequence length, softmax attention beside it",
        package: "infinity-train",
        target: "length",
    },
    Bench {
        name: "checkpointing",
        about: "memory and time of every way of gradient checkpointing, and a million tokens",
        package: "infinity-train",
        target: "checkpointing",
    },
    Bench {
        name: "kernels",
        about: "every operator, form and length: checked, then time, memory, distance from the roof",
        package: "infinity-kernels",
        target: "kernels",
    },
];

impl Bench {
    /// The bench's sources, a file or a folder, in its package.
    #[cfg(test)]
    fn path(&self) -> String {
        format!("crates/{}/benches/{}", self.package, self.target)
    }

    /// Cargo's words. Of the whole workspace, as the tests are built: for one package alone Cargo would
    /// put together other features of Burn and build it once more.
    fn command(&self) -> [&'static str; 5] {
        ["bench", "--workspace", "--bench", self.target, "--"]
    }
}

/// Runs the bench that `args` names first and hands it the rest of `args`.
pub(crate) fn bench(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let Some((name, rest)) = args.split_first() else {
        println!(
            "usage: cargo xtask bench <name> [arguments of the bench]\n\n{}",
            list()
        );
        return Ok(());
    };
    let bench = find(name)?;
    let mut command: Vec<&str> = bench.command().to_vec();
    command.extend(rest.iter().map(String::as_str));
    println!("cargo {}", command.join(" "));
    let status = cargo(root, &command)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "bench `{name}`: {status}");
    Ok(())
}

fn find(name: &str) -> anyhow::Result<&'static Bench> {
    match BENCHES.iter().find(|bench| bench.name == name) {
        Some(bench) => Ok(bench),
        None => bail!("unknown bench `{name}`\n\n{}", list()),
    }
}

fn list() -> String {
    BENCHES
        .iter()
        .map(|bench| format!("  {:<13} {} ({})\n", bench.name, bench.about, bench.package))
        .collect()
}

/// A variable that holds how many inputs there are, and the usual number.
type Variable = Option<(&'static str, u64)>;

/// Tests that run for long when they are asked to: the command, Cargo's words, and the variable that holds how many
/// inputs there are, with the usual number.
const LONG: [(&str, &str, Variable); 2] = [
    (
        "kills",
        "test --release --workspace --test resume a_thousand_kills -- --ignored --nocapture",
        None,
    ),
    (
        "fuzz",
        "test --release --workspace --test fuzz -- --nocapture",
        Some(("INFINITY_FUZZ", 1_000_000)),
    ),
];

/// `cargo xtask kills` and `fuzz [N]`: what CI does with small numbers, with large ones.
pub(crate) fn long(root: &Path, command: &str, args: &[String]) -> anyhow::Result<()> {
    let found = LONG.iter().find(|(name, ..)| *name == command);
    let (_, line, variable) = found.context("a command of LONG")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut call = cargo(root, &words);
    match (args, variable) {
        ([], None) => {}
        ([] | [_], Some((variable, usual))) => {
            let number = args.first().map_or(Ok(*usual), |number| number.parse());
            let number = number.with_context(|| format!("{command} {args:?}: one whole number"))?;
            call.env(variable, number.to_string());
        }
        _ => bail!("{command} {args:?}: too many words"),
    }
    println!("cargo {line}");
    let status = call.status().context("cannot start cargo")?;
    ensure!(status.success(), "{command}: {status}");
    Ok(())
}

/// What runs under valgrind if nothing is named: small tests of the products and of every native kernel.
const SMALL: [&str; 10] = [
    "cpu::exp",
    "cpu::gemm",
    "cpu::product",
    "cpu::results",
    "cpu::rows",
    "cpu::tensors",
    "cpu::transpose",
    "linear::cpu",
    "linear::few_rows",
    "flex::",
];

/// Code with which valgrind ends a program in which it found an error.
const FOUND: i32 = 99;

/// `cargo xtask valgrind [FILTER...]`: the kernels' tests under valgrind, which must find no use of memory that nobody
/// wrote, and must find the one that a test makes on purpose. Up to AVX2: valgrind knows no AVX-512.
pub(crate) fn valgrind(root: &Path, filters: &[String]) -> anyhow::Result<()> {
    let line = "test --release --workspace --lib --test kernels --no-run --message-format json-render-diagnostics";
    let built = executables(root, &line.split_whitespace().collect::<Vec<_>>())?;
    let find = |name: &str| {
        let found = built.iter().find(|(target, ..)| target == name);
        found
            .map(|(.., path)| path)
            .with_context(|| format!("cargo built no tests of {name}"))
    };
    let (library, kernels) = (find("infinity_kernels")?, find("kernels")?);
    let run = |path: &Path, words: &[&str]| {
        let mut command = Command::new("valgrind");
        command.arg(format!("--error-exitcode={FOUND}"));
        command
            .args(["--quiet", "--leak-check=no"])
            .arg(path)
            .args(words);
        command
            .env("INFINITY_SIMD", "avx2")
            .env("RAYON_NUM_THREADS", "2");
        println!("\n── valgrind {} {}", path.display(), words.join(" "));
        let status = command.status().context("cannot start valgrind")?;
        anyhow::Ok(status.code())
    };
    let caught = run(library, &["a_value_left_unwritten_is_caught", "--ignored"])?;
    ensure!(
        caught == Some(FOUND),
        "valgrind does not see a value that nobody wrote: {caught:?}"
    );
    let filters: Vec<&str> = match filters {
        [] => SMALL.to_vec(),
        _ => filters.iter().map(String::as_str).collect(),
    };
    for path in [library, kernels] {
        let ended = run(path, &filters)?;
        ensure!(ended == Some(0), "{} ended with {ended:?}", path.display());
    }
    println!("\nvalgrind: nothing found but what was put there on purpose");
    Ok(())
}

/// Builds with the Cargo words given and returns every executable: name and kind of its target, and its path.
pub(crate) fn executables(
    root: &Path,
    words: &[&str],
) -> anyhow::Result<Vec<(String, String, PathBuf)>> {
    println!("cargo {}", words.join(" "));
    let mut command = cargo(root, words);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.context("cannot start cargo")?;
    let status = output.status;
    ensure!(status.success(), "cargo {}: {status}", words.join(" "));
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(executable).collect())
}

/// The executable that a line of Cargo's messages tells of.
fn executable(line: &str) -> Option<(String, String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?;
    let (name, kind) = (&message["target"]["name"], &message["target"]["kind"][0]);
    Some((
        name.as_str()?.to_owned(),
        kind.as_str()?.to_owned(),
        path.into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bench_exists_in_its_package() {
        for bench in &BENCHES {
            let path = root().join(bench.path());
            let exists = path.with_extension("rs").is_file() || path.join("main.rs").is_file();
            assert!(
                exists,
                "`{}` starts {}, which is missing",
                bench.name,
                path.display()
            );
        }
    }

    #[test]
    fn an_unknown_bench_is_answered_with_the_list() {
        let error = find("modle").err().expect("no such bench").to_string();
        for bench in &BENCHES {
            assert!(error.contains(bench.about), "{error}");
        }
    }

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"memory_scan"},"executable":"/t/memory_scan-1"}"#;
        let expected = (
            "memory_scan".to_owned(),
            "bench".to_owned(),
            "/t/memory_scan-1".into(),
        );
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
        let error = long(Path::new("."), "fuzz", &["many".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("many"), "{error}");
    }
}
