//! Every Rust file opens with `//!`: a reader learns what it is before how it works.

use super::{Finding, tree::Tree};

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust_files()
        .filter(|path| {
            let text = tree.text(path).unwrap_or_default();
            text.lines()
                .next()
                .and_then(|line| line.strip_prefix("//! "))
                .is_none()
        })
        .map(|path| Finding::in_file(path, "does not open with `//!` saying what it is"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    #[test]
    fn a_file_without_a_head_is_found() {
        for text in ["", "use std::fmt;\n", "// A comment.\n", "//!\n"] {
            let found =
                Sandbox::new().findings_after("crates/infinity-model/src/new.rs", text, check);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert!(found[0].starts_with("crates/infinity-model/src/new.rs: "));
        }
    }
}
