//! One file as a stream of documents: plain text, JSON, CSV or TSV.
//!
//! A `.txt` file is one document; a line of `.jsonl` and `.ndjson`, a row of `.csv` and `.tsv`, and a
//! value of `.json` (an array of objects, or objects one after another) is one document each. Text
//! comes in fragments of bounded size; only a `.json` file that is not one object a line is held whole.

use super::chat::{self, Answers};
use super::error::{DataError, EXPECTED, bad};
use infinity_files::Fingerprint;
use infinity_model::ChatTemplate;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;
use std::{iter, mem};

/// Endings of files that hold text only once something else has read them.
const PACKED: [&str; 9] = [
    "gz", "zst", "bz2", "xz", "lz4", "zip", "tar", "parquet", "arrow",
];
/// Plain text is read in blocks of this many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// Some programs put it at the start of a file; it is no part of its text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A piece of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The text, exactly as in the file, without the byte-order mark that a file may begin with.
    pub text: String,
    /// The document ends here; the next fragment begins another one.
    pub ends_document: bool,
    /// Of a conversation, which is whole, what is learned; of other text, all is.
    pub answers: Option<Answers>,
}

impl Fragment {
    pub(super) fn whole(text: String) -> Self {
        Self {
            text,
            ends_document: true,
            answers: None,
        }
    }
}

/// Which key of a row is read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// It holds conversations, which are written so.
    pub(super) template: Option<ChatTemplate>,
}

impl Column {
    /// The document in a row.
    fn read(&self, mut row: Map<String, Value>, line: u64) -> io::Result<Fragment> {
        let column = &self.name;
        let Some(value) = row.remove(column) else {
            return Err(self.missing(line, row.keys().map(String::as_str)));
        };
        let read = match &self.template {
            Some(template) => chat::conversation(template, value, row.get("tools"), column).map(
                |(text, answers)| Fragment {
                    answers: Some(answers),
                    ..Fragment::whole(text)
                },
            ),
            None => (serde_json::from_value(value).map(Fragment::whole))
                .map_err(|error| format!("`{column}` is not text: {error}")),
        };
        read.map_err(|reason| bad_row(line, reason))
    }

    /// That a row has `others` and not this one.
    fn missing<'a>(&self, line: u64, others: impl IntoIterator<Item = &'a str>) -> io::Error {
        let key = match self.template {
            Some(_) => "data.messages_column",
            None => "data.text_column",
        };
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        let column = &self.name;
        bad_row(
            line,
            format!("no column `{column}` (`{key}`); there are: {others}"),
        )
    }
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The whole file is one document.
    Text,
    /// One JSON object a line, objects over several lines, or one array of objects.
    Json,
    /// Rows under a line of column names, with commas between fields.
    Csv,
    /// Rows under a line of column names, with tabs between fields.
    Tsv,
}

impl Format {
    /// The format that a file's ending stands for, if it is one that is read.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match ending(path)?.as_str() {
            "txt" => Some(Self::Text),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }
}

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// One file, with what tells a changed file from an unchanged one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it is. A name that is not UTF-8 is written down with replacement characters.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// How it is read.
    pub format: Format,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change in nanoseconds since 1970, 0 where the system does not say.
    pub modified_ns: u64,
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl SourceFile {
    /// Looks at the file, without reading it. A name without a known ending is taken as plain text.
    ///
    /// # Errors
    /// If it cannot be looked at, or its ending says that it is packed.
    pub fn new(path: &Path) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(DataError::read(path))?;
        if let Some(ending) = ending(path).filter(|ending| PACKED.contains(&ending.as_str())) {
            let path = path.display();
            return Err(DataError::Unusable(format!(
                "{path}: .{ending} files are not read; unpack it to {EXPECTED}"
            )));
        }
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path: path.to_path_buf(),
            format: Format::of(path).unwrap_or(Format::Text),
            bytes: metadata.len(),
            modified_ns: modified.map_or(0, |since| since.as_nanos() as u64),
        })
    }
}

type Checked = CheckedReader<File>;
/// The fragments of a file of some format.
type Texts<E = io::Error> = Box<dyn Iterator<Item = Result<Fragment, E>> + Send>;
/// Fingerprints of files, the last one of the file that is being read.
pub(super) type Seen = Arc<Mutex<Vec<Fingerprint>>>;

/// The fragments of `file` that hold text. The last fingerprint of `seen` goes on over its bytes.
pub(super) fn open(
    file: &SourceFile,
    column: &Column,
    seen: Seen,
) -> Result<Texts<DataError>, DataError> {
    let (path, format) = (file.path.clone(), file.format);
    if column.template.is_some() && format != Format::Json {
        let path = path.display();
        let reason = format!("is of .jsonl and .json files, and another one is to be read: {path}");
        return bad("data.messages_column", &column.name, reason);
    }
    let mut handle = File::open(&path).map_err(DataError::read(&path))?;
    let mut head = Vec::new();
    let read = (&mut handle).take(4).read_to_end(&mut head);
    read.and_then(|_| handle.rewind())
        .map_err(DataError::read(&path))?;
    if is_utf16(&head) {
        let path = path.display();
        return Err(DataError::Unusable(format!(
            "{path} is UTF-16, not UTF-8; convert it first, for example with `iconv -f UTF-16 -t UTF-8`"
        )));
    }
    let mut reader = CheckedReader::new(handle, seen);
    if head.starts_with(BYTE_ORDER_MARK.as_bytes()) {
        let mark = reader.read_exact(&mut [0; BYTE_ORDER_MARK.len()]);
        mark.map_err(DataError::read(&path))?;
    }
    let texts = match format {
        Format::Text => Ok(blocks(reader, file.bytes)),
        Format::Json => json(reader, ending(&path), column.clone()),
        Format::Csv => rows(reader, column, b','),
        Format::Tsv => rows(reader, column, b'\t'),
    };
    let texts = texts.map_err(|error| read_error(&path, error))?;
    let holds_text = |found: &Result<Fragment, _>| !matches!(found, Ok(it) if it.text.is_empty());
    let texts = texts.filter(holds_text);
    Ok(Box::new(texts.map(move |found| {
        found.map_err(|error| read_error(&path, error))
    })))
}

/// Whether a file that begins with `head` is UTF-16: its mark, or two characters that every second byte is zero of.
fn is_utf16(head: &[u8]) -> bool {
    matches!(
        head,
        [0xff, 0xfe, ..]
            | [0xfe, 0xff, ..]
            | [0, 1..=0x7f, 0, 1..=0x7f]
            | [1..=0x7f, 0, 1..=0x7f, 0]
    )
}

/// A text file, which had so many `bytes` when it was found, in blocks that end after a line where there is one.
fn blocks(mut reader: Checked, bytes: u64) -> Texts {
    let (mut pending, mut ended) = (Vec::new(), reader.offset >= bytes);
    let mut read = move || {
        if ended {
            return Ok(None);
        }
        let wanted = BLOCK_BYTES.saturating_sub(pending.len()) as u64;
        (&mut reader).take(wanted).read_to_end(&mut pending)?;
        // A short block is the end of the file, and so is its known length, so that no empty
        // fragment follows the last one.
        ended = pending.len() < BLOCK_BYTES || reader.offset >= bytes;
        let end = if ended {
            // What a file that grew has gained, so that a character cut in two at the end is noticed.
            reader.read_to_end(&mut pending)?;
            pending.len()
        } else {
            line_end(&pending)
        };
        let rest = pending.split_off(end);
        let text = String::from_utf8(mem::replace(&mut pending, rest));
        Ok(Some(Fragment {
            ends_document: ended,
            ..Fragment::whole(text.expect("the reader checked it"))
        }))
    };
    Box::new(iter::from_fn(move || read().transpose()))
}

/// End of the last whole line, or else of the last whole character.
fn line_end(bytes: &[u8]) -> usize {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => newline + 1,
        None => match std::str::from_utf8(bytes) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        },
    }
}

/// Rows below a line of column names.
fn rows(reader: Checked, column: &Column, delimiter: u8) -> io::Result<Texts> {
    let mut reader = csv::ReaderBuilder::new()
        .buffer_capacity(BLOCK_BYTES)
        .delimiter(delimiter)
        .from_reader(Quotes::new(reader, delimiter));
    let headers = reader.headers().map_err(csv_error)?;
    let Some(index) = headers.iter().position(|name| *name == column.name) else {
        return Err(column.missing(1, headers));
    };
    // The reader refuses rows of another length than the header's, so the field is there.
    let mut row = csv::StringRecord::new();
    Ok(Box::new(iter::from_fn(move || {
        let read = reader.read_record(&mut row);
        let text = read.map(|more| more.then(|| Fragment::whole(row[index].to_owned())));
        text.map_err(csv_error).transpose()
    })))
}

fn csv_error(error: csv::Error) -> io::Error {
    let line = error.position().map_or(0, csv::Position::line);
    let reason = match error.into_kind() {
        csv::ErrorKind::Io(source) => return source,
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields, but the first line names {expected_len} columns"),
        kind => format!("not CSV: {kind:?}"),
    };
    bad_row(line, reason)
}

/// Where in a row the next byte stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first of a doubled one.
    AfterQuote,
}

/// Passes bytes on unchanged, and fails at the end of a file that is inside a quoted field: the parser
/// takes the end of the file for the end of such a field, so that one quote too many makes the rest of
/// a file one row, and a file that was cut looks whole.
struct Quotes<R> {
    inner: R,
    delimiter: u8,
    place: Place,
    line: u64,
    opened: u64,
}

impl<R> Quotes<R> {
    fn new(inner: R, delimiter: u8) -> Self {
        Self {
            inner,
            delimiter,
            place: Place::FieldStart,
            line: 1,
            opened: 0,
        }
    }

    fn follow(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.place = match (self.place, byte) {
            (Place::Quoted, b'"') => Place::AfterQuote,
            (Place::Quoted, _) | (Place::AfterQuote, b'"') => Place::Quoted,
            (_, b'\n' | b'\r') => Place::FieldStart,
            (_, byte) if byte == self.delimiter => Place::FieldStart,
            (Place::FieldStart, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            _ => Place::Plain,
        };
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.place == Place::Quoted {
            let line = self.opened;
            return Err(refused(format!(
                ", line {line}: a quoted field begins here and never ends"
            )));
        }
        buffer[..count].iter().for_each(|byte| self.follow(*byte));
        Ok(count)
    }
}

/// Opens lines if the first line is a value of its own, or too long to be seen whole; else everything.
fn json(reader: Checked, ending: Option<String>, column: Column) -> io::Result<Texts> {
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, reader);
    let start = reader.fill_buf()?.trim_ascii_start();
    let line = start.iter().position(|byte| *byte == b'\n');
    let whole = line.map(|end| serde_json::from_slice::<IgnoredAny>(&start[..end]));
    // An object that goes on in the next line; another mistake in a line is to be named with its line.
    let goes_on = matches!(&whole, Some(Err(error)) if error.is_eof());
    let lines_by_name = ending.is_some_and(|ending| ending != "json");
    if start.first() == Some(&b'[') || goes_on && !lines_by_name {
        let values = values(reader, &column)?;
        return Ok(Box::new(values.into_iter().map(Ok)));
    }
    let lines = (1..).zip(reader.lines());
    Ok(Box::new(lines.filter_map(move |(number, line)| {
        let read = line.and_then(|line| object(&line, number, &column));
        read.transpose()
    })))
}

/// The document in a line of JSON, if the line is not blank.
fn object(line: &str, number: u64, column: &Column) -> io::Result<Option<Fragment>> {
    // Files that were put together have the mark in the middle.
    let line = line.trim_start_matches(BYTE_ORDER_MARK).trim();
    if line.is_empty() {
        return Ok(None);
    }
    let row = serde_json::from_str(line).map_err(|error| {
        let hint = match error.is_eof() {
            true => "; an object over several lines is read from a .json file",
            false => "",
        };
        bad_row(
            number,
            format!("not a JSON object: {}{hint}", reason_of(&error)),
        )
    })?;
    column.read(row, number).map(Some)
}

/// Documents of a JSON file that cannot be cut into lines: arrays of objects, and objects one after another.
fn values(reader: BufReader<Checked>, column: &Column) -> io::Result<Vec<Fragment>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Item {
        Row(Map<String, Value>),
        Rows(Vec<Map<String, Value>>),
    }
    let (content, mut texts) = (io::read_to_string(reader)?, Vec::new());
    for item in serde_json::Deserializer::from_str(&content).into_iter() {
        let rows = match item {
            Ok(Item::Row(row)) => vec![row],
            Ok(Item::Rows(rows)) => rows,
            Err(error) => {
                let detail = match error.is_data() {
                    true => String::new(),
                    false => format!(": {}", reason_of(&error)),
                };
                let reason = format!("not an array of JSON objects{detail}");
                return Err(bad_row(error.line() as u64, reason));
            }
        };
        for row in rows {
            texts.push(column.read(row, texts.len() as u64 + 1)?);
        }
    }
    Ok(texts)
}

/// What serde_json says without the place, which is the place in the line and not in the file.
fn reason_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    format!("{} at column {}", &text[..end], error.column())
}

/// Why a file cannot be read on, as the end of a sentence that begins with its path. Travels through `io::Error`,
/// because the formats' parsers only pass that.
fn refused(why: String) -> io::Error {
    io::Error::other(why)
}

/// A row of JSON or CSV that cannot be read; lines count from 1.
fn bad_row(line: u64, reason: impl Display) -> io::Error {
    refused(format!(", line {line}: {reason}"))
}

/// Passes text on unchanged and fails at the first byte that is not UTF-8 text. All formats read
/// through it, so a picture named `.csv` fails with the same message as one named `.txt`, and the
/// fingerprint of what was read costs no second reading.
struct CheckedReader<R> {
    inner: R,
    offset: u64,
    /// Bytes of a character whose end has not been read yet.
    open: Vec<u8>,
    seen: Seen,
}

impl<R: Read> CheckedReader<R> {
    fn new(inner: R, seen: Seen) -> Self {
        Self {
            inner,
            offset: 0,
            open: Vec::new(),
            seen,
        }
    }

    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(place) = bytes.iter().position(|byte| *byte == 0) {
            let offset = self.offset + place as u64;
            return Err(refused(format!(
                " is not a text file: byte {offset} is zero"
            )));
        }
        let start = self.offset - self.open.len() as u64;
        self.open.extend_from_slice(bytes);
        let valid = match std::str::from_utf8(&self.open) {
            Ok(text) => text.len(),
            // The end of the last character may still come, unless this is the end of the file.
            Err(error) if error.error_len().is_none() && !bytes.is_empty() => error.valid_up_to(),
            Err(error) => {
                let place = error.valid_up_to();
                let (byte, offset) = (self.open[place], start + place as u64);
                return Err(refused(format!(
                    " is not UTF-8: byte {offset} ({byte:#04x}) does not belong there; convert it first, for example \
                     with `iconv -t UTF-8`"
                )));
            }
        };
        self.open.drain(..valid);
        Ok(())
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        let bytes = &buffer[..count];
        self.check(bytes)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = seen.last_mut() {
            hash.update(bytes);
        }
        drop(seen);
        self.offset += count as u64;
        Ok(count)
    }
}

/// Turns what a read of `path` failed with into the error a user sees.
fn read_error(path: &Path, source: io::Error) -> DataError {
    match source.get_ref() {
        Some(why) => DataError::Unusable(format!("{}{why}", path.display())),
        None => DataError::read(path)(source),
    }
}

#[cfg(test)]
mod tests {
    mod checked_reader {
        use super::super::*;

        /// Gives out its bytes in portions of `step`.
        struct Portions<'a>(&'a [u8], usize);

        impl Read for Portions<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(buffer.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }

        fn read(bytes: &[u8], step: usize) -> Result<String, DataError> {
            let mut text = Vec::new();
            match CheckedReader::new(Portions(bytes, step), Arc::default()).read_to_end(&mut text) {
                Ok(_) => Ok(String::from_utf8(text).expect("checked")),
                Err(error) => Err(read_error(Path::new("x"), error)),
            }
        }

        #[test]
        fn text_passes_whole_in_portions_of_any_size() {
            let text = "aß水🦀 end";
            for step in 1..=text.len() {
                assert_eq!(
                    read(text.as_bytes(), step).unwrap(),
                    text,
                    "portions of {step}"
                );
            }
        }

        #[test]
        fn the_first_bad_byte_is_named_wherever_the_portions_end() {
            for step in 1..=8 {
                let refused = |bytes: &[u8]| read(bytes, step).unwrap_err().to_string();
                let latin1 = refused(&[b'a', 0xc3, 0x9f, b'b', 0xe9, b' ', b'c']);
                assert!(
                    latin1.starts_with("x is not UTF-8: byte 4 (0xe9)"),
                    "portions of {step}: {latin1}"
                );
                let cut_off = refused(&[b'a', 0xf0, 0x9f]);
                assert!(cut_off.starts_with("x is not UTF-8: byte 1 "), "{cut_off}");
                let zero = refused(&[b'a', 0xc3, 0x9f, 0, 0xff]);
                assert_eq!(zero, "x is not a text file: byte 3 is zero");
            }
        }

        #[test]
        fn the_fingerprint_is_that_of_the_whole_file() {
            let text = "some text ß".as_bytes();
            let seen = Seen::new(Mutex::new(vec![Fingerprint::default()]));
            let mut reader = CheckedReader::new(Portions(text, 3), seen);
            reader.read_to_end(&mut Vec::new()).unwrap();
            let seen = reader.seen.lock().unwrap();
            assert_eq!(seen[0].hex(), infinity_files::fingerprint(text));
            assert_eq!(reader.offset, text.len() as u64);
        }
    }

    mod csv_quotes {
        use super::super::*;

        fn end(text: &str) -> Result<String, String> {
            let mut read = String::new();
            let ended = Quotes::new(text.as_bytes(), b',').read_to_string(&mut read);
            ended.map(|_| read).map_err(|error| error.to_string())
        }

        #[test]
        fn only_a_field_that_never_ends_is_refused() {
            for text in [
                "",
                "a,b\n1,2",
                "a,b\n\"1\",\"x \"\"y\"\", z\n2\"\r\n",
                "\"a,\",b\n1,2\n",
                "inch,12\"\n5\" and 6\",\"\"",
            ] {
                assert_eq!(end(text).as_deref(), Ok(text));
            }
            for (text, line) in [
                ("a,b\n1,\"2\n3,4\n", 2),
                ("\"a", 1),
                ("a\n\"b\"\n\"\"\"\n", 3),
            ] {
                assert!(
                    end(text).unwrap_err().contains(&format!("line {line}: ")),
                    "{text}"
                );
            }
        }
    }
}
