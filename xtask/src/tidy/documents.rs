//! The map is alive: every path that README.md and ARCHITECTURE.md name exists, and every crate and
//! operator has its place in ARCHITECTURE.md.
//!
//! Three things count as a named path: a word that starts with one of [`TOP`], the target of a relative
//! link, and every entry of a fenced block marked `tree`. The block after `<!-- file: path -->` must stand
//! in that file as it is.

use super::{Finding, operators, tree::Tree};

const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];
const TOP: [&str; 7] = [
    "crates/",
    "configs/",
    "examples/",
    "xtask/",
    "docs/",
    ".github/",
    ".ci/",
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in DOCUMENTS {
        match tree.text(name) {
            Some(text) => found.extend(document(tree, name, &text)),
            None => found.push(Finding::in_file(name, "missing")),
        }
    }

    let map = tree.text("ARCHITECTURE.md").unwrap_or_default();
    let crates = tree.folders_in("crates");
    for name in crates
        .union(&operators::names(tree))
        .filter(|name| !map.contains(**name))
    {
        let message = format!("does not name `{name}`");
        found.push(Finding::in_file("ARCHITECTURE.md", message));
    }
    found
}

fn document(tree: &Tree, name: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, path) in named_paths(text) {
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
fn named_paths(text: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut entries: Option<TreeBlock> = None;
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            entries = (entries.is_none() && mark.trim() == "tree").then(TreeBlock::default);
        } else if let Some(block) = &mut entries {
            paths.extend(block.entry(line).map(|path| (number, path)));
        } else {
            paths.extend(words(line).chain(links(line)).map(|path| (number, path)));
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

/// Targets of `[text](target)` that lie in this workspace.
fn links(line: &str) -> impl Iterator<Item = String> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#']).next()?;
        let is_local = !target.is_empty() && !target.contains("://");
        is_local.then(|| target.trim_start_matches("./").to_owned())
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::sandbox::Sandbox;

    #[test]
    fn a_path_that_is_gone_is_found() {
        for text in [
            "See `crates/infinity-model/src/gone.rs`.",
            "See [the log](LOG.md).",
            "```bash\ncargo run -- train configs/gone.toml\n```",
            "```tree\ncrates/\n  infinity-cli/  the binary\n    src/\n      gone.rs  gone\n```",
        ] {
            let found = Sandbox::new().findings_after("README.md", text, check);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn paths_that_are_there_and_placeholders_pass() {
        let text = "`crates/infinity-model/src/lib.rs`, crates/infinity-train/. `crates/<name>/x.rs`\n\
                    [map](./ARCHITECTURE.md#flow) [web](https://example.com/docs/x) [here](#here)\n\
                    ```tree\ncrates/\n  infinity-cli/\n    src/\n      main.rs  entry\n  infinity-model/\n```\n";
        let found = Sandbox::new().findings_after("README.md", text, check);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_crate_or_operator_missing_from_the_map_is_found() {
        let map = "infinity-kernels infinity-model infinity-train infinity-cli\n";
        let found = Sandbox::new().findings_after("ARCHITECTURE.md", map, check);
        assert_eq!(found, ["ARCHITECTURE.md: does not name `memory_scan`"]);
        let map = "infinity-kernels infinity-model infinity-train memory_scan\n";
        let found = Sandbox::new().findings_after("ARCHITECTURE.md", map, check);
        assert_eq!(found, ["ARCHITECTURE.md: does not name `infinity-cli`"]);
    }

    #[test]
    fn a_quote_that_differs_and_a_gap_are_found() {
        let sandbox = Sandbox::new();
        let quote = |code: &str| {
            format!("<!-- file: crates/infinity-cli/src/main.rs -->\n```rust\n{code}\n```\n")
        };
        let same = quote("fn main() {\n    println!();\n}");
        assert!(sandbox.findings_after("README.md", &same, check).is_empty());
        for text in [
            quote("fn main() {\n}"),
            quote(""),
            "| speed | TODO |".to_owned(),
        ] {
            assert_eq!(
                sandbox.findings_after("README.md", &text, check).len(),
                1,
                "{text}"
            );
        }
    }

    #[test]
    fn a_missing_document_is_found() {
        let sandbox = Sandbox::new();
        sandbox.remove("README.md");
        assert_eq!(check(&sandbox.tree()).len(), 1);
    }
}
