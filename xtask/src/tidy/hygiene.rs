//! No text names one person's machine or a package host: both are wrong on the next machine.

use super::{Finding, tree::Tree};

/// Spelled in halves, so that this file keeps its own rule.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("C:\\Use", "rs"),
];
const PACKAGE_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("debian", ".org"),
];
/// Written by Cargo, which names its registry in it.
const EXEMPT: [&str; 1] = ["Cargo.lock"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for path in tree
        .files()
        .iter()
        .filter(|path| !EXEMPT.contains(&path.as_str()))
    {
        // A file that is not text has no lines to look at.
        let text = tree.text(path).unwrap_or_default();
        for (i, line) in text.lines().enumerate() {
            if let Some(what) = MACHINE_PATHS.iter().find(|what| starts_a_path(line, what)) {
                found.push(Finding::at(path, i + 1, format!("machine path `{what}`")));
            }
            if let Some(what) = PACKAGE_HOSTS.iter().find(|what| line.contains(**what)) {
                found.push(Finding::at(path, i + 1, format!("package host `{what}`")));
            }
        }
    }
    found
}

/// `what` at the start of a path, not in the middle of an address or a longer path.
fn starts_a_path(line: &str, what: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "./_-~}*".contains(c);
    line.match_indices(what)
        .any(|(at, _)| !line[..at].ends_with(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    #[test]
    fn machine_paths_and_package_hosts_are_found() {
        for what in MACHINE_PATHS.iter().chain(&PACKAGE_HOSTS) {
            let text = format!("# Sandbox\n\nSee `{what}/x`.\n");
            let found = Sandbox::new().findings_after("NOTES.md", &text, check);
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert!(found[0].starts_with("NOTES.md:3: "), "{found:?}");
        }
    }

    #[test]
    fn a_folder_of_that_name_elsewhere_is_fine() {
        let text = format!("my{0} ../net{0} https://example.com{0}\n", MACHINE_PATHS[1]);
        assert!(
            Sandbox::new()
                .findings_after("NOTES.md", &text, check)
                .is_empty()
        );
    }
}
