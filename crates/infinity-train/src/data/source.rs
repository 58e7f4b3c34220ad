//! Files of text, and what they hold as one stream of documents.
//!
//! A `.txt` file is one document, a line of `.jsonl` or a row of `.csv` is one document. Directories
//! are read recursively in the order of their names, so the same files give the same stream
//! everywhere. The stream comes in fragments of bounded size: no file is ever in memory whole,
//! except a `.json` file that is one array.

use super::error::DataError;
use super::records::{self, Records};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const EXPECTED: &str = ".txt, .jsonl, .json, .csv";

/// A piece of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The text, exactly as in the file, without the byte-order mark that a file may begin with.
    pub text: String,
    /// The document ends here; the next fragment begins another one.
    pub ends_document: bool,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The whole file is one document.
    Text,
    /// One JSON object a line, or one array of objects.
    Json,
    /// Rows under a line of column names.
    Csv,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "txt" => Some(Self::Text),
            "json" | "jsonl" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// One file, with what tells a changed file from an unchanged one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// How it is read.
    pub format: Format,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change in nanoseconds since 1970, 0 where the system does not say.
    pub modified_ns: u64,
}

impl SourceFile {
    /// Looks at the file, without reading it. A name without a known ending is taken as plain text.
    pub fn new(path: &Path) -> Result<Self, DataError> {
        let read = |source| DataError::Read {
            path: path.to_path_buf(),
            source,
        };
        let metadata = fs::metadata(path).map_err(read)?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path: path.to_path_buf(),
            format: Format::of(path).unwrap_or(Format::Text),
            bytes: metadata.len(),
            modified_ns: modified.map_or(0, |since| since.as_nanos() as u64),
        })
    }
}

/// Files in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// What the user named; messages about the whole name it.
    pub root: PathBuf,
    /// The files, in reading order.
    pub files: Vec<SourceFile>,
    /// Column or key of the text in `.json`, `.jsonl` and `.csv`.
    pub text_column: String,
}

impl Sources {
    /// The file at `path`, or the files below it.
    ///
    /// # Errors
    /// The path is missing or empty, or the directory holds nothing that can be read; `key` is the
    /// configuration key the message blames.
    pub fn resolve(key: &'static str, path: &Path, text_column: &str) -> Result<Self, DataError> {
        if !path.exists() {
            return Err(DataError::NotFound {
                key,
                path: path.to_path_buf(),
            });
        }
        let files = if path.is_dir() {
            directory(path)?
        } else {
            vec![SourceFile::new(path)?]
        };
        if files.iter().all(|file| file.bytes == 0) {
            return Err(DataError::Empty {
                path: path.to_path_buf(),
            });
        }
        Ok(Self {
            root: path.to_path_buf(),
            files,
            text_column: text_column.to_owned(),
        })
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
            files: Vec::new(),
            text_column: text_column.to_owned(),
        };
        for path in paths {
            all.files
                .extend(Self::resolve(key, path, text_column)?.files);
        }
        Ok(all)
    }

    /// All text, file after file. Errors end the stream.
    pub fn fragments(&self) -> Fragments<'_> {
        Fragments {
            sources: self,
            next_file: 0,
            open: None,
            hash: false,
            fingerprints: Vec::new(),
            failed: false,
        }
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

fn directory(root: &Path) -> Result<Vec<SourceFile>, DataError> {
    let (mut files, mut skipped) = (Vec::new(), 0);
    walk(root, &mut |path| {
        // An empty file among others is no document; alone, it is an error of the caller.
        match Format::of(path) {
            Some(_) => files.push(SourceFile::new(path)?),
            None => skipped += 1,
        }
        Ok(())
    })?;
    files.retain(|file| file.bytes > 0);
    if files.is_empty() {
        return Err(DataError::NoFiles {
            path: root.to_path_buf(),
            expected: EXPECTED,
            skipped,
        });
    }
    Ok(files)
}

/// Visits the files below `root` in the order of their names. Hidden entries and linked directories
/// are passed over: the first are rarely meant, the second may lead in circles.
pub(super) fn walk(
    root: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let read = |source| DataError::Read {
        path: root.to_path_buf(),
        source,
    };
    let mut entries = fs::read_dir(root)
        .map_err(read)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(read)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(read)?;
        if kind.is_dir() {
            walk(&path, visit)?;
        } else if path.is_file() {
            visit(&path)?;
        }
    }
    Ok(())
}

/// The text of [`Sources`], in order.
pub struct Fragments<'a> {
    sources: &'a Sources,
    next_file: usize,
    open: Option<Records>,
    hash: bool,
    fingerprints: Vec<String>,
    failed: bool,
}

impl Fragments<'_> {
    /// Also takes a fingerprint of every file, for [`Fragments::fingerprints`].
    pub fn hashing(mut self) -> Self {
        self.hash = true;
        self
    }

    /// Fingerprints of the files that were read to their end, in order.
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }

    fn advance(&mut self) -> Result<Option<Fragment>, DataError> {
        loop {
            let Some(records) = &mut self.open else {
                let Some(file) = self.sources.files.get(self.next_file) else {
                    return Ok(None);
                };
                self.next_file += 1;
                self.open = Some(records::open(file, &self.sources.text_column, self.hash)?);
                continue;
            };
            if let Some(fragment) = records.next_fragment()? {
                return Ok(Some(fragment));
            }
            self.fingerprints.extend(records.fingerprint());
            self.open = None;
        }
    }
}

impl Iterator for Fragments<'_> {
    type Item = Result<Fragment, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
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
                .all(|fragment| fragment.text.len() <= records::BLOCK_BYTES + 4)
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
            ("c.jsonl", b"{\"text\": 5}\n", "text", &["line 1", "number"]),
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
        let path = write(dir.path(), "x.csv", "\u{feff}body,id\nhello,1\n");
        assert_eq!(documents(&path, "body").unwrap(), ["hello"]);
        let path = write(
            dir.path(),
            "x.jsonl",
            "\u{feff}{\"body\":\"a\"}\r\n{\"body\":\"b\"}",
        );
        assert_eq!(documents(&path, "body").unwrap(), ["a", "b"]);
    }
}
