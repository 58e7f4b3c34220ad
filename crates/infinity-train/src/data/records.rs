//! One open file as a stream of fragments: plain text, CSV, or JSON (in `json_rows`).

use super::checked_reader::{CheckedReader, read_error};
use super::csv_quotes::{OpenQuote, Quotes};
use super::error::DataError;
use super::json_rows::{JsonArray, JsonLines, open_json};
use super::source::{Format, Fragment, SourceFile};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Plain text is read in blocks of this many bytes.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

pub(super) const BYTE_ORDER_MARK: &str = "\u{feff}";

pub(super) type Checked = CheckedReader<File>;

/// An open file of any format.
pub(super) enum Records {
    Text(TextBlocks),
    Lines(JsonLines),
    Array(JsonArray),
    Csv(CsvRows),
}

/// Opens `file`; `hash` also takes the fingerprint of its bytes.
pub(super) fn open(file: &SourceFile, text_column: &str, hash: bool) -> Result<Records, DataError> {
    let path = file.path.clone();
    let handle = File::open(&path).map_err(|source| DataError::Read {
        path: path.clone(),
        source,
    })?;
    let reader = if hash {
        CheckedReader::hashing(handle)
    } else {
        CheckedReader::new(handle)
    };
    match file.format {
        Format::Text => Ok(Records::Text(TextBlocks::new(reader, path, file.bytes))),
        Format::Json => open_json(reader, path, text_column),
        Format::Csv => Ok(Records::Csv(CsvRows::new(reader, path, text_column)?)),
    }
}

impl Records {
    /// The next fragment, or nothing at the end of the file.
    pub(super) fn next_fragment(&mut self) -> Result<Option<Fragment>, DataError> {
        match self {
            Self::Text(blocks) => blocks.next_fragment(),
            Self::Lines(lines) => lines.next_fragment(),
            Self::Array(array) => Ok(array.next_fragment()),
            Self::Csv(rows) => rows.next_fragment(),
        }
    }

    /// Fingerprint of the bytes read, if it was asked for.
    pub(super) fn fingerprint(&self) -> Option<String> {
        match self {
            Self::Text(blocks) => blocks.reader.fingerprint(),
            Self::Lines(lines) => lines.fingerprint(),
            Self::Array(array) => array.fingerprint(),
            Self::Csv(rows) => rows.reader.get_ref().inner().fingerprint(),
        }
    }
}

pub(super) fn whole(text: String) -> Fragment {
    Fragment {
        text,
        ends_document: true,
    }
}

/// A text file, in blocks that end after a line where there is one.
pub(super) struct TextBlocks {
    reader: Checked,
    path: PathBuf,
    /// Read, but not given out yet.
    pending: Vec<u8>,
    begun: bool,
    /// Length the file had when it was opened: the last block is recognised without reading on.
    bytes: u64,
    ended: bool,
}

impl TextBlocks {
    fn new(reader: Checked, path: PathBuf, bytes: u64) -> Self {
        Self {
            reader,
            path,
            pending: Vec::new(),
            begun: false,
            bytes,
            ended: bytes == 0,
        }
    }

    fn next_fragment(&mut self) -> Result<Option<Fragment>, DataError> {
        if self.ended {
            return Ok(None);
        }
        let wanted = BLOCK_BYTES.saturating_sub(self.pending.len()) as u64;
        let mut portion = (&mut self.reader).take(wanted);
        portion
            .read_to_end(&mut self.pending)
            .map_err(|error| read_error(&self.path, error))?;
        let short = portion.limit() > 0;
        // The mark that some programs put at the start of a file is no part of its text.
        if !std::mem::replace(&mut self.begun, true)
            && self.pending.starts_with(BYTE_ORDER_MARK.as_bytes())
        {
            self.pending.drain(..BYTE_ORDER_MARK.len());
        }
        // A short portion is the end of the file, and so is its known length, so that no empty
        // fragment follows the last one.
        self.ended = short || self.reader.offset() >= self.bytes;
        let end = if self.ended {
            self.finish()?
        } else {
            line_end(&self.pending)
        };
        let rest = self.pending.split_off(end);
        let text = String::from_utf8(std::mem::replace(&mut self.pending, rest))
            .expect("the reader checked it");
        Ok((!text.is_empty()).then_some(Fragment {
            text,
            ends_document: self.ended,
        }))
    }

    /// Reads what a file that grew has gained, so that a character cut in two at the end is noticed.
    fn finish(&mut self) -> Result<usize, DataError> {
        self.reader
            .read_to_end(&mut self.pending)
            .map_err(|error| read_error(&self.path, error))?;
        Ok(self.pending.len())
    }
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
pub(super) struct CsvRows {
    reader: csv::Reader<Quotes<Checked>>,
    path: PathBuf,
    index: usize,
    row: csv::StringRecord,
}

impl CsvRows {
    fn new(reader: Checked, path: PathBuf, column: &str) -> Result<Self, DataError> {
        let mut reader = csv::ReaderBuilder::new()
            .buffer_capacity(BLOCK_BYTES)
            .from_reader(Quotes::new(reader));
        let headers = reader.headers().map_err(|error| csv_error(&path, error))?;
        let names: Vec<&str> = headers
            .iter()
            .map(|name| name.trim_start_matches(BYTE_ORDER_MARK))
            .collect();
        let Some(index) = names.iter().position(|name| *name == column) else {
            let columns = names.join(", ");
            return Err(DataError::NoColumn {
                path,
                line: 1,
                column: column.to_owned(),
                columns,
            });
        };
        Ok(Self {
            reader,
            path,
            index,
            row: csv::StringRecord::new(),
        })
    }

    fn next_fragment(&mut self) -> Result<Option<Fragment>, DataError> {
        while self
            .reader
            .read_record(&mut self.row)
            .map_err(|error| csv_error(&self.path, error))?
        {
            // The reader refuses rows of another length than the header's, so the field is there.
            let text = &self.row[self.index];
            if !text.is_empty() {
                return Ok(Some(whole(text.to_owned())));
            }
        }
        Ok(None)
    }
}

fn csv_error(path: &Path, error: csv::Error) -> DataError {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(source) => {
            let inner = source.get_ref();
            match inner.and_then(|inner| inner.downcast_ref::<OpenQuote>()) {
                Some(OpenQuote { line }) => DataError::BadRow {
                    path: path.to_path_buf(),
                    line: *line,
                    reason: "a quoted field begins here and never ends".to_owned(),
                },
                None => read_error(path, source),
            }
        }
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            let reason = format!("{len} fields, but the first line names {expected_len} columns");
            DataError::BadRow {
                path: path.to_path_buf(),
                line,
                reason,
            }
        }
        kind => DataError::BadRow {
            path: path.to_path_buf(),
            line,
            reason: format!("not CSV: {kind:?}"),
        },
    }
}
