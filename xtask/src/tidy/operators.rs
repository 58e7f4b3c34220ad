//! Every operator of infinity-kernels can be judged.
//!
//! An operator is a folder of the kernels' sources; `cpu` holds what their kernels share. One whose contract
//! and formula fit into `mod.rs` has its tests there. One in more files has a scalar reference and a test
//! of its name, and one in several forms has the derivation that they share. `tests/main.rs`, the one
//! executable of all tests, names each: a file that it leaves out would never run.

use std::collections::BTreeSet;

use super::{Finding, tree::Tree};

const SOURCES: &str = "crates/infinity-kernels/src";
const TESTS: &str = "crates/infinity-kernels/tests";
const SHARED: &str = "cpu";
const FIRST: &str = "memory_scan";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut operators = names(tree);
    operators.insert(FIRST);
    let mut found: Vec<Finding> = operators
        .iter()
        .flat_map(|name| operator(tree, name))
        .collect();
    found.extend(tests_that_do_not_run(tree));
    found
}

/// Files of tests that `tests/main.rs` does not name.
fn tests_that_do_not_run(tree: &Tree) -> Vec<Finding> {
    let main = tree.text(&format!("{TESTS}/main.rs")).unwrap_or_default();
    let named = |name: &str| main.lines().any(|line| line == format!("mod {name};"));
    let files = tree.files().iter().filter_map(|path| {
        let name = path.strip_prefix(TESTS)?.strip_prefix('/')?;
        let name = name.strip_suffix(".rs")?;
        let is_run = name == "main" || name.contains('/') || named(name);
        (!is_run).then(|| {
            let message = format!("never runs: `mod {name};` is missing in {TESTS}/main.rs");
            Finding::in_file(path, message)
        })
    });
    files.collect()
}

fn operator(tree: &Tree, name: &str) -> Vec<Finding> {
    let folder = format!("{SOURCES}/{name}/");
    let contract = format!("{folder}mod.rs");
    let files = tree
        .files()
        .iter()
        .filter_map(|path| path.strip_prefix(&folder));
    let sources: BTreeSet<&str> = files.filter(|file| file.ends_with(".rs")).collect();
    let is_small = name != FIRST && sources.iter().eq(["mod.rs"].iter());
    if is_small {
        let tested = tree
            .text(&contract)
            .is_some_and(|text| text.contains("#[cfg(test)]"));
        let message = "an operator in one file has its tests in it";
        return (!tested)
            .then(|| Finding::in_file(&contract, message))
            .into_iter()
            .collect();
    }

    let reference = format!("{folder}reference.rs");
    let mut needed = vec![contract, reference, format!("{TESTS}/{name}.rs")];
    let forms = sources
        .iter()
        .filter(|file| !["mod.rs", "reference.rs"].contains(file));
    if name == FIRST || forms.count() > 0 {
        needed.push(format!("{folder}README.md"));
    }
    needed.retain(|path| !tree.has(path));
    let missing = |path: &String| Finding::in_file(path, format!("operator `{name}` needs it"));
    needed.iter().map(missing).collect()
}

/// The operators there are.
pub(crate) fn names(tree: &Tree) -> BTreeSet<&str> {
    let mut names = tree.folders_in(SOURCES);
    names.remove(SHARED);
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    #[test]
    fn a_new_operator_without_its_files_is_found() {
        let sandbox = Sandbox::new();
        let contract = "crates/infinity-kernels/src/new_scan/mod.rs";
        assert_eq!(
            sandbox.findings_after(contract, "//! New.\n", check).len(),
            1
        );
        let tested = "//! New.\n#[cfg(test)]\nmod tests {}\n";
        assert!(sandbox.findings_after(contract, tested, check).is_empty());

        let form = "crates/infinity-kernels/src/new_scan/chunkwise.rs";
        let found = sandbox.findings_after(form, "//! A form.\n", check);
        assert_eq!(
            found.len(),
            3,
            "a reference, a test, a derivation: {found:?}"
        );
    }

    #[test]
    fn a_lost_file_is_found() {
        for path in [
            "crates/infinity-kernels/src/memory_scan/README.md",
            "crates/infinity-kernels/src/memory_scan/reference.rs",
            "crates/infinity-kernels/tests/memory_scan.rs",
        ] {
            let sandbox = Sandbox::new();
            sandbox.remove(path);
            let found = check(&sandbox.tree());
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].path, path);
        }
    }

    #[test]
    fn a_test_that_nothing_runs_is_found() {
        let path = "crates/infinity-kernels/tests/new_scan.rs";
        let found = Sandbox::new().findings_after(path, "//! Never.\n", check);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("mod new_scan;"), "{found:?}");
    }

    #[test]
    fn what_operators_share_is_no_operator() {
        let path = "crates/infinity-kernels/src/cpu/exp.rs";
        assert!(
            Sandbox::new()
                .findings_after(path, "//! Exp.\n", check)
                .is_empty()
        );
    }
}
