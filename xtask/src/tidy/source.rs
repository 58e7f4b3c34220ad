//! What the rules read: the files of the workspace, and Rust source seen as code, in which comments and
//! the contents of literals are blanked and tests are marked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// One broken rule at one place.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    message: String,
}

impl Finding {
    pub(crate) fn in_file(path: &str, message: impl Into<String>) -> Self {
        Finding::at(path, 0, message)
    }

    pub(crate) fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
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

/// One line of a Rust file.
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: usize,
    /// The line without comments and without the contents of strings.
    pub(crate) code: String,
    /// Is it inside `#[cfg(test)]`?
    pub(crate) is_test: bool,
}

impl Line {
    /// Does `word` stand here as a whole word?
    pub(crate) fn has_word(&self, word: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).any(|(at, _)| {
            !self.code[..at].ends_with(is_part)
                && !self.code[at + word.len()..].starts_with(is_part)
        })
    }
}

/// Files that are tests, benches or examples as a whole.
pub(crate) fn is_test_file(path: &str) -> bool {
    ["/tests/", "/benches/", "/examples/"]
        .iter()
        .any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
}

/// All lines of a file.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    let mut in_test = false;
    let mut closes_test = false;
    blank(text)
        .lines()
        .enumerate()
        .map(|(i, code)| {
            // rustfmt puts a top-level item and its closing brace in the first column.
            if !in_test {
                in_test = code.starts_with("#[cfg(test)]");
                closes_test = false;
            } else {
                closes_test = code == "}" || code.ends_with(';') && !code.starts_with(' ');
            }
            let line = Line {
                number: i + 1,
                code: code.to_owned(),
                is_test: in_test,
            };
            in_test &= !closes_test;
            line
        })
        .collect()
}

/// `text` without comments and literal contents; every line break stays where it was.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(rest, &out) {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = rest.find('"').map_or(rest.len(), |at| at + 1);
            rest[body..]
                .find(&close)
                .map_or(rest.len(), |at| body + at + close.len())
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_char_literal(rest) {
            quoted(rest, '\'')
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        if matches!(first, '"' | '\'' | 'r') {
            out.push_str("\"\"");
        }
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    out
}

/// Length of the block comment, comments inside it included, that `text` starts with.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    for (at, pair) in text.as_bytes().windows(2).enumerate() {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 2;
        }
    }
    text.len()
}

/// The number of `#` if `text` starts with a raw string; `before` tells `r"` from the end of a name.
fn raw_string(text: &str, before: &str) -> Option<usize> {
    let tail = text.strip_prefix('r')?;
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    let name = before.strip_suffix(['b', 'c']).unwrap_or(before);
    let ends_a_name = name.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    (tail[hashes..].starts_with('"') && !ends_a_name).then_some(hashes)
}

/// Length of the literal between two `quote`s that `text` starts with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    matches!(
        (chars.next(), chars.next()),
        (Some('\\'), _) | (_, Some('\''))
    )
}
