//! What `cargo xtask gpu` carries to another machine: executables, files, the loader of Vulkan, and the script that starts it there.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::plan::{Options, Programs};
use crate::child;

/// The most of a pack that is carried.
const PACK_MEGABYTES: f64 = 60.0;

/// What a Vulkan driver needs of a system and a machine for computing may lack: the loader, and what NVIDIA's driver is linked with.
const LOADERS: &str = "libvulkan.so.1 libGLdispatch.so.0 libX11.so.6 libXext.so.6 libxcb.so.1 libXau.so.6 \
    libXdmcp.so.6 libbsd.so.0 libmd.so.0";
/// Where they lie in a pack.
const LOADERS_FOLDER: &str = "lib";

/// Copies everything into `folder`, executables without their symbols, and packs that.
pub(crate) fn pack(programs: &Programs, folder: &Path, options: &Options) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("--pack {}", folder.display()))?;
    let this = std::env::current_exe().context("this program has no path")?;
    for (name, path) in programs.0.iter().chain([(&"xtask".to_owned(), &this)]) {
        let to = folder.join(name);
        if name.contains('.') {
            fs::copy(path, to).with_context(|| path.display().to_string())?;
        } else {
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(to).arg(path);
            child::succeed("strip, which is part of binutils", &mut strip)?;
        }
    }
    fs::write(folder.join("run.sh"), script(options)).context("cannot write run.sh")?;
    if ["vulkan", "wgpu"].contains(&&*options.gpu) {
        pack_loaders(&folder.join(LOADERS_FOLDER))?;
    }
    // The executables share most of their code: a dictionary that spans them.
    let packed = format!("{}.tar.xz", folder.display());
    let line = r#"tar -C "$0" -c . | xz -T0 --lzma2=preset=2,dict=512MiB > "$1""#;
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", line]);
    child::succeed("tar and xz", command.arg(folder).arg(&packed))?;
    let bytes = fs::metadata(&packed).context("the pack")?.len();
    let megabytes = bytes as f64 / 1e6;
    println!("{megabytes:.1} MB  {packed}; there: bash run.sh");
    let fits = megabytes <= PACK_MEGABYTES;
    ensure!(
        fits,
        "more than {PACK_MEGABYTES} MB: leave parts out with --only"
    );
    Ok(())
}

/// Copies those of [`LOADERS`] that this machine has.
pub(crate) fn pack_loaders(folder: &Path) -> anyhow::Result<()> {
    let listed = child::loaders();
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for name in LOADERS.split(' ') {
        // `libvulkan.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libvulkan.so.1`
        let start = format!("{name} (");
        let mut lines = listed.lines().filter_map(|line| line.split_once(" => "));
        match lines.find(|(line, _)| line.trim_start().starts_with(&start)) {
            Some((_, path)) => {
                fs::copy(path, folder.join(name)).with_context(|| path.to_owned())?;
            }
            None => println!("{name} is not on this machine and does not go along"),
        }
    }
    Ok(())
}

/// An error if something lies there: an executable of another day would be run with today's.
pub(crate) fn is_empty(folder: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).map_or(0, Iterator::count);
    let folder = folder.display();
    ensure!(
        entries == 0,
        "--pack {folder}: not empty; name a new folder"
    );
    Ok(())
}

/// What the other machine calls: this program, with its own arguments behind those of the pack.
pub(crate) fn script(options: &Options) -> String {
    let (parts, device) = (options.parts.join(","), &options.gpu);
    format!(
        r#"#!/usr/bin/env bash
# Checks and measures InfinityFormer's kernels on this machine's GPU, and ends with a table.
#   bash run.sh [--python PATH] [--fla FOLDER] [--text FILE] [--only {parts}] [--rounds N] [--seconds N] [--out FOLDER]
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
# Not every way of unpacking keeps these.
find "$here" -maxdepth 1 -type f ! -name '*.*' -exec chmod +x {{}} +
# As .cargo/config.toml says for programs that Cargo starts.
export MIMALLOC_PURGE_DELAY="${{MIMALLOC_PURGE_DELAY:--1}}"
# Vulkan: what the pack brings of it and this machine lacks; and the driver, where no file names it.
known="$(ldconfig -p 2>/dev/null || true)"
if [ -d "$here/{LOADERS_FOLDER}" ]; then
  mkdir -p "$here/lacking"
  for lib in "$here/{LOADERS_FOLDER}"/*; do
    grep -qF "$(basename "$lib") (" <<<"$known" || ln -sf "$lib" "$here/lacking/"
  done
  export LD_LIBRARY_PATH="${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}$here/lacking"
  if ! ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then
    driver=libGLX_nvidia.so.0
    grep -qF "libEGL_nvidia.so.0 (" <<<"$known" && driver=libEGL_nvidia.so.0
    printf '{{"file_format_version":"1.0.1","ICD":{{"library_path":"%s","api_version":"1.3.0"}}}}\n' "$driver" > "$here/driver.json"
    export VK_DRIVER_FILES="${{VK_DRIVER_FILES:-$here/driver.json}}"
  fi
fi
exec "$here/xtask" gpu {device} --unpacked "$here" --only {parts} "$@"
"#
    )
}
