//! Every operator of infinity-kernels can be judged: it has a contract, a derivation, a reference and a test.
//!
//! An operator is a folder of the kernels' sources with a `mod.rs`; `math` holds what operators share.

use std::collections::BTreeSet;

use super::{Finding, tree::Tree};

const SOURCES: &str = "crates/infinity-kernels/src";
const TESTS: &str = "crates/infinity-kernels/tests";
const SHARED: &str = "math";
const FIRST: &str = "memory_scan";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut operators = names(tree);
    operators.insert(FIRST);
    let mut found = Vec::new();
    for name in operators {
        for needed in [
            format!("{SOURCES}/{name}/mod.rs"),
            format!("{SOURCES}/{name}/README.md"),
            format!("{SOURCES}/{name}/reference.rs"),
            format!("{TESTS}/{name}.rs"),
        ] {
            if !tree.has(&needed) {
                found.push(Finding::in_file(
                    &needed,
                    format!("missing; operator `{name}` needs it"),
                ));
            }
        }
    }
    found
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
        let path = "crates/infinity-kernels/src/new_scan/mod.rs";
        let found = Sandbox::new().findings_after(path, "//! New.\n", check);
        assert_eq!(found.len(), 3, "{found:?}");
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
    fn what_operators_share_is_no_operator() {
        let path = "crates/infinity-kernels/src/math/decay.rs";
        assert!(
            Sandbox::new()
                .findings_after(path, "//! Decay.\n", check)
                .is_empty()
        );
    }
}
