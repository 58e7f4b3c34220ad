//! The files of the workspace, as a list of relative paths.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// What is, or would be, committed: everything but `.git`, `target` and what the root's `.gitignore` names.
pub(crate) struct Tree {
    root: PathBuf,
    files: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let ignored = ignored(root);
        let mut files = BTreeSet::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(root.join(&folder))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if folder.is_empty() {
                    name.clone()
                } else {
                    format!("{folder}/{name}")
                };
                if name == ".git" || name == "target" || ignored.contains(&path) {
                    continue;
                }
                // A link is listed, not followed: what it points to is not committed.
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path);
                }
            }
        }
        Ok(Self {
            root: root.to_path_buf(),
            files,
        })
    }

    /// Paths relative to the root, sorted, with `/` on every platform.
    pub(crate) fn files(&self) -> &BTreeSet<String> {
        &self.files
    }

    /// The Rust files among them.
    pub(crate) fn rust_files(&self) -> impl Iterator<Item = &str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(|path| path.ends_with(".rs"))
    }

    /// Is there such a file, or a folder that holds one?
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.files.contains(path) || self.files.iter().any(|file| file.starts_with(&inside))
    }

    /// Names of the folders directly inside `folder`.
    pub(crate) fn folders_in(&self, folder: &str) -> BTreeSet<&str> {
        let prefix = format!("{folder}/");
        self.files
            .iter()
            .filter_map(|file| file.strip_prefix(&prefix)?.split_once('/'))
            .map(|(name, _)| name)
            .collect()
    }

    /// The text of a file; `None` if it is not there or not UTF-8.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    pub(crate) fn bytes(&self, path: &str) -> u64 {
        std::fs::symlink_metadata(self.root.join(path)).map_or(0, |meta| meta.len())
    }
}

/// The anchored, plain lines of the root's `.gitignore` (`/runs`); this workspace uses no other form.
fn ignored(root: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix('/'))
        .map(|path| path.trim_end_matches('/').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::tidy::sandbox::Sandbox;

    #[test]
    fn ignored_and_built_files_are_not_listed() {
        let sandbox = Sandbox::new();
        sandbox.write(".gitignore", "/runs\n");
        sandbox.write("runs/a/train.log", "");
        sandbox.write("examples/app/target/release/app.rs", "");
        let tree = sandbox.tree();
        assert!(!tree.has("runs") && !tree.has("examples"));
        assert!(tree.has("crates/infinity-kernels/") && tree.has("README.md"));
        assert!(
            !tree.has("crates/infinity"),
            "a prefix of a name is not a folder"
        );
    }
}
