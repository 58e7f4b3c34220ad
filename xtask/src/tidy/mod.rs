//! `cargo xtask tidy`: the rules of this workspace that no lint checks. Also a test, so `cargo test` runs it.

mod documents;
mod files;
mod layering;
mod rooms;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Context;
use source::Tree;

/// Adds what it finds: `path: message` or `path:line: message`.
type Rule = fn(&Tree, &mut Vec<String>);

const RULES: [(&str, Rule); 8] = [
    ("heads", files::heads),
    ("budgets", files::budgets),
    ("hygiene", files::hygiene),
    ("unsafe", files::unsafe_code),
    ("layering", layering::check),
    ("operators", rooms::operators),
    ("circles", rooms::circles),
    ("documents", documents::check),
];

/// Prints all findings; an error if there are any.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let tree = Tree::read(root).with_context(|| format!("cannot list {}", root.display()))?;
    let findings = findings(&tree);
    findings.iter().for_each(|finding| println!("{finding}"));
    anyhow::ensure!(findings.is_empty(), "findings: {}", findings.len());
    let (files, rules) = (tree.files().count(), RULES.len());
    println!("tidy: {files} files, {rules} rules, nothing found");
    Ok(())
}

/// What every rule finds, with the rule's name.
fn findings(tree: &Tree) -> Vec<String> {
    let mut all = Vec::new();
    for (rule, check) in RULES {
        let mut found = Vec::new();
        check(tree, &mut found);
        all.extend(found.iter().map(|finding| format!("{finding} [{rule}]")));
    }
    all
}
