//! `unsafe` stands only in the kernels and where a token file is mapped, and each use says why it is sound.

use super::source::lines;
use super::{Finding, tree::Tree};

const ALLOWED: [&str; 2] = [
    "crates/infinity-kernels/",
    "crates/infinity-train/src/data/token_file.rs",
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust_files()
        .flat_map(|path| file(tree, path))
        .collect()
}

fn file(tree: &Tree, path: &str) -> Vec<Finding> {
    let text = tree.text(path).unwrap_or_default();
    let raw: Vec<&str> = text.lines().collect();
    let allowed = ALLOWED.iter().any(|prefix| path.starts_with(prefix));
    lines(&text)
        .iter()
        .filter(|line| line.has_word("unsafe"))
        .filter_map(|line| {
            let message = if !allowed {
                format!("`unsafe` outside {}", ALLOWED.join(" and "))
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
        for path in ALLOWED.map(|p| {
            if p.ends_with('/') {
                format!("{p}src/a.rs")
            } else {
                p.into()
            }
        }) {
            assert_eq!(
                Sandbox::new().findings_after(&path, BARE, check).len(),
                1,
                "{path}"
            );
            assert!(
                Sandbox::new()
                    .findings_after(&path, EXPLAINED, check)
                    .is_empty(),
                "{path}"
            );
        }
    }
}
