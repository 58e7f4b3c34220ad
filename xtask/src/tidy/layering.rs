//! The arrow `cli → train → model → kernels`, with files below all but the kernels, and who may use what, in manifests and sources.
//!
//! Only the kernels name a compute backend. Only programs (the command line, xtask, examples) use
//! anyhow and clap, or print.

use super::source::{is_test_file, lines};
use super::{Finding, tree::Tree};

/// The libraries and the crates of this workspace each may depend on. The command line may use all.
const LIBRARIES: [(&str, &[&str]); 5] = [
    ("infinity-files", &[]),
    ("infinity-kernels", &[]),
    ("infinity-model", &["infinity-files", "infinity-kernels"]),
    (
        "infinity-train",
        &["infinity-files", "infinity-kernels", "infinity-model"],
    ),
    ("infinity-plot", &[]),
];
/// Of this workspace, what xtask may use: it builds without Burn.
const WITHOUT_BURN: [&str; 2] = ["infinity-files", "infinity-plot"];
const BACKENDS: [&str; 7] = [
    "burn-flex",
    "burn-cubecl",
    "cubecl",
    "burn-wgpu",
    "burn-cuda",
    "burn-rocm",
    "burn-ndarray",
];
const FOR_PROGRAMS: [&str; 2] = ["anyhow", "clap"];
const PRINTS: [&str; 5] = ["println!", "print!", "eprintln!", "eprint!", "dbg!"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
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
    if path.starts_with("xtask/") && with_burn && !WITHOUT_BURN.contains(&name) {
        return Some(format!("`{name}`: xtask builds without Burn"));
    }
    let (library, below) = library(path)?;
    if FOR_PROGRAMS.contains(&name) {
        return Some(format!(
            "`{name}` is for programs; a library has its own errors"
        ));
    }
    // A crate names itself among its dev-dependencies to switch a feature on in its tests.
    let allowed = !name.starts_with("infinity-") || name == library || below.contains(&name);
    (!allowed).then(|| format!("`{name}` lies above {library}: cli → train → model → kernels"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    fn manifest_findings(path: &str, text: &str) -> Vec<String> {
        Sandbox::new().findings_after(path, text, check)
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        for (package, dependency) in [
            ("infinity-kernels", "infinity-model"),
            ("infinity-model", "infinity-train"),
            ("infinity-train", "infinity-cli"),
        ] {
            let path = format!("crates/{package}/Cargo.toml");
            for table in [
                "dependencies",
                "dev-dependencies",
                "target.'cfg(unix)'.dependencies",
            ] {
                let found = manifest_findings(&path, &format!("[{table}]\n{dependency} = \"1\"\n"));
                assert_eq!(
                    found.len(),
                    1,
                    "{package} → {dependency} in {table}: {found:?}"
                );
            }
            let renamed = format!("[dependencies]\nx = {{ package = \"{dependency}\" }}\n");
            assert_eq!(manifest_findings(&path, &renamed).len(), 1);
        }
    }

    #[test]
    fn a_crate_may_name_itself_for_its_tests() {
        let text = "[dev-dependencies]\ninfinity-model = { path = \".\", features = [\"flex\"] }\n";
        assert!(manifest_findings("crates/infinity-model/Cargo.toml", text).is_empty());
    }

    #[test]
    fn a_backend_outside_the_kernels_is_found() {
        for name in BACKENDS {
            let text = format!("[dependencies]\n{name} = \"1\"\n");
            assert_eq!(
                manifest_findings("crates/infinity-cli/Cargo.toml", &text).len(),
                1
            );
            let code = format!("//! Head.\nuse {}::Device;\n", name.replace('-', "_"));
            let found = Sandbox::new().findings_after("examples/app/src/main.rs", &code, check);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("examples/app/src/main.rs:2: "));
        }
    }

    #[test]
    fn crates_for_programs_are_found_in_libraries() {
        for name in FOR_PROGRAMS {
            let text = format!("[dependencies]\n{name}.workspace = true\n");
            assert_eq!(
                manifest_findings("crates/infinity-train/Cargo.toml", &text).len(),
                1
            );
            assert!(manifest_findings("xtask/Cargo.toml", &text).is_empty());
        }
        assert_eq!(
            manifest_findings("xtask/Cargo.toml", "[dependencies]\nburn = \"1\"\n").len(),
            1
        );
    }

    #[test]
    fn printing_in_a_library_is_found() {
        let sandbox = Sandbox::new();
        let path = "crates/infinity-train/src/lib.rs";
        for print in PRINTS {
            let text = format!("//! Training.\nfn a() {{\n    {print}(\"x\");\n}}\n");
            assert_eq!(
                sandbox.findings_after(path, &text, check).len(),
                1,
                "{print}"
            );
            let test = format!("//! Training.\n#[cfg(test)]\nmod t {{\n    {print}(\"x\");\n}}\n");
            assert!(
                sandbox.findings_after(path, &test, check).is_empty(),
                "{print}"
            );
        }
    }

    #[test]
    fn a_manifest_that_is_not_toml_is_found() {
        assert_eq!(
            manifest_findings("crates/infinity-cli/Cargo.toml", "[dependencies\n").len(),
            1
        );
    }
}
