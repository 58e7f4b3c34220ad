//! Size budgets: 300 lines of code a Rust file, 300 lines of ARCHITECTURE.md, 300 KB any file.
//!
//! Blank lines, comments and tests do not count as code. A file whose head has a line `Size:` with a
//! reason may be longer.

use super::source::{is_test_file, lines};
use super::{Finding, tree::Tree};

const CODE_LINES: usize = 300;
const ARCHITECTURE_LINES: usize = 300;
const BYTES: u64 = 300 * 1000;

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found: Vec<Finding> = tree
        .rust_files()
        .filter_map(|path| long_source(tree, path))
        .collect();

    let map = tree
        .text("ARCHITECTURE.md")
        .unwrap_or_default()
        .lines()
        .count();
    if map > ARCHITECTURE_LINES {
        let message = format!("{map} lines; a map has at most {ARCHITECTURE_LINES}");
        found.push(Finding::in_file("ARCHITECTURE.md", message));
    }

    for path in tree.files() {
        let bytes = tree.bytes(path);
        if bytes > BYTES {
            let message = format!("{bytes} bytes; at most {BYTES} are committed");
            found.push(Finding::in_file(path, message));
        }
    }
    found
}

fn long_source(tree: &Tree, path: &str) -> Option<Finding> {
    let text = tree.text(path)?;
    if is_test_file(path) || gives_a_reason(&text) {
        return None;
    }
    let code = lines(&text)
        .iter()
        .filter(|l| !l.is_test && !l.code.trim().is_empty())
        .count();
    (code > CODE_LINES).then(|| {
        let message = format!(
            "{code} lines of code; the budget is {CODE_LINES}: split it, or say why in its head after `Size:`"
        );
        Finding::in_file(path, message)
    })
}

/// Is there a `//! Size: <reason>` in the head?
fn gives_a_reason(text: &str) -> bool {
    text.lines()
        .map_while(|line| line.strip_prefix("//!"))
        .filter_map(|line| line.trim().strip_prefix("Size:"))
        .any(|reason| !reason.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    const PATH: &str = "crates/infinity-model/src/long.rs";

    fn source(head: &str, code_lines: usize) -> String {
        format!(
            "//! Long.\n{head}{}",
            "// Not code.\n\nfn a() {}\n".repeat(code_lines)
        )
    }

    #[test]
    fn a_long_file_is_found_unless_it_says_why() {
        let sandbox = Sandbox::new();
        assert!(
            sandbox
                .findings_after(PATH, &source("", 300), check)
                .is_empty()
        );
        assert_eq!(
            sandbox.findings_after(PATH, &source("", 301), check).len(),
            1
        );
        assert_eq!(
            sandbox
                .findings_after(PATH, &source("//! Size:\n", 301), check)
                .len(),
            1
        );
        let reason = source("//! Size: one table.\n", 301);
        assert!(sandbox.findings_after(PATH, &reason, check).is_empty());
    }

    #[test]
    fn tests_are_apart() {
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    fn a() {}\n".repeat(400)
        );
        let sandbox = Sandbox::new();
        let text = format!("{}{tests}", source("", 300));
        assert!(sandbox.findings_after(PATH, &text, check).is_empty());
        let file = "crates/infinity-model/tests/long.rs";
        assert!(
            sandbox
                .findings_after(file, &source("", 400), check)
                .is_empty()
        );
    }

    #[test]
    fn a_long_map_and_a_large_file_are_found() {
        let found = Sandbox::new().findings_after("ARCHITECTURE.md", &"line\n".repeat(301), check);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = Sandbox::new().findings_after("data.bin", &"x".repeat(300_001), check);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
