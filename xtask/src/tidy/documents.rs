//! The map is alive: every path that a document names exists, and every crate and operator has its place in
//! ARCHITECTURE.md.
//!
//! Documents are those at the root, but for the log and the change log, which tell of what is gone, and the
//! README of every crate.
//!
//! Three things count as a named path: a word that starts with one of [`TOP`], the target of a relative
//! link, and every entry of a fenced block marked `tree`. The block after `<!-- file: path -->` must stand
//! in that file as it is. ARCHITECTURE.md's list of public items names all that a library's root hands out, and
//! a numbered line there that opens with a Rust file, a place of a walk, names only what that file holds.

use std::collections::BTreeSet;

use super::rooms::{operator_names, public_names};
use super::source::Tree;

const NEEDED: [&str; 2] = ["README.md", "ARCHITECTURE.md"];
const OF_THE_PAST: [&str; 2] = ["LOG.md", "CHANGELOG.md"];
const TOP: [&str; 7] = [
    "crates/",
    "configs/",
    "examples/",
    "xtask/",
    "docs/",
    ".github/",
    ".ci/",
];

pub(super) fn check(tree: &Tree, found: &mut Vec<String>) {
    let crates = tree.folders_in("crates");
    let of_crates = crates.iter().map(|name| format!("crates/{name}/README.md"));
    let needed = NEEDED.map(str::to_owned).into_iter().chain(of_crates);
    let missing = needed.filter(|name| !tree.has(name));
    found.extend(missing.map(|name| format!("{name}: missing")));
    for (name, file) in tree.files().filter(|(name, _)| is_document(name)) {
        document(tree, name, &file.text, found);
    }
    let map = tree.text("ARCHITECTURE.md");
    if map.is_empty() {
        return;
    }
    for library in &crates {
        let section = map.split("### ").find(|part| part.starts_with(library));
        let words = section.unwrap_or_default();
        let words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
        let listed: BTreeSet<&str> = words.collect();
        let names = public_names(tree, library).into_iter();
        let lacking = names.filter(|name| !listed.contains(&**name));
        found.extend(
            lacking.map(|name| {
                format!("ARCHITECTURE.md: the public items of {library} lack `{name}`")
            }),
        );
    }
    // Places of a walk: `1. `file.rs` `item`, `other`: words`.
    for (line, number) in map.lines().zip(1..) {
        let place = line.split(": ").next().unwrap_or_default();
        let mut quoted = place.split('`').skip(1).step_by(2);
        let file = quoted.next().unwrap_or_default();
        let text = tree.text(file);
        let is_place = line.starts_with(|c: char| c.is_ascii_digit()) && file.ends_with(".rs");
        for name in quoted.filter(|name| is_place && !text.is_empty() && !text.contains(name)) {
            found.push(format!(
                "ARCHITECTURE.md:{number}: `{file}` holds no `{name}`"
            ));
        }
    }
    let unnamed = crates.into_iter().chain(operator_names(tree));
    let unnamed = unnamed.filter(|name| !map.contains(name));
    found.extend(unnamed.map(|name| format!("ARCHITECTURE.md: does not name `{name}`")));
}

fn is_document(path: &str) -> bool {
    let at_the_root = path.ends_with(".md") && !path.contains('/');
    let of_a_crate = path.starts_with("crates/") && path.ends_with("/README.md");
    (at_the_root && !OF_THE_PAST.contains(&path)) || (of_a_crate && path.split('/').count() == 3)
}

fn document(tree: &Tree, name: &str, text: &str, found: &mut Vec<String>) {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let paths = named_paths(text, folder).into_iter();
    let gone = paths.filter(|(_, path)| !tree.has(path));
    found.extend(gone.map(|(line, path)| format!("{name}:{line}: `{path}` does not exist")));
    for (line, path, quote) in quotes(text) {
        // Without carriage returns: a checkout may end its lines otherwise than the document.
        let source = tree.text(path).replace('\r', "");
        if quote.trim().is_empty() || !source.contains(&quote) {
            found.push(format!("{name}:{line}: not what stands in `{path}`"));
        }
    }
    let lines = text.lines().zip(1..);
    let unfinished = lines.filter(|(line, _)| line.contains("TODO"));
    found.extend(unfinished.map(|(_, number)| format!("{name}:{number}: unfinished")));
}

/// Line number and path of everything in `text` that claims to exist.
fn named_paths(text: &str, folder: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    // Inside a `tree` block, the folders above its current line with their indentation.
    let mut block: Option<Vec<(usize, String)>> = None;
    for (line, number) in text.lines().zip(1..) {
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            block = (block.is_none() && mark.trim() == "tree").then(Vec::new);
        } else if let Some(above) = &mut block {
            let Some(name) = line.split_whitespace().next() else {
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            above.retain(|(outer, _)| *outer < indent);
            let parent = above.last().map_or("", |(_, path)| path);
            let path = format!("{parent}{name}");
            if name.ends_with('/') {
                above.push((indent, path.clone()));
            }
            paths.push((number, path));
        } else {
            let named = words(line).chain(links(line, folder));
            paths.extend(named.map(|path| (number, path)));
        }
    }
    paths
}

/// Words that start like a path of this workspace and hold no placeholder.
fn words(line: &str) -> impl Iterator<Item = String> {
    let words = line.split(|c: char| c.is_whitespace() || "`()[],;\"'".contains(c));
    let paths = words.filter(|word| TOP.iter().any(|top| word.starts_with(top)));
    let paths = paths.filter(|path| !path.contains(['*', '<', '{', '…']));
    paths.map(|path| path.trim_end_matches(['.', ':']).to_owned())
}

/// Targets of `[text](target)` that lie in this workspace, in a document of `folder`.
fn links(line: &str, folder: &str) -> impl Iterator<Item = String> {
    line.split("](").skip(1).filter_map(move |rest| {
        let target = rest.split([')', '#']).next()?;
        let is_local = !target.is_empty() && !target.contains("://");
        is_local.then(|| from_the_root(folder, target))
    })
}

/// `target`, which is relative to `folder`, as a path from the workspace's root.
fn from_the_root(folder: &str, target: &str) -> String {
    let mut path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(path.pop()),
            _ => path.push(part),
        }
    }
    path.join("/")
}

/// Line, path and text of every block that claims to stand in a file.
fn quotes(text: &str) -> Vec<(usize, &str, String)> {
    let mut quotes = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let mark = line.strip_prefix("<!-- file: ");
        if let Some(path) = mark.and_then(|rest| rest.strip_suffix(" -->")) {
            // The line after the mark opens the block.
            let block = lines.by_ref().skip(1).map(|(line, _)| line);
            let quote = block.take_while(|line| !line.starts_with("```"));
            let quote = quote.map(|line| format!("{line}\n")).collect();
            quotes.push((number, path, quote));
        }
    }
    quotes
}
