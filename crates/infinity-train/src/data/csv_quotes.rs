//! A reader that notices a CSV file which ends inside a quoted field.
//!
//! The parser takes the end of the file for the end of such a field: one quote too many makes the
//! rest of a file one row, and a file that was cut looks whole.

use std::io::{self, Read};

/// A quoted field that never ends. Travels through `io::Error`, because the parser only passes that.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a quoted field begins in line {line} and never ends")]
pub(super) struct OpenQuote {
    /// Line of the quote, counted from 1.
    pub(super) line: u64,
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

/// Passes bytes on unchanged, and fails at the end of a file that is inside a quoted field.
pub(super) struct Quotes<R> {
    inner: R,
    place: Place,
    offset: u64,
    line: u64,
    opened: u64,
}

impl<R> Quotes<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            place: Place::FieldStart,
            offset: 0,
            line: 1,
            opened: 0,
        }
    }

    pub(super) fn inner(&self) -> &R {
        &self.inner
    }

    fn follow(&mut self, byte: u8) {
        const MARK: &[u8; 3] = b"\xef\xbb\xbf";
        let mark = MARK.get(self.offset as usize) == Some(&byte);
        self.offset += 1;
        self.line += u64::from(byte == b'\n');
        self.place = match (self.place, byte) {
            (Place::Quoted, b'"') => Place::AfterQuote,
            (Place::Quoted, _) => Place::Quoted,
            (Place::AfterQuote, b'"') => Place::Quoted,
            (_, b',' | b'\n' | b'\r') => Place::FieldStart,
            (Place::FieldStart, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            // The mark that some programs put at the start of a file is no part of its first field.
            (Place::FieldStart, _) if mark => Place::FieldStart,
            _ => Place::Plain,
        };
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.place == Place::Quoted {
            return Err(io::Error::other(OpenQuote { line: self.opened }));
        }
        buffer[..count].iter().for_each(|byte| self.follow(*byte));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Result<String, String> {
        let mut read = String::new();
        let ended = Quotes::new(text.as_bytes()).read_to_string(&mut read);
        ended.map(|_| read).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_field_that_never_ends_is_refused() {
        for text in [
            "",
            "a,b\n1,2",
            "a,b\n\"1\",\"x \"\"y\"\", z\n2\"\r\n",
            "\u{feff}\"a,\",b\n1,2\n",
            "inch,12\"\n5\" and 6\",\"\"",
        ] {
            assert_eq!(end(text).as_deref(), Ok(text));
        }
        for (text, line) in [
            ("a,b\n1,\"2\n3,4\n", 2),
            ("\"a", 1),
            ("\u{feff}\"a", 1),
            ("a\n\"b\"\n\"\"\"\n", 3),
        ] {
            assert!(
                end(text).unwrap_err().contains(&format!("line {line} ")),
                "{text}"
            );
        }
    }
}
