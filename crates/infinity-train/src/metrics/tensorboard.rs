//! TensorBoard's event files: what a run logs, for its dashboards.
//!
//! A file is a sequence of records, each an `Event` in protobuf's encoding between checksums:
//!
//! ```text
//! length u64 | masked crc32c of the length u32 | event | masked crc32c of the event u32
//! ```
//!
//! Every session writes a file of its own. One that goes on after a checkpoint opens with a
//! session mark, at which TensorBoard forgets the steps of earlier files that ran again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What every event file says first.
const VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;

#[derive(Debug)]
pub(crate) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new event file in `directory`; `resume_at` is the last step that is kept of earlier files.
    pub(crate) fn create(directory: &Path, resume_at: Option<u64>) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (seconds, after) = (now() as u64, resume_at.unwrap_or(0));
        // Sessions that begin within one second must not share a file.
        let mut n = 0;
        let mut events = loop {
            let name = format!("events.out.tfevents.{seconds:010}.infinity.{after}.{n}");
            let path = directory.join(name);
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => n += 1,
                file => break EventFile { file: file?, path },
            }
        };
        events.write(&event(0, |event| event.bytes(3, VERSION.as_bytes())))?;
        if let Some(step) = resume_at {
            let mut session = Message::default();
            session.varint(1, START);
            events.write(&event(step + 1, |event| event.bytes(7, &session.0)))?;
        }
        Ok(events)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut one = Message::default();
            one.bytes(1, tag.as_bytes());
            one.float(2, *value as f32);
            summary.bytes(1, &one.0);
        }
        self.write(&event(step, |event| event.bytes(5, &summary.0)))
    }

    /// One write a record: a run that is killed leaves at most one torn one, at the end.
    fn write(&mut self, event: &[u8]) -> io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let sums = [&length[..], event].map(|bytes| masked(bytes).to_le_bytes());
        self.file
            .write_all(&[&length[..], &sums[0], event, &sums[1]].concat())
    }
}

/// An event of `step`, with what `fill` puts into it.
fn event(step: u64, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, now());
    event.varint(2, step);
    fill(&mut event);
    event.0
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The checksum of the format: CRC-32C, turned and shifted, so that checksums of data that hold
/// checksums stay good.
fn masked(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.raw(field << 3);
        self.raw(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.raw(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw(field << 3 | 2);
        self.raw(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of a message: its number and its bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(from: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = from[0];
                *from = &from[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let length = match key & 7 {
                0 => {
                    let value = varint(&mut message);
                    found.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => varint(&mut message) as usize,
            };
            found.push((key >> 3, message[..length].to_vec()));
            message = &message[length..];
        }
        found
    }

    /// Every event of a file whose checksums are right; an error where one is not.
    fn events(mut file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            if crc(8) != masked(&file[..8]) {
                return Err(format!("length of event {}", found.len()));
            }
            let event = &file[12..12 + length];
            if crc(12 + length) != masked(event) {
                return Err(format!("event {}", found.len()));
            }
            found.push(event.to_vec());
            file = &file[16 + length..];
        }
        Ok(found)
    }

    fn bytes_of(directory: &Path) -> Vec<Vec<u8>> {
        let mut paths: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn the_checksum_is_the_formats() {
        // "123456789" is the check value of CRC-32C; the mask is that of the record format.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let crc = 0xe306_9283u32;
        let expected = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked(b"123456789"), expected);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(directory.path(), None).unwrap();
        file.scalars(300, &[("train/loss", 1.5), ("train/lr", 1e-3)])
            .unwrap();
        drop(file);
        let mut bytes = bytes_of(directory.path()).remove(0);
        let all = events(&bytes).unwrap();
        assert_eq!(all.len(), 2);
        assert!(fields(&all[0]).contains(&(3, VERSION.as_bytes().to_vec())));
        let event = fields(&all[1]);
        assert_eq!(event[1], (2, 300u64.to_le_bytes().to_vec()));
        let wall = f64::from_le_bytes(event[0].1.clone().try_into().unwrap());
        assert!((now() - wall).abs() < 60.0);
        let values: Vec<_> = fields(&event[2].1).iter().map(|v| fields(&v.1)).collect();
        assert_eq!(values[0][0].1, b"train/loss");
        assert_eq!(values[0][1].1, 1.5f32.to_le_bytes());
        assert_eq!(values[1][0].1, b"train/lr");
        // One flipped bit is seen.
        let middle = bytes.len() - 20;
        bytes[middle] ^= 4;
        assert_eq!(events(&bytes), Err("event 1".to_owned()));
    }

    #[test]
    fn a_session_that_goes_on_has_a_file_of_its_own_and_says_from_where() {
        let directory = tempfile::tempdir().unwrap();
        for resume_at in [None, Some(40), Some(40)] {
            EventFile::create(directory.path(), resume_at).unwrap();
        }
        let files = bytes_of(directory.path());
        assert_eq!(files.len(), 3);
        let second = fields(&events(&files[1]).unwrap()[1]);
        assert_eq!(second[1], (2, 41u64.to_le_bytes().to_vec()));
        assert_eq!(second[2], (7, vec![8, 1]));
        assert_eq!(events(&files[0]).unwrap().len(), 1);
    }
}
