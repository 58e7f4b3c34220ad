//! The executables of a measurement: built by Cargo, or lying in an unpacked folder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::options::{Gpu, Options, Part};
use crate::workspace::cargo;

pub(crate) const KERNELS: &str = "kernels";
pub(crate) const LEARNING: &str = "training";
pub(crate) const SCAN: &str = "memory_scan";
pub(crate) const THROUGHPUT: &str = "model_throughput";

/// Cargo's targets by the part that needs them, and the flag that builds them.
const TARGETS: [(Part, &str, &str); 4] = [
    (Part::Tests, "--test", KERNELS),
    (Part::Tests, "--test", LEARNING),
    (Part::Scan, "--bench", SCAN),
    (Part::Training, "--bench", THROUGHPUT),
];
/// The script that measures others, and the run whose steps are timed; from the workspace's root.
const PEERS: &str = "xtask/src/gpu/peers.py";
const CONFIG: &str = "configs/novels-large.toml";

/// Where everything that runs lies; all paths are absolute.
#[derive(Debug)]
pub(crate) struct Programs {
    /// By the name of Cargo's target.
    pub(crate) executables: BTreeMap<&'static str, PathBuf>,
    pub(crate) peers: PathBuf,
    pub(crate) config: PathBuf,
    /// Where they are started.
    pub(crate) folder: PathBuf,
}

impl Programs {
    /// Builds what `options` needs.
    pub(crate) fn build(root: &Path, options: &Options) -> anyhow::Result<Self> {
        let executables = match command(options.gpu, &options.parts) {
            Some(command) => compile(root, &command)?,
            None => BTreeMap::new(),
        };
        Ok(Programs {
            executables,
            peers: root.join(PEERS),
            config: root.join(CONFIG),
            folder: root.to_path_buf(),
        })
    }

    /// What lies in `folder`.
    pub(crate) fn unpacked(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("--unpacked {}: no such folder", folder.display()))?;
        let files = TARGETS.map(|(_, _, name)| (name, folder.join(name)));
        let executables = files.into_iter().filter(|(_, path)| path.is_file());
        Ok(Programs {
            executables: executables.collect(),
            peers: folder.join(name_of(PEERS)),
            config: folder.join(name_of(CONFIG)),
            folder,
        })
    }

    /// An executable, or why it is not there.
    pub(crate) fn executable(&self, name: &str) -> Result<&Path, String> {
        let found = self.executables.get(name).map(PathBuf::as_path);
        found.ok_or_else(|| format!("`{name}` is not in this pack"))
    }
}

/// The last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The Cargo command that builds what `parts` need: one, so that Burn is built once.
fn command(gpu: Gpu, parts: &[Part]) -> Option<Vec<String>> {
    let targets: Vec<&str> = TARGETS
        .iter()
        .filter(|(part, ..)| parts.contains(part))
        .flat_map(|(_, flag, name)| [*flag, *name])
        .collect();
    if targets.is_empty() {
        return None;
    }
    let name = gpu.name;
    let line = format!(
        "test --release --no-run --message-format json-render-diagnostics \
         -p infinity-kernels -p infinity-train \
         --features infinity-kernels/{name},infinity-train/{name}"
    );
    let words = line.split_whitespace().chain(targets);
    Some(words.map(str::to_owned).collect())
}

fn compile(root: &Path, words: &[String]) -> anyhow::Result<BTreeMap<&'static str, PathBuf>> {
    println!("cargo {}", words.join(" "));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = cargo(root, &words)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo's output is piped")?;
    let mut executables = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        executables.extend(artifact(&line.context("cannot read what cargo says")?));
    }
    let status = child.wait().context("cargo was lost")?;
    ensure!(status.success(), "cargo {}: {status}", words.join(" "));
    for name in TARGETS.map(|(_, _, name)| name) {
        if words.contains(&name) && !executables.contains_key(name) {
            bail!("cargo built no executable `{name}`");
        }
    }
    Ok(executables)
}

/// The executable that a line of Cargo's messages tells of, if it is one of ours.
fn artifact(line: &str) -> Option<(&'static str, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let executable = message["executable"].as_str()?;
    let (name, kind) = (&message["target"]["name"], &message["target"]["kind"][0]);
    let ours = TARGETS
        .iter()
        .find(|(_, flag, target)| name == target && kind == flag.trim_start_matches('-'));
    ours.map(|(_, _, target)| (*target, PathBuf::from(executable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args).unwrap()
    }

    #[test]
    fn one_command_builds_what_was_asked_for_and_no_more() {
        let Options { gpu, parts, .. } = options("cuda --only tests,scan");
        let line = command(gpu, &parts).unwrap().join(" ");
        assert!(line.contains("infinity-kernels/cuda,infinity-train/cuda"));
        assert!(
            line.ends_with("--test kernels --test training --bench memory_scan"),
            "{line}"
        );
        let Options { gpu, parts, .. } = options("cuda --only peers");
        assert_eq!(command(gpu, &parts), None);
    }

    #[test]
    fn targets_and_files_exist() {
        let root = crate::workspace::root();
        for path in [PEERS, CONFIG] {
            assert!(root.join(path).is_file(), "{path}");
        }
        for (folder, target) in [
            ("crates/infinity-kernels/tests/", "main.rs"),
            ("crates/infinity-train/tests/", "training/main.rs"),
            ("crates/infinity-kernels/benches/", "memory_scan/main.rs"),
            ("crates/infinity-train/benches/", "model_throughput.rs"),
        ] {
            assert!(root.join(folder).join(target).is_file(), "{folder}{target}");
        }
    }

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"memory_scan"},"executable":"/t/memory_scan-1"}"#;
        assert_eq!(artifact(line), Some((SCAN, "/t/memory_scan-1".into())));
        let library = line.replace("\"/t/memory_scan-1\"", "null");
        let other = line.replace("bench", "test");
        for line in [&*library, &*other, "warning: unused"] {
            assert_eq!(artifact(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_not_in_the_folder_is_said_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SCAN), "").unwrap();
        let programs = Programs::unpacked(folder.path()).unwrap();
        assert!(programs.executable(SCAN).is_ok());
        let why = programs.executable(KERNELS).unwrap_err();
        assert!(why.contains("`kernels`"), "{why}");
        let error = Programs::unpacked(Path::new("no/such")).unwrap_err();
        assert!(error.to_string().contains("--unpacked no/such"));
    }
}
