//! The arrow `cli → train, serve → model → kernels`, and who may use what, in manifests and sources.
//!
//! Only the kernels name a compute backend. Only programs (the command line, xtask, examples) use
//! anyhow and clap, or print.

use super::source::{Token, Tree, is_test_file};

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
pub(super) const PRINTS: [&str; 5] = ["println", "print", "eprintln", "eprint", "dbg"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let manifests = tree
        .files()
        .filter(|(path, _)| path.ends_with("/Cargo.toml"));
    let manifests = manifests.flat_map(|(path, file)| manifest(path, &file.text));
    let sources = tree
        .rust_files()
        .flat_map(|(path, file)| source(path, &file.tokens));
    manifests.chain(sources).collect()
}

/// The library a path belongs to, with what it may depend on.
fn library(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    let name = path.strip_prefix("crates/")?.split('/').next()?;
    LIBRARIES.into_iter().find(|(library, _)| *library == name)
}

fn manifest(path: &str, text: &str) -> Vec<String> {
    let manifest: toml::Table = match toml::from_str(text) {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("{path}: {}", error.message())],
    };
    // Those for one target have their own tables.
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flat_map(toml::Table::values);
    let packages = std::iter::once(&manifest).chain(targets.filter_map(toml::Value::as_table));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    packages
        .flat_map(|table| kinds.map(|kind| table.get(kind)?.as_table()))
        .flatten()
        .flatten()
        .map(|(key, value)| {
            value
                .get("package")
                .and_then(toml::Value::as_str)
                .unwrap_or(key)
        })
        .filter_map(|name| Some(format!("{path}: {}", forbidden(path, name)?)))
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

fn source(path: &str, tokens: &[Token]) -> Vec<String> {
    let may_name_backends = path.starts_with("crates/infinity-kernels/");
    let may_print = library(path).is_none() || is_test_file(path);
    let mut found = Vec::new();
    for (
        at,
        Token {
            text,
            line,
            is_test,
        },
    ) in tokens.iter().enumerate()
    {
        if !may_name_backends && BACKENDS.contains(&&*text.replace('_', "-")) {
            found.push(format!(
                "{path}:{line}: `{text}`: only infinity-kernels names a compute backend"
            ));
        }
        let calls = tokens.get(at + 1).is_some_and(|next| next.text == "!");
        if !may_print && !is_test && calls && PRINTS.contains(&&**text) {
            found.push(format!(
                "{path}:{line}: `{text}!` in a library; return the text to the caller"
            ));
        }
    }
    found
}
