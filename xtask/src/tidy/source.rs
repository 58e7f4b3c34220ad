//! Rust source seen as code: comments and the insides of literals are blanked, tests are marked.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r##"let a = "unsafe // \" no"; // unsafe
let b = r#"unsafe " no"#; /* unsafe /* unsafe */
unsafe */ let c: &'a str = x; let d = '"'; let e = '\''; f("\
unsafe")
for r in "a" {}"##;
        let lines = lines(text);
        assert_eq!(lines.len(), text.lines().count());
        assert!(lines.iter().all(|line| !line.has_word("unsafe")));
        let code: Vec<&str> = lines.iter().map(|line| line.code.trim()).collect();
        assert_eq!(code[0], "let a = \"\";");
        assert_eq!(
            code[2],
            "let c: &'a str = x; let d = \"\"; let e = \"\"; f(\"\""
        );
        assert_eq!(code[4], "for r in \"\" {}");
    }

    #[test]
    fn whole_words_only() {
        let line = &lines("unsafe_op(); my_unsafe; unsafe { x }")[0];
        assert!(line.has_word("unsafe") && line.has_word("x"));
        assert!(!lines("unsafe_op(); my_unsafe;")[0].has_word("unsafe"));
    }

    #[test]
    fn tests_are_marked_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        let marks: Vec<bool> = lines(text).iter().map(|line| line.is_test).collect();
        assert_eq!(
            marks,
            [false, true, true, true, true, false, true, true, false]
        );
    }
}
