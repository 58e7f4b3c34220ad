//! JSON as a stream of documents: one object a line, or one array of objects.

use super::checked_reader::read_error;
use super::error::DataError;
use super::records::{BLOCK_BYTES, BYTE_ORDER_MARK, Checked, Records, whole};
use super::source::Fragment;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// One object a line.
pub(super) struct JsonLines {
    reader: BufReader<Checked>,
    path: PathBuf,
    column: String,
    line: u64,
    buffer: String,
}

/// Opens an array if the first thing in the file is `[`, else lines.
pub(super) fn open_json(
    reader: Checked,
    path: PathBuf,
    column: &str,
) -> Result<Records, DataError> {
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, reader);
    let head = reader
        .fill_buf()
        .map_err(|error| read_error(&path, error))?;
    let text_start = head
        .strip_prefix(BYTE_ORDER_MARK.as_bytes())
        .unwrap_or(head);
    if text_start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Ok(Records::Array(read_array(reader, &path, column)?));
    }
    Ok(Records::Lines(JsonLines {
        reader,
        path,
        column: column.to_owned(),
        line: 0,
        buffer: String::new(),
    }))
}

impl JsonLines {
    /// Fingerprint of the bytes read, if it was asked for.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.reader.get_ref().fingerprint()
    }

    /// The next row that holds text.
    pub(super) fn next_fragment(&mut self) -> Result<Option<Fragment>, DataError> {
        loop {
            self.buffer.clear();
            let count = self
                .reader
                .read_line(&mut self.buffer)
                .map_err(|error| read_error(&self.path, error))?;
            if count == 0 {
                return Ok(None);
            }
            self.line += 1;
            let line = self
                .buffer
                .strip_prefix(BYTE_ORDER_MARK)
                .unwrap_or(&self.buffer)
                .trim();
            if line.is_empty() {
                continue;
            }
            let row = serde_json::from_str(line).map_err(|error| {
                let reason = format!("not a JSON object: {}", reason_of(&error));
                DataError::BadRow {
                    path: self.path.clone(),
                    line: self.line,
                    reason,
                }
            })?;
            let text = text_of(row, &self.path, self.line, &self.column)?;
            if !text.is_empty() {
                return Ok(Some(whole(text)));
            }
        }
    }
}

/// An array of objects. JSON arrays cannot be cut without parsing them, so the file is held whole.
pub(super) struct JsonArray {
    texts: std::vec::IntoIter<String>,
    fingerprint: Option<String>,
}

impl JsonArray {
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.fingerprint.clone()
    }

    pub(super) fn next_fragment(&mut self) -> Option<Fragment> {
        self.texts.next().map(whole)
    }
}

fn read_array(
    mut reader: BufReader<Checked>,
    path: &Path,
    column: &str,
) -> Result<JsonArray, DataError> {
    let mut content = String::new();
    reader
        .read_to_string(&mut content)
        .map_err(|error| read_error(path, error))?;
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&content);
    let rows: Vec<Map<String, Value>> = serde_json::from_str(content).map_err(|error| {
        let reason = format!("not an array of JSON objects: {}", reason_of(&error));
        DataError::BadRow {
            path: path.to_path_buf(),
            line: error.line() as u64,
            reason,
        }
    })?;
    let mut texts = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        texts.push(text_of(row, path, index as u64 + 1, column)?);
    }
    texts.retain(|text| !text.is_empty());
    Ok(JsonArray {
        texts: texts.into_iter(),
        fingerprint: reader.get_ref().fingerprint(),
    })
}

fn text_of(
    mut row: Map<String, Value>,
    path: &Path,
    line: u64,
    column: &str,
) -> Result<String, DataError> {
    let kind = match row.get_mut(column).map(Value::take) {
        Some(Value::String(text)) => return Ok(text),
        None => {
            let columns = row.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(DataError::NoColumn {
                path: path.to_path_buf(),
                line,
                column: column.to_owned(),
                columns,
            });
        }
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "true or false",
        Some(Value::Number(_)) => "a number",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    };
    let reason = format!("`{column}` is {kind}, not text");
    Err(DataError::BadRow {
        path: path.to_path_buf(),
        line,
        reason,
    })
}

/// What serde_json says without the place, which is the place in the line and not in the file.
fn reason_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    format!("{} at column {}", &text[..end], error.column())
}
