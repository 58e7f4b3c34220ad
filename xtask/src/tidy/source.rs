//! What the rules read: the files of the workspace with their texts, and the tokens of Rust source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What is, or would be, committed: everything but `.git`, `target` and what the root's `.gitignore` names.
///
/// Paths are relative to the root, with `/` on every platform.
pub(crate) struct Tree(BTreeMap<String, File>);

pub(crate) struct File {
    pub(crate) bytes: u64,
    /// Empty if it is not UTF-8.
    pub(crate) text: String,
    /// Those of Rust.
    pub(crate) tokens: Vec<Token>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        // Anchored, plain lines (`/runs`): this workspace uses no other form.
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        let ignored = ignored
            .lines()
            .filter_map(|line| line.trim().strip_prefix('/'));
        let ignored: BTreeSet<&str> = ignored.map(|path| path.trim_end_matches('/')).collect();
        let mut files = BTreeMap::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("{folder}{name}");
                if name == ".git" || name == "target" || ignored.contains(&*path) {
                    continue;
                }
                // A link is listed, not followed: what it points to is not committed.
                let meta = match entry.metadata() {
                    // A build beside this one makes and removes files.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    meta => meta?,
                };
                if meta.is_dir() {
                    folders.push(format!("{path}/"));
                    continue;
                }
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let file = File {
                    bytes: meta.len(),
                    tokens: tokens(if path.ends_with(".rs") { &text } else { "" }),
                    text,
                };
                files.insert(path, file);
            }
        }
        Ok(Self(files))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.0.iter().map(|(path, file)| (&**path, file))
    }

    pub(crate) fn rust_files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Is there such a file, or a folder that holds one?
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.0.contains_key(path) || self.0.keys().any(|file| file.starts_with(&inside))
    }

    /// Names of the folders directly inside `folder`.
    pub(crate) fn folders_in(&self, folder: &str) -> BTreeSet<&str> {
        let prefix = format!("{folder}/");
        let inside = self.0.keys().filter_map(|file| file.strip_prefix(&prefix));
        let folders = inside.filter_map(|file| file.split_once('/'));
        folders.map(|(folder, _)| folder).collect()
    }

    /// The text of a file; empty if it is not there.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.0.get(path).map_or("", |file| &file.text)
    }

    pub(crate) fn tokens(&self, path: &str) -> &[Token] {
        self.0.get(path).map_or(&[], |file| &file.tokens)
    }
}

/// Files that are tests, benches or examples as a whole.
pub(crate) fn is_test_file(path: &str) -> bool {
    let folders = ["/tests/", "/benches/", "/examples/"];
    folders.iter().any(|folder| path.contains(folder)) || path.ends_with("/tests.rs")
}

/// A name, `::`, a bracket or another mark; a literal is a pair of quotes.
pub(crate) struct Token {
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
    /// Is it inside an item with `#[cfg(test)]`?
    pub(crate) is_test: bool,
}

/// Whether a text can be read as Rust, if it is one at all.
pub(crate) fn is_tokens(text: &str) -> bool {
    !text.is_empty() && text.parse::<TokenStream>().is_ok()
}

/// All tokens of a file but comments; none if it is no Rust.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut is_test = false;
    for tree in text.parse::<TokenStream>().unwrap_or_default() {
        let (mut begins, mut ends) = (false, false);
        match &tree {
            TokenTree::Group(group) => {
                begins = group.stream().to_string().replace(' ', "") == "cfg(test)";
                ends = group.delimiter() == Delimiter::Brace;
            }
            TokenTree::Punct(mark) => ends = mark.as_char() == ';',
            _ => {}
        }
        if begins && let Some(hash) = tokens.last_mut() {
            (hash.is_test, is_test) = (true, true);
        }
        add(&mut tokens, tree, is_test);
        is_test &= !ends;
    }
    tokens
}

fn add(tokens: &mut Vec<Token>, tree: TokenTree, is_test: bool) {
    let token = |text: &str, line| Token {
        text: text.to_owned(),
        line,
        is_test,
    };
    let line = tree.span().start().line;
    match tree {
        TokenTree::Literal(_) => tokens.push(token("\"\"", line)),
        TokenTree::Group(group) => {
            let [open, close] = match group.delimiter() {
                Delimiter::Parenthesis => ["(", ")"],
                Delimiter::Brace => ["{", "}"],
                Delimiter::Bracket => ["[", "]"],
                Delimiter::None => ["", ""],
            };
            // A doc comment arrives as `#[doc = ""]` or `#![doc = ""]`.
            if open == "[" && group.stream().to_string().starts_with("doc =") {
                tokens.pop_if(|last| last.text == "!");
                tokens.pop_if(|last| last.text == "#");
                return;
            }
            tokens.push(token(open, line));
            for tree in group.stream() {
                add(tokens, tree, is_test);
            }
            tokens.push(token(close, group.span_close().start().line));
        }
        TokenTree::Punct(mark) if mark.as_char() == ':' => {
            match tokens.pop_if(|last| last.text == ":") {
                Some(first) => tokens.push(token("::", first.line)),
                None => tokens.push(token(":", line)),
            }
        }
        TokenTree::Ident(_) | TokenTree::Punct(_) => tokens.push(token(&tree.to_string(), line)),
    }
}
