//! The workspace: where it lies, its Cargo, and `cargo xtask bench <name>`, one table of its measurements.
//!
//! The benches themselves check their results before they time anything; this only starts them.

use std::path::{Path, PathBuf};
use std::process::Command;

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

const BENCHES: [Bench; 5] = [
    Bench {
        name: "model",
        about: "training tokens/s of a config, and its share of this machine's f32 matmul peak",
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
}
