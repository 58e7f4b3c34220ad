//! The files that text is read from, in a fixed order, as one stream of documents.
//!
//! Directories are read recursively in the order of their names, so the same files give the same
//! stream everywhere. The stream comes in fragments of bounded size.

use super::error::{DataError, EXPECTED};
use super::formats::{self, Column, Format, Fragment, Seen, SourceFile};
use super::stories::Stories;
use infinity_files::Fingerprint;
use infinity_model::ChatTemplate;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::{iter, mem};

/// Files in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// What the user named; messages about the whole name it.
    pub root: PathBuf,
    /// The files, in reading order.
    pub files: Vec<SourceFile>,
    /// Made text, after the files.
    pub(super) stories: Option<Stories>,
    /// Fingerprint of the contents, where finding them already took it.
    pub(super) known: Option<String>,
    /// What was passed over: directories that this program wrote (runs, models, token files), and files of dependencies
    /// that are no UTF-8 text.
    pub skipped: Vec<PathBuf>,
    /// Column or key of the text in `.json`, `.jsonl`, `.csv` and `.tsv`, or of conversations.
    pub(super) column: Column,
}

impl Sources {
    /// The file at `path`, or the files below it.
    ///
    /// # Errors
    /// The path is missing or empty, is no regular file, or the directory holds nothing that can be
    /// read; `key` is the configuration key the message blames.
    pub fn resolve(key: &'static str, path: &Path, text_column: &str) -> Result<Self, DataError> {
        Self::concatenated(key, &[path.to_path_buf()], text_column)
    }

    /// The files of every path, in the order of the paths.
    ///
    /// # Errors
    /// As [`Sources::resolve`], for the first path that is wrong.
    pub fn concatenated(
        key: &'static str,
        paths: &[PathBuf],
        text_column: &str,
    ) -> Result<Self, DataError> {
        let mut all = Self {
            root: paths.first().cloned().unwrap_or_default(),
            ..Self::default()
        };
        all.column.name = text_column.to_owned();
        paths.iter().try_for_each(|path| all.add(key, path))?;
        Ok(all)
    }

    /// The same, whose column holds conversations that `template` writes, if there is one.
    pub fn written_by(mut self, template: Option<ChatTemplate>) -> Self {
        self.column.template = template;
        self
    }

    /// All text, file after file. Errors end the stream.
    pub fn fragments(&self) -> impl Iterator<Item = Result<Fragment, DataError>> + Send {
        self.read(Fingerprint::default(), Seen::default())
    }

    /// [`fragments`](Self::fragments), with the fingerprint of every file in `seen`; each begins with `hash`.
    pub(super) fn read(
        &self,
        hash: Fingerprint,
        seen: Seen,
    ) -> impl Iterator<Item = Result<Fragment, DataError>> + Send {
        let texts = self.files.iter().flat_map(move |file| {
            let fresh = hash.clone();
            (seen.lock().unwrap_or_else(PoisonError::into_inner)).push(fresh);
            let opened = formats::open(file, &self.column, seen.clone());
            opened.unwrap_or_else(|error| Box::new(iter::once(Err(error))))
        });
        let stories = self.stories.into_iter().flat_map(|stories| {
            (0..stories.count).map(move |n| Ok(Fragment::whole(stories.story(n))))
        });
        let mut failed = false;
        let until = move |found: &Result<_, _>| !mem::replace(&mut failed, found.is_err());
        texts.chain(stories).take_while(until)
    }

    /// [`fragments`](Self::fragments), each with whether it is of the first `left` characters. One that is only partly is
    /// cut, but a conversation is of them if it begins there.
    pub(super) fn parted(
        &self,
        mut left: u64,
    ) -> impl Iterator<Item = Result<(bool, Fragment), DataError>> + Send {
        self.fragments().flat_map(move |fragment| {
            let mut fragment = match fragment {
                Ok(fragment) => fragment,
                Err(error) => return vec![Err(error)],
            };
            let (chars, limit) = (fragment.text.chars().count() as u64, left);
            left = left.saturating_sub(chars);
            if limit == 0 || chars <= limit || fragment.answers.is_some() {
                return vec![Ok((limit > 0, fragment))];
            }
            let mut places = fragment.text.char_indices();
            let (place, _) = places.nth(limit as usize).expect("there are more");
            let mut after = Fragment::whole(fragment.text.split_off(place));
            after.ends_document = mem::replace(&mut fragment.ends_document, false);
            vec![Ok((true, fragment)), Ok((false, after))]
        })
    }

    /// The made stories alone.
    pub(super) fn of_stories(stories: Stories) -> Self {
        Self {
            root: PathBuf::from("stories"),
            known: Some(stories.fingerprint()),
            stories: Some(stories),
            ..Self::default()
        }
    }

    fn add(&mut self, key: &'static str, path: &Path) -> Result<(), DataError> {
        let metadata = fs::metadata(path).map_err(DataError::not_read(key, path))?;
        if metadata.is_dir() {
            return self.directory(path);
        }
        if !metadata.is_file() {
            let (path, kind) = (path.display(), kind(&metadata));
            return Err(DataError::Unusable(format!(
                "`{key}`: {path} is {kind}, which cannot be read twice, and text is read more \
                 than once; write it to a file first"
            )));
        }
        if metadata.len() == 0 {
            return Err(DataError::empty(path));
        }
        self.files.push(SourceFile::new(path)?);
        Ok(())
    }

    /// Finds the files below `root`. An empty one among others is no document.
    fn directory(&mut self, root: &Path) -> Result<(), DataError> {
        let (before, mut others) = (self.files.len(), 0);
        let mut walk = Walk {
            skips: true,
            ..Walk::default()
        };
        walk.directory(root, &mut |path| {
            match Format::of(path).filter(|_| path.is_file()) {
                Some(_) => self.files.push(SourceFile::new(path)?),
                None => others += 1,
            }
            Ok(())
        })?;
        self.files.retain(|file| file.bytes > 0);
        if self.files.len() > before {
            self.skipped.extend(walk.skipped);
            return Ok(());
        }
        let skipped = match walk.skipped.len() {
            0 => String::new(),
            n => format!("directories of runs, models or token files there: {n}, "),
        };
        Err(DataError::Unusable(format!(
            "{} holds no text files: expected {EXPECTED}; {skipped}other files there: {others}",
            root.display()
        )))
    }
}

/// What a file is that is neither a directory nor an ordinary one.
fn kind(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    let _ = metadata;
    "a device"
}

/// A walk through a directory, in the order of names. Hidden entries are passed over: they are rarely
/// meant. Linked directories are followed where their text would not be read otherwise.
#[derive(Default)]
pub(super) struct Walk {
    /// Directories read so far, without links; the first is the root.
    read: Vec<PathBuf>,
    /// Whether directories that this program wrote are passed over.
    skips: bool,
    skipped: Vec<PathBuf>,
}

impl Walk {
    /// Calls `visit` with everything below `path` that is no directory.
    pub(super) fn directory(
        &mut self,
        path: &Path,
        visit: &mut dyn FnMut(&Path) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let real = path.canonicalize().map_err(DataError::read(path))?;
        if self.read.contains(&real) {
            return Ok(());
        }
        self.read.push(real);
        let mut entries = fs::read_dir(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(DataError::read(path))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if is_hidden(&path) {
                continue;
            }
            let kind = entry.file_type().map_err(DataError::read(&path))?;
            if !path.is_dir() {
                visit(&path)?;
            } else if self.skips && is_written_here(&path) {
                self.skipped.push(path);
            } else if !kind.is_symlink() || self.leads_elsewhere(&path) {
                self.directory(&path, visit)?;
            }
        }
        Ok(())
    }

    /// Whether a linked directory holds what the walk does not come to without it: neither one below
    /// the root, which is read under its own name, nor one above it, which would lead in a circle.
    fn leads_elsewhere(&self, link: &Path) -> bool {
        let (Ok(to), Some(root)) = (link.canonicalize(), self.read.first()) else {
            return false;
        };
        match to.strip_prefix(root) {
            Ok(inside) => inside.ancestors().any(is_hidden),
            Err(_) => !root.starts_with(&to),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether a directory is a run's, a model's, or one of token files: what is in it is no text.
fn is_written_here(path: &Path) -> bool {
    const TOGETHER: [&[&str]; 3] = [
        &["run.json", "config.effective.toml"],
        &["config.json", "model.safetensors"],
        &["meta.json", "tokenizer.json"],
    ];
    let there = |name: &&str| path.join(name).is_file();
    TOGETHER.iter().any(|names| names.iter().all(there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(path: &Path, column: &str) -> Result<Vec<String>, DataError> {
        let sources = Sources::resolve("data.train_file", path, column)?;
        let (mut documents, mut open) = (Vec::new(), String::new());
        for fragment in sources.fragments() {
            let fragment = fragment?;
            open.push_str(&fragment.text);
            if fragment.ends_document {
                documents.push(std::mem::take(&mut open));
            }
        }
        assert!(open.is_empty(), "the last document was not ended");
        Ok(documents)
    }

    fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn directories_are_read_recursively_in_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "b.txt", "second");
        write(dir.path(), "a/z.txt", "first");
        write(
            dir.path(),
            "c.jsonl",
            "{\"text\": \"third\"}\n\n{\"text\": \"fourth ß\", \"n\": 1}\n",
        );
        write(dir.path(), "d.csv", "id,text\n1,\"fi\nfth\"\n2,sixth\n");
        write(
            dir.path(),
            "e.json",
            "[{\"text\": \"seventh\"}, {\"text\": \"eighth\"}]",
        );
        write(dir.path(), "f.txt", "");
        write(dir.path(), ".hidden.txt", "no");
        write(dir.path(), "picture.png", [0u8, 255]);
        let want = [
            "first",
            "second",
            "third",
            "fourth ß",
            "fi\nfth",
            "sixth",
            "seventh",
            "eighth",
        ];
        assert_eq!(documents(dir.path(), "text").unwrap(), want);
    }

    #[test]
    fn long_text_comes_whole_and_in_bounded_fragments() {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = (0..400_000).map(|i| format!("line {i} ß水\n")).collect();
        let unbroken = "水".repeat(1_500_000);
        let path = write(dir.path(), "a.txt", &lines);
        write(dir.path(), "b.txt", &unbroken);
        assert_eq!(
            documents(dir.path(), "text").unwrap(),
            [lines.clone(), unbroken]
        );
        let sources = Sources::resolve("k", &path, "text").unwrap();
        let fragments: Vec<Fragment> = sources.fragments().map(Result::unwrap).collect();
        assert!(fragments.len() > 3);
        assert!(
            fragments
                .iter()
                .all(|fragment| fragment.text.len() <= (1 << 20) + 4)
        );
        assert!(
            fragments
                .iter()
                .all(|fragment| fragment.text.ends_with('\n'))
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str, text: &[u8], column: &str| {
            documents(&write(dir.path(), name, text), column)
                .unwrap_err()
                .to_string()
        };
        let cases: [(&str, &[u8], &str, &[&str]); 11] = [
            ("empty.txt", b"", "text", &["empty.txt", "no text"]),
            ("photo.txt", b"ab\0cd", "text", &["photo.txt", "byte 2"]),
            (
                "latin.txt",
                b"caf\xe9 x",
                "text",
                &["latin.txt", "byte 3", "0xe9"],
            ),
            (
                "latin.jsonl",
                b"{\"text\":\"a\"}\n{\"text\":\"\xe9\"}",
                "text",
                &["byte 22"],
            ),
            ("latin.csv", b"text\na\n\xe9\n", "text", &["byte 7"]),
            (
                "a.jsonl",
                b"{\"text\": \"a\"}\n{\"text\": \n",
                "text",
                &["line 2", "EOF"],
            ),
            (
                "b.jsonl",
                b"{\"body\": \"a\", \"id\": 1}\n",
                "text",
                &["line 1", "`text`", "body, id"],
            ),
            (
                "c.jsonl",
                b"{\"text\": 5}\n",
                "text",
                &["line 1", "`text`", "integer `5`"],
            ),
            ("d.csv", b"id,body\n1,a\n", "text", &["`text`", "id, body"]),
            ("e.csv", b"id,text\n1,a\n2\n", "text", &["line 3", "1", "2"]),
            (
                "f.json",
                b"[{\"text\": \"a\"}, 3]",
                "text",
                &["f.json", "object"],
            ),
        ];
        for (name, text, column, words) in cases {
            let message = error(name, text, column);
            for word in words {
                assert!(message.contains(word), "{name}: no `{word}` in: {message}");
            }
        }
        let missing =
            Sources::resolve("data.train_file", Path::new("no/such"), "text").unwrap_err();
        assert!(missing.to_string().contains("data.train_file"), "{missing}");
    }

    #[test]
    fn a_directory_without_text_says_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "picture.png", [0u8, 255]);
        let message = documents(dir.path(), "text").unwrap_err().to_string();
        assert!(
            message.contains(".jsonl") && message.ends_with("there: 1"),
            "{message}"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let marked = write(dir.path(), "a.txt", "\u{feff}one \u{feff}two\n");
        assert_eq!(documents(&marked, "text").unwrap(), ["one \u{feff}two\n"]);
        let alone = write(dir.path(), "b.txt", "\u{feff}");
        assert!(documents(&alone, "text").unwrap().is_empty());
        let long = "line\n".repeat(300_000);
        let long_marked = write(dir.path(), "c.txt", format!("\u{feff}{long}"));
        assert_eq!(documents(&long_marked, "text").unwrap(), [long]);
    }

    #[test]
    fn another_column_can_be_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "x.csv", "\u{feff}\"body\",id\nhello,1\n");
        assert_eq!(documents(&path, "body").unwrap(), ["hello"]);
        let path = write(
            dir.path(),
            "x.jsonl",
            "\u{feff}{\"body\":\"a\"}\r\n{\"body\":\"b\"}",
        );
        assert_eq!(documents(&path, "body").unwrap(), ["a", "b"]);
    }
}
