//! The arrow `cli → train, serve → model → kernels`, and who may use what, in manifests and sources.
//!
//! Only the kernels name a compute backend. Only programs (the command line, xtask, examples) use
//! anyhow and clap, or print.

use super::source::{Token, Tree, is_test_file};

/// The libraries and the libraries of this workspace each may depend on. The command line may use all.
const LIBRARIES: [(&str, &str); 6] = [
    ("infinity-files", ""),
    ("infinity-kernels", ""),
    ("infinity-model", "files, kernels"),
    ("infinity-train", "files, kernels, model"),
    ("infinity-serve", "files, kernels, model"),
    ("infinity-plot", "files"),
];
/// Crates that build without Burn, of which alone xtask may use some.
const WITHOUT_BURN: [&str; 2] = ["infinity-files", "infinity-plot"];
/// The crate that names compute backends.
const KERNELS: &str = "crates/infinity-kernels/";
const ONLY_KERNELS: &str = "only infinity-kernels names a compute backend";
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

pub(super) fn check(tree: &Tree, found: &mut Vec<String>) {
    for (path, file) in tree.files() {
        if path.ends_with("/Cargo.toml") {
            manifest(path, &file.text, found);
        }
        source(path, &file.tokens, found);
    }
}

/// The library a path belongs to, with what it may depend on.
fn library(path: &str) -> Option<(&'static str, &'static str)> {
    let name = path.strip_prefix("crates/")?.split('/').next()?;
    LIBRARIES.into_iter().find(|(library, _)| *library == name)
}

fn manifest(path: &str, text: &str, found: &mut Vec<String>) {
    match toml::from_str(text) {
        Ok(manifest) => {
            let why = dependencies(&manifest).into_iter();
            let why = why.filter_map(|name| forbidden(path, name));
            found.extend(why.map(|why| format!("{path}: {why}")));
        }
        Err(error) => found.push(format!("{path}: {}", error.message())),
    }
}

/// The packages that the tables of a manifest name; those for one target have tables inside others.
fn dependencies(table: &toml::Table) -> Vec<&str> {
    let mut names = Vec::new();
    for (kind, value) in table {
        let Some(inside) = value.as_table() else {
            continue;
        };
        if !["dependencies", "dev-dependencies", "build-dependencies"].contains(&&**kind) {
            names.extend(dependencies(inside));
            continue;
        }
        names.extend(inside.iter().map(|(key, value)| {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            renamed.unwrap_or(key)
        }));
    }
    names
}

/// Says why the package at `path` may not depend on `name`, if it may not.
fn forbidden(path: &str, name: &str) -> Option<String> {
    let library = library(path);
    if BACKENDS.contains(&name) && !path.starts_with(KERNELS) {
        return Some(format!("`{name}`: {ONLY_KERNELS}"));
    }
    let with_burn = name.starts_with("burn") || name.starts_with("infinity-");
    let builds_without = path.starts_with("xtask/")
        || library.is_some_and(|(library, _)| WITHOUT_BURN.contains(&library));
    if builds_without && with_burn && !WITHOUT_BURN.contains(&name) {
        let package = path.rsplit('/').nth(1).unwrap_or(path);
        return Some(format!("`{name}`: {package} builds without Burn"));
    }
    let (library, below) = library?;
    if FOR_PROGRAMS.contains(&name) {
        let why = "is for programs; a library has its own errors";
        return Some(format!("`{name}` {why}"));
    }
    let ours = name.strip_prefix("infinity-")?;
    // A crate names itself among its dev-dependencies to switch a feature on in its tests.
    let allowed = name == library || below.split(", ").any(|one| one == ours);
    (!allowed).then(|| {
        format!("`{name}` may not be known to {library}: cli → train, serve → model → kernels")
    })
}

fn source(path: &str, tokens: &[Token], found: &mut Vec<String>) {
    let may_print = library(path).is_none() || is_test_file(path);
    for (at, token) in tokens.iter().enumerate() {
        let Token { text, line, .. } = token;
        if !path.starts_with(KERNELS) && BACKENDS.contains(&&*text.replace('_', "-")) {
            found.push(format!("{path}:{line}: `{text}`: {ONLY_KERNELS}"));
        }
        let calls = tokens.get(at + 1).is_some_and(|next| next.text == "!");
        if !may_print && !token.is_test && calls && PRINTS.contains(&&**text) {
            let why = "in a library; return the text to the caller";
            found.push(format!("{path}:{line}: `{text}!` {why}"));
        }
    }
}
