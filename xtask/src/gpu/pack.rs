//! A folder that does on a machine without Cargo what the command does here.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::options::{Options, Part};
use super::programs::Programs;

/// This program, in the folder.
const XTASK: &str = "xtask";

/// Writes `folder`, which [`is_empty`].
pub(crate) fn write(folder: &Path, options: &Options, programs: &Programs) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("--pack {}", folder.display()))?;
    for (name, path) in &programs.executables {
        strip(path, &folder.join(name))?;
    }
    let this = std::env::current_exe().context("this program has no path")?;
    strip(&this, &folder.join(XTASK))?;
    let files = [
        (Part::Peers, &programs.peers),
        (Part::Training, &programs.config),
    ];
    for (_, path) in files
        .iter()
        .filter(|(part, _)| options.parts.contains(part))
    {
        let name = path.file_name().context("a file")?;
        fs::copy(path, folder.join(name)).with_context(|| format!("cannot copy {path:?}"))?;
    }
    fs::write(folder.join("run.sh"), script(options)).context("cannot write run.sh")?;
    show(folder)
}

/// An error if something lies there: an executable of another day would be run with today's.
pub(crate) fn is_empty(folder: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).map_or(0, Iterator::count);
    ensure!(
        entries == 0,
        "--pack {}: not empty; name a new folder",
        folder.display()
    );
    Ok(())
}

/// Copies an executable without its symbols.
fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("strip");
    command.arg("-o").arg(to).arg(from);
    let status = command
        .status()
        .context("cannot start `strip`, which is part of binutils")?;
    ensure!(status.success(), "strip {}: {status}", from.display());
    Ok(())
}

/// What the other machine calls: this program, with its own arguments behind those of the pack.
fn script(options: &Options) -> String {
    let parts: Vec<&str> = options.parts.iter().map(|part| part.name()).collect();
    format!(
        r#"#!/usr/bin/env bash
# Checks and measures InfinityFormer's kernels on this machine's GPU, and ends with a table.
#   bash run.sh [--python PATH] [--fla FOLDER] [--only {parts}] [--rounds N] [--seconds N] [--out FOLDER]
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
# Not every way of unpacking keeps these.
find "$here" -maxdepth 1 -type f ! -name '*.*' -exec chmod +x {{}} +
# As .cargo/config.toml says for programs that Cargo starts.
export MIMALLOC_PURGE_DELAY="${{MIMALLOC_PURGE_DELAY:--1}}"
exec "$here/{XTASK}" gpu {device} --unpacked "$here" --only {parts} "$@"
"#,
        parts = parts.join(","),
        device = options.gpu.name,
    )
}

/// Names and sizes.
fn show(folder: &Path) -> anyhow::Result<()> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let bytes = entry.metadata()?.len();
        sum += bytes;
        let name = entry.file_name();
        println!("{:>8.1} MB  {}", bytes as f64 / 1e6, name.display());
    }
    println!(
        "{:>8.1} MB  in {}; then there: bash run.sh",
        sum as f64 / 1e6,
        folder.display()
    );
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args).unwrap()
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_empty(folder.path()).is_ok());
        assert!(is_empty(&folder.path().join("new")).is_ok());
        fs::write(folder.path().join("kernels"), "").unwrap();
        let error = is_empty(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn the_script_is_bash_and_hands_its_arguments_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.sh");
        fs::write(&path, script(&options("cuda --only scan,peers"))).unwrap();
        let said = folder.path().join(XTASK);
        fs::write(&said, "#!/usr/bin/env bash\necho \"$@\"\n").unwrap();
        let output = Command::new("bash")
            .arg(&path)
            .args(["--python", "a b"])
            .output()
            .unwrap();
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(line.starts_with("gpu cuda --unpacked "), "{line}");
        assert!(line.contains("--only scan,peers --python a b\n"), "{line}");
    }
}
