//! A reader that lets only UTF-8 text through, and says at which byte a file stops being that.
//!
//! All formats read through it, so a picture named `.csv` fails with the same message as one named
//! `.txt`, and the fingerprint of what was read costs no second reading.

use super::{error::DataError, fingerprint::Fingerprint};
use std::io::{self, Read};
use std::path::Path;

/// Why a file is not text. Travels through `io::Error`, because the formats' parsers only pass that.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum NotText {
    #[error("byte {offset} is zero")]
    Zero { offset: u64 },
    #[error("byte {offset} ({byte:#04x}) is not UTF-8")]
    NotUtf8 { offset: u64, byte: u8 },
}

/// Passes text on unchanged and fails at the first byte that is not text.
pub(super) struct CheckedReader<R> {
    inner: R,
    offset: u64,
    /// Bytes of a character whose end has not been read yet; at most three.
    open: Vec<u8>,
    hash: Option<Fingerprint>,
}

impl<R: Read> CheckedReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            offset: 0,
            open: Vec::with_capacity(4),
            hash: None,
        }
    }

    /// Also takes the fingerprint of every byte read.
    pub(super) fn hashing(inner: R) -> Self {
        Self {
            hash: Some(Fingerprint::default()),
            ..Self::new(inner)
        }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fingerprint of the bytes read so far, when it is being taken.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.hash.as_ref().map(Fingerprint::hex)
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), NotText> {
        if let Some(place) = bytes.iter().position(|byte| *byte == 0) {
            return Err(NotText::Zero {
                offset: self.offset + place as u64,
            });
        }
        let mut rest = bytes;
        while !self.open.is_empty() && !rest.is_empty() {
            self.open.push(rest[0]);
            rest = &rest[1..];
            match std::str::from_utf8(&self.open) {
                Ok(_) => self.open.clear(),
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    let end = self.offset + (bytes.len() - rest.len()) as u64;
                    let (offset, byte) = (end - self.open.len() as u64, self.open[0]);
                    return Err(NotText::NotUtf8 { offset, byte });
                }
            }
        }
        let Err(error) = std::str::from_utf8(rest) else {
            return Ok(());
        };
        let valid = error.valid_up_to();
        if error.error_len().is_none() {
            self.open.extend_from_slice(&rest[valid..]);
            return Ok(());
        }
        let offset = self.offset + (bytes.len() - rest.len() + valid) as u64;
        Err(NotText::NotUtf8 {
            offset,
            byte: rest[valid],
        })
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !self.open.is_empty() && !buffer.is_empty() {
            let (offset, byte) = (self.offset - self.open.len() as u64, self.open[0]);
            return Err(io::Error::other(NotText::NotUtf8 { offset, byte }));
        }
        let bytes = &buffer[..count];
        self.check(bytes).map_err(io::Error::other)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.offset += count as u64;
        Ok(count)
    }
}

/// Turns what a read of `path` failed with into the error a user sees.
pub(super) fn read_error(path: &Path, source: io::Error) -> DataError {
    let path = path.to_path_buf();
    match source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NotText>())
    {
        Some(NotText::Zero { offset }) => DataError::Binary {
            path,
            offset: *offset,
        },
        Some(NotText::NotUtf8 { offset, byte }) => DataError::NotUtf8 {
            path,
            offset: *offset,
            byte: *byte,
        },
        None => DataError::Read { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        match CheckedReader::new(Portions(bytes, step)).read_to_end(&mut text) {
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
            let latin1 = [b'a', 0xc3, 0x9f, b'b', 0xe9, b' ', b'c'];
            assert!(
                matches!(
                    read(&latin1, step),
                    Err(DataError::NotUtf8 {
                        offset: 4,
                        byte: 0xe9,
                        ..
                    })
                ),
                "portions of {step}: {:?}",
                read(&latin1, step)
            );
            let cut_off = [b'a', 0xf0, 0x9f];
            assert!(matches!(
                read(&cut_off, step),
                Err(DataError::NotUtf8 { offset: 1, .. })
            ));
            let zero = [b'a', 0xc3, 0x9f, 0, 0xff];
            assert!(matches!(
                read(&zero, step),
                Err(DataError::Binary { offset: 3, .. })
            ));
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_the_whole_file() {
        let text = "some text ß".as_bytes();
        let mut reader = CheckedReader::hashing(Portions(text, 3));
        reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(
            reader.fingerprint(),
            Some(crate::data::fingerprint::fingerprint(text))
        );
        assert_eq!(reader.offset(), text.len() as u64);
    }
}
