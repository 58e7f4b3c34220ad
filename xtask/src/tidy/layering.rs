//! The arrow `cli → train, serve → model → kernels`, and who may use what, in manifests and sources.
//!
//! Only the kernels name a compute backend. Only programs (the command line, xtask, examples) use
//! anyhow and clap, or print.

use super::source::{Finding, Tree, is_test_file, lines};

/// The libraries and the crates of this workspace each may depend on. The command line may use all.
const LIBRARIES: [(&str, &[&str]); 6] = [
    ("infinity-files", &[]),
    ("infinity-kernels", &[]),
    ("infinity-model", &["infinity-files", "infinity-kernels"]),
    (
        "infinity-train",
        &["infinity-files", "infinity-kernels", "infinity-model"],
    ),
    (
        "infinity-serve",
        &["infinity-files", "infinity-kernels", "infinity-model"],
    ),
    ("infinity-plot", &["infinity-files"]),
];
/// Crates that build without Burn, of which alone xtask may use some.
const WITHOUT_BURN: [&str; 2] = ["infinity-files", "infinity-plot"];
pub(super) const BACKENDS: [&str; 7] = [
    "burn-flex",
    "burn-cubecl",
    "cubecl",
    "burn-wgpu",
    "burn-cuda",
    "burn-rocm",
    "burn-ndarray",
];
pub(super) const FOR_PROGRAMS: [&str; 2] = ["anyhow", "clap"];
pub(super) const PRINTS: [&str; 5] = ["println!", "print!", "eprintln!", "eprint!", "dbg!"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let manifests = tree
        .files()
        .iter()
        .filter(|path| path.ends_with("/Cargo.toml"));
    let mut found: Vec<Finding> = manifests.flat_map(|path| manifest(tree, path)).collect();
    found.extend(tree.rust_files().flat_map(|path| source(tree, path)));
    found
}

/// The library a path belongs to, with what it may depend on.
fn library(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    let name = path.strip_prefix("crates/")?.split('/').next()?;
    LIBRARIES.into_iter().find(|(library, _)| *library == name)
}

fn manifest(tree: &Tree, path: &str) -> Vec<Finding> {
    let text = tree.text(path).unwrap_or_default();
    let table: toml::Table = match toml::from_str(&text) {
        Ok(table) => table,
        Err(error) => return vec![Finding::in_file(path, error.message())],
    };
    dependencies(&table)
        .iter()
        .filter_map(|name| forbidden(path, name))
        .map(|message| Finding::in_file(path, message))
        .collect()
}

/// Says why the package at `path` may not depend on `name`, if it may not.
fn forbidden(path: &str, name: &str) -> Option<String> {
    if BACKENDS.contains(&name) && !path.starts_with("crates/infinity-kernels/") {
        return Some(format!(
            "`{name}`: only infinity-kernels names a compute backend"
        ));
    }
    let with_burn = name.starts_with("burn") || name.starts_with("infinity-");
    let builds_without = path.starts_with("xtask/")
        || library(path).is_some_and(|(library, _)| WITHOUT_BURN.contains(&library));
    if builds_without && with_burn && !WITHOUT_BURN.contains(&name) {
        let package = path.rsplit('/').nth(1).unwrap_or(path);
        return Some(format!("`{name}`: {package} builds without Burn"));
    }
    let (library, below) = library(path)?;
    if FOR_PROGRAMS.contains(&name) {
        return Some(format!(
            "`{name}` is for programs; a library has its own errors"
        ));
    }
    // A crate names itself among its dev-dependencies to switch a feature on in its tests.
    let allowed = !name.starts_with("infinity-") || name == library || below.contains(&name);
    (!allowed).then(|| {
        format!("`{name}` may not be known to {library}: cli → train, serve → model → kernels")
    })
}

/// Package names in every dependency table of a manifest, those for one target included.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets
        .into_iter()
        .flat_map(|t| t.values())
        .filter_map(toml::Value::as_table);
    std::iter::once(manifest)
        .chain(targets)
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"]
                .into_iter()
                .filter_map(|kind| table.get(kind)?.as_table())
        })
        .flat_map(|table| table.iter())
        .map(|(key, value)| {
            value
                .get("package")
                .and_then(toml::Value::as_str)
                .unwrap_or(key)
        })
        .map(str::to_owned)
        .collect()
}

fn source(tree: &Tree, path: &str) -> Vec<Finding> {
    let text = tree.text(path).unwrap_or_default();
    let may_name_backends = path.starts_with("crates/infinity-kernels/");
    let may_print = library(path).is_none() || is_test_file(path);
    let mut found = Vec::new();
    for line in lines(&text) {
        let backend = BACKENDS
            .iter()
            .find(|name| line.has_word(&name.replace('-', "_")));
        if let Some(name) = backend.filter(|_| !may_name_backends) {
            let message = format!("`{name}`: only infinity-kernels names a compute backend");
            found.push(Finding::at(path, line.number, message));
        }
        let print = PRINTS.iter().find(|name| line.has_word(name));
        if let Some(name) = print.filter(|_| !may_print && !line.is_test) {
            let message = format!("`{name}` in a library; return the text to the caller");
            found.push(Finding::at(path, line.number, message));
        }
    }
    found
}
