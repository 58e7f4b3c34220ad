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

use super::rooms::{operator_names, public_names};
use super::source::{Finding, Tree};

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

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let crates = tree.folders_in("crates");
    let of_crates = crates.iter().map(|name| format!("crates/{name}/README.md"));
    let needed = NEEDED.map(str::to_owned).into_iter().chain(of_crates);
    let missing = needed.filter(|name| !tree.has(name));
    found.extend(missing.map(|name| Finding::in_file(&name, "missing")));
    for name in tree.files().iter().filter(|name| is_document(name)) {
        found.extend(document(tree, name, &tree.text(name).unwrap_or_default()));
    }

    let map = tree.text("ARCHITECTURE.md").unwrap_or_default();
    for library in crates
        .iter()
        .filter(|name| !map.is_empty() && tree.has(&format!("crates/{name}/src/lib.rs")))
    {
        let section = map.split("### ").find(|part| part.starts_with(library));
        let section = section.unwrap_or_default();
        let listed: Vec<&str> = section
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for name in public_names(tree, library)
            .iter()
            .filter(|name| !listed.contains(&name.as_str()))
        {
            let message = format!("the public items of {library} lack `{name}`");
            found.push(Finding::in_file("ARCHITECTURE.md", message));
        }
    }
    found.extend(
        map.lines()
            .enumerate()
            .flat_map(|(i, line)| place(tree, i + 1, line)),
    );
    for name in crates
        .union(&operator_names(tree))
        .filter(|name| !map.contains(**name))
    {
        let message = format!("does not name `{name}`");
        found.push(Finding::in_file("ARCHITECTURE.md", message));
    }
    found
}

/// What a place of a walk, `1. `file.rs` `item`, `other`: words`, names and its file does not hold.
fn place(tree: &Tree, number: usize, line: &str) -> Vec<Finding> {
    let mut quoted = line.split('`').skip(1).step_by(2);
    let is_place = line.starts_with(|c: char| c.is_ascii_digit());
    let file = quoted
        .next()
        .filter(|file| is_place && file.ends_with(".rs"));
    let Some(text) = file.and_then(|file| tree.text(file)) else {
        return Vec::new();
    };
    let names = line
        .split(": ")
        .next()
        .unwrap_or(line)
        .split('`')
        .skip(3)
        .step_by(2);
    let lost = names.filter(|name| !text.contains(name));
    let message = |name| format!("`{}` holds no `{name}`", file.unwrap_or_default());
    lost.map(|name| Finding::at("ARCHITECTURE.md", number, message(name)))
        .collect()
}

fn is_document(path: &str) -> bool {
    let at_the_root = path.ends_with(".md") && !path.contains('/');
    let of_a_crate = path.starts_with("crates/") && path.ends_with("/README.md");
    (at_the_root && !OF_THE_PAST.contains(&path)) || (of_a_crate && path.split('/').count() == 3)
}

fn document(tree: &Tree, name: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (line, path) in named_paths(text, folder) {
        if !tree.has(&path) {
            found.push(Finding::at(name, line, format!("`{path}` does not exist")));
        }
    }
    for (line, path, quote) in quotes(text) {
        // Without carriage returns: a checkout may end its lines otherwise than the document.
        let source = tree.text(path).unwrap_or_default().replace('\r', "");
        if quote.trim().is_empty() || !source.contains(&quote) {
            found.push(Finding::at(
                name,
                line,
                format!("not what stands in `{path}`"),
            ));
        }
    }
    for (i, _) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("TODO"))
    {
        found.push(Finding::at(name, i + 1, "unfinished"));
    }
    found
}

/// Line number and path of everything in `text` that claims to exist.
fn named_paths(text: &str, folder: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut entries: Option<TreeBlock> = None;
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            entries = (entries.is_none() && mark.trim() == "tree").then(TreeBlock::default);
        } else if let Some(block) = &mut entries {
            paths.extend(block.entry(line).map(|path| (number, path)));
        } else {
            paths.extend(
                words(line)
                    .chain(links(line, folder))
                    .map(|path| (number, path)),
            );
        }
    }
    paths
}

/// Words that start like a path of this workspace and hold no placeholder.
fn words(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| c.is_whitespace() || "`()[],;\"'".contains(c))
        .filter(|word| TOP.iter().any(|top| word.starts_with(top)))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| !word.contains(['*', '<', '{', '…']))
        .map(str::to_owned)
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
    let mut lines = text.lines().enumerate();
    while let Some((i, line)) = lines.next() {
        let mark = line
            .strip_prefix("<!-- file: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(path) = mark {
            // The line after the mark opens the block.
            let block = lines.by_ref().skip(1).map(|(_, line)| line);
            let quote = block.take_while(|line| !line.starts_with("```"));
            quotes.push((i + 1, path, quote.map(|line| format!("{line}\n")).collect()));
        }
    }
    quotes
}

/// Folders above the current line of a `tree` block, with their indentation.
#[derive(Default)]
struct TreeBlock {
    above: Vec<(usize, String)>,
}

impl TreeBlock {
    /// The path of one line: its first word, inside the last less indented folder.
    fn entry(&mut self, line: &str) -> Option<String> {
        let name = line.split_whitespace().next()?;
        let indent = line.len() - line.trim_start().len();
        self.above.retain(|(above, _)| *above < indent);
        let parent = self.above.last().map_or("", |(_, path)| path);
        let path = format!("{parent}{name}");
        if name.ends_with('/') {
            self.above.push((indent, path.clone()));
        }
        Some(path)
    }
}
