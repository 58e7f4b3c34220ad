//! `cargo xtask tidy`: the rules of this workspace that no lint checks. Also a test, so `cargo test` runs it.
//!
//! A rule is a function from the [`Tree`] to its findings, one file a rule, in [`RULES`].

mod budgets;
mod documents;
mod heads;
mod hygiene;
mod layering;
mod operators;
mod source;
mod tree;
mod unsafe_code;

use std::fmt;
use std::path::Path;

use anyhow::Context;
use tree::Tree;

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: [(&str, Rule); 7] = [
    ("heads", heads::check),
    ("budgets", budgets::check),
    ("layering", layering::check),
    ("operators", operators::check),
    ("documents", documents::check),
    ("hygiene", hygiene::check),
    ("unsafe", unsafe_code::check),
];

/// One broken rule at one place.
#[derive(Debug)]
pub(crate) struct Finding {
    path: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    message: String,
}

impl Finding {
    fn in_file(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line: 0,
            message: message.into(),
        }
    }

    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Prints all findings; an error if there are any.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let tree = Tree::read(root).with_context(|| format!("cannot list {}", root.display()))?;
    let mut count = 0;
    for (rule, check) in RULES {
        for finding in check(&tree) {
            println!("{finding} [{rule}]");
            count += 1;
        }
    }
    anyhow::ensure!(
        count == 0,
        "{count} finding{}",
        if count == 1 { "" } else { "s" }
    );
    println!(
        "tidy: {} files, {} rules, nothing found",
        tree.files().len(),
        RULES.len()
    );
    Ok(())
}

/// A small workspace that keeps every rule, in a temporary folder: each rule's test breaks it in one place.
#[cfg(test)]
mod sandbox;

#[cfg(test)]
mod tests {
    use super::sandbox::Sandbox;
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        let tree = Tree::read(&crate::workspace_root()).expect("the workspace can be read");
        let findings: Vec<String> = RULES
            .iter()
            .flat_map(|(rule, check)| {
                check(&tree)
                    .into_iter()
                    .map(move |f| format!("{f} [{rule}]"))
            })
            .collect();
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }

    /// Without this the tests that break the sandbox could pass for the wrong reason.
    #[test]
    fn the_sandbox_is_tidy() {
        let sandbox = Sandbox::new();
        for (rule, check) in RULES {
            let findings = check(&sandbox.tree());
            assert!(findings.is_empty(), "{rule}: {findings:?}");
        }
    }

    #[test]
    fn run_fails_when_a_rule_is_broken() {
        let sandbox = Sandbox::new();
        assert!(run(sandbox.root()).is_ok());
        sandbox.write("crates/infinity-model/src/lib.rs", "pub fn no_head() {}\n");
        assert_eq!(
            run(sandbox.root()).expect_err("one finding").to_string(),
            "1 finding"
        );
    }
}
