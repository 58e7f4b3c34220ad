//! `unsafe` stands only in the kernels, and each use says why it is sound.

use super::source::lines;
use super::{Finding, tree::Tree};

const ALLOWED: &str = "crates/infinity-kernels/";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust_files()
        .flat_map(|path| file(tree, path))
        .collect()
}

fn file(tree: &Tree, path: &str) -> Vec<Finding> {
    let text = tree.text(path).unwrap_or_default();
    let raw: Vec<&str> = text.lines().collect();
    let allowed = path.starts_with(ALLOWED);
    lines(&text)
        .iter()
        .filter(|line| line.has_word("unsafe"))
        .filter_map(|line| {
            let message = if !allowed {
                format!("`unsafe` outside {ALLOWED}")
            } else if !says_why(&raw, line.number - 1) {
                "`unsafe` without a `SAFETY:` comment above it".to_owned()
            } else {
                return None;
            };
            Some(Finding::at(path, line.number, message))
        })
        .collect()
}

/// Is there a `SAFETY` note on the line, or in the comments and attributes directly above it?
fn says_why(raw: &[&str], at: usize) -> bool {
    let is_note = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    is_note(raw[at])
        || raw[..at]
            .iter()
            .rev()
            .map(|line| line.trim_start())
            .take_while(|line| line.starts_with("//") || line.starts_with("#["))
            .any(is_note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    const BARE: &str = "//! Head.\nfn a() {\n    unsafe { b() }\n}\n";
    const EXPLAINED: &str = "//! Head.\nfn a() {\n    // SAFETY: `b` has no\n    // conditions.\n    unsafe { b() }\n}\n";

    #[test]
    fn unsafe_outside_its_places_is_found() {
        for path in [
            "crates/infinity-model/src/new.rs",
            "crates/infinity-train/src/data/new.rs",
        ] {
            let found = Sandbox::new().findings_after(path, EXPLAINED, check);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("{path}:5: ")));
        }
    }

    #[test]
    fn unsafe_without_its_reason_is_found() {
        let path = format!("{ALLOWED}src/a.rs");
        let found = |text| Sandbox::new().findings_after(&path, text, check);
        assert_eq!(found(BARE).len(), 1);
        assert!(found(EXPLAINED).is_empty());
    }
}
