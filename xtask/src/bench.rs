//! `cargo xtask bench <name>`: one table of measurements and the Cargo command behind each.
//!
//! The benches themselves check their results before they time anything; this only starts them.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::cargo;

struct Bench {
    name: &'static str,
    about: &'static str,
    command: &'static [&'static str],
}

const BENCHES: [Bench; 5] = [
    Bench {
        name: "model",
        about: "training tokens/s of a config, and its share of this machine's f32 matmul peak",
        command: &[
            "bench",
            "-p",
            "infinity-train",
            "--bench",
            "model_throughput",
            "--",
        ],
    },
    Bench {
        name: "decoding",
        about: "tokens generated and read, as shares of memory bandwidth and matmul peak",
        command: &["bench", "-p", "infinity-model", "--bench", "decoding", "--"],
    },
    Bench {
        name: "length",
        about: "time and memory against sequence length, softmax attention beside it",
        command: &["bench", "-p", "infinity-train", "--bench", "length", "--"],
    },
    Bench {
        name: "checkpointing",
        about: "memory and time of every way of gradient checkpointing, and a million tokens",
        command: &[
            "bench",
            "-p",
            "infinity-train",
            "--bench",
            "checkpointing",
            "--",
        ],
    },
    Bench {
        name: "kernels",
        about: "every operator, form and length: checked, then time, memory, distance from the roof",
        command: &[
            "bench",
            "-p",
            "infinity-kernels",
            "--bench",
            "kernels",
            "--",
        ],
    },
];

/// Runs the bench that `args` names first and hands it the rest of `args`.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let Some((name, rest)) = args.split_first() else {
        println!(
            "usage: cargo xtask bench <name> [arguments of the bench]\n\n{}",
            list()
        );
        return Ok(());
    };
    let bench = find(name)?;
    let mut command: Vec<&str> = bench.command.to_vec();
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
        .map(|bench| format!("  {:<13} {}\n", bench.name, bench.about))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word after `flag` in a command.
    fn value(command: &[&'static str], flag: &str) -> &'static str {
        let at = command
            .iter()
            .position(|word| *word == flag)
            .expect("the flag is there");
        command[at + 1]
    }

    #[test]
    fn every_bench_exists_in_its_package() {
        for bench in &BENCHES {
            let package = value(bench.command, "-p");
            let target = value(bench.command, "--bench");
            let path = format!("crates/{package}/benches/{target}");
            let path = crate::workspace_root().join(path);
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
