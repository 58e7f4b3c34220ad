//! Rules about one file at a time: a head, a size, no machine's paths, and where `unsafe` may stand.

use std::collections::BTreeSet;

use super::source::{File, Token, Tree, is_test_file, is_tokens};

/// Lines of a Rust file that are code: not blank, no comment, no test.
const CODE_LINES: usize = 600;
const ARCHITECTURE_LINES: usize = 300;
const BYTES: u64 = 300 * 1000;

/// `unsafe` may stand here: in the kernels, and in the one file that sets the allocator's options.
pub(super) const UNSAFE: [&str; 2] = [
    "crates/infinity-kernels/",
    "crates/infinity-cli/src/allocator.rs",
];

/// Spelled in halves, so that this file keeps its own rule.
pub(super) const MACHINE_PATHS: [&str; 5] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("C:\\Use", "rs"),
];
pub(super) const PACKAGE_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("debian", ".org"),
];
/// Written by Cargo, or for it, with the name of its registry.
const NAMES_A_REGISTRY: [&str; 2] = ["Cargo.lock", "deny.toml"];

/// Every Rust file opens with `//!`: a reader learns what it is before how it works.
pub(super) fn heads(tree: &Tree, found: &mut Vec<String>) {
    for (path, file) in tree.rust_files() {
        let first = file.text.lines().next().unwrap_or_default();
        if !first.starts_with("//! ") || first == "//! " {
            let missing = "does not open with `//!` and what the file is";
            found.push(format!("{path}: {missing}"));
        }
    }
}

/// Sizes. A Rust file with a line `//! Size: <reason>` in its head may be longer.
pub(super) fn budgets(tree: &Tree, found: &mut Vec<String>) {
    for (path, file) in tree.rust_files().filter(|(path, _)| !is_test_file(path)) {
        let code = file.tokens.iter().filter(|token| !token.is_test);
        let code = code.map(|token| token.line).collect::<BTreeSet<_>>().len();
        if code > CODE_LINES && !gives_a_reason(&file.text) {
            found.push(format!(
                "{path}: {code} lines of code; the budget is {CODE_LINES}: split it, or say why in its head after `Size:`"
            ));
        }
    }
    let map = tree.text("ARCHITECTURE.md").lines().count();
    if map > ARCHITECTURE_LINES {
        found.push(format!(
            "ARCHITECTURE.md: {map} lines; a map has at most {ARCHITECTURE_LINES}"
        ));
    }
    for (path, File { bytes, .. }) in tree.files().filter(|(_, file)| file.bytes > BYTES) {
        found.push(format!(
            "{path}: {bytes} bytes; at most {BYTES} are committed"
        ));
    }
}

/// Is there a `//! Size: <reason>` in the head?
fn gives_a_reason(text: &str) -> bool {
    let head = text.lines().map_while(|line| line.strip_prefix("//!"));
    let mut reasons = head.filter_map(|line| line.trim().strip_prefix("Size:"));
    reasons.any(|reason| !reason.trim().is_empty())
}

/// No text names one person's machine or a package host: both are wrong on the next machine.
pub(super) fn hygiene(tree: &Tree, found: &mut Vec<String>) {
    for (path, file) in tree.files() {
        let is_rust = path.ends_with(".rs");
        if is_rust && file.bytes > 0 && file.tokens.is_empty() && !is_tokens(&file.text) {
            found.push(format!(
                "{path}: cannot be read as Rust, so nothing of it is checked"
            ));
        }
        for (line, number) in file.text.lines().zip(1..) {
            if let Some(what) = MACHINE_PATHS.iter().find(|what| starts_a_path(line, what)) {
                found.push(format!("{path}:{number}: machine path `{what}`"));
            }
            let host = PACKAGE_HOSTS.iter().find(|what| line.contains(**what));
            if let Some(what) = host.filter(|_| !NAMES_A_REGISTRY.contains(&path)) {
                found.push(format!("{path}:{number}: package host `{what}`"));
            }
        }
    }
}

/// `what` at the start of a path, not in the middle of an address or a longer path.
fn starts_a_path(line: &str, what: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "./_-~}*".contains(c);
    let mut places = line.match_indices(what);
    places.any(|(at, _)| !line[..at].ends_with(is_part))
}

/// `unsafe` stands only in its places, and each use says why it is sound.
pub(super) fn unsafe_code(tree: &Tree, found: &mut Vec<String>) {
    for (path, File { text, tokens, .. }) in tree.rust_files() {
        let raw: Vec<&str> = text.lines().collect();
        let allowed = UNSAFE.iter().any(|place| path.starts_with(place));
        for Token { line, .. } in tokens.iter().filter(|token| token.text == "unsafe") {
            let what = match allowed {
                false => format!("outside {}", UNSAFE.join(" and ")),
                true if says_why(&raw, line - 1) => continue,
                true => "without a `SAFETY:` comment above it".to_owned(),
            };
            found.push(format!("{path}:{line}: `unsafe` {what}"));
        }
    }
}

/// Is there a `SAFETY` note on the line, or in the comments and attributes above its statement?
fn says_why(raw: &[&str], at: usize) -> bool {
    let is_note = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let is_comment = |line: &str| line.starts_with("//") || line.starts_with("#[");
    let ends = |line: &str| line.is_empty() || line.ends_with([';', '{', '}', ',']);
    let above = raw[..at].iter().rev().map(|line| line.trim());
    let above = above.skip_while(|line| !is_comment(line) && !ends(line));
    is_note(raw[at]) || above.take_while(|line| is_comment(line)).any(is_note)
}
