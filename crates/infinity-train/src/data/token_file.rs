//! Files of integers: written once, front to back, then mapped into memory.
//!
//! Little-endian, no header; length, width and checksum stand in the `meta.json` beside them, and
//! are compared when a file is opened. The checksum covers the whole of a file up to 16 MiB and
//! 256 evenly spaced blocks of a larger one, so that opening a large corpus stays quick.

use super::error::DataError;
use super::fingerprint::Fingerprint;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 256;

/// How many bytes a number takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Two bytes: token ids of vocabularies up to 65,536.
    U16,
    /// Four bytes: larger vocabularies.
    U32,
    /// Eight bytes: positions of documents.
    U64,
}

impl Width {
    /// The narrowest width for token ids below `vocab_size`.
    pub fn for_vocabulary(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

/// What must hold of a file for it to be the one that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Name inside the prepared directory.
    pub file: String,
    /// Width of its numbers.
    pub dtype: Width,
    /// How many numbers it holds.
    pub count: u64,
    /// Checksum of its length and sampled blocks.
    pub checksum: String,
}

/// Writes numbers to a new file.
pub struct NumberWriter {
    out: BufWriter<File>,
    path: PathBuf,
    width: Width,
    count: u64,
}

impl NumberWriter {
    /// Creates `directory/name`; numbers must fit `width`.
    pub fn create(directory: &Path, name: &str, width: Width) -> Result<Self, DataError> {
        let path = directory.join(name);
        let file = File::create_new(&path).map_err(|source| DataError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 18, file),
            path,
            width,
            count: 0,
        })
    }

    /// Numbers written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Appends token ids.
    pub fn extend(&mut self, ids: &[u32]) -> Result<(), DataError> {
        ids.iter().try_for_each(|id| self.push(u64::from(*id)))
    }

    /// Appends one number.
    pub fn push(&mut self, number: u64) -> Result<(), DataError> {
        let bytes = number.to_le_bytes();
        let (kept, cut) = bytes.split_at(self.width.bytes() as usize);
        debug_assert!(
            cut.iter().all(|byte| *byte == 0),
            "{number} does not fit {:?}",
            self.width
        );
        self.count += 1;
        self.out
            .write_all(kept)
            .map_err(|source| self.error(source))
    }

    /// Puts everything on the disk and says what was written.
    pub fn finish(mut self) -> Result<FileStamp, DataError> {
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(|source| self.error(source))?;
        let checksum = checksum(&self.path).map_err(|source| self.error(source))?;
        let file = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(FileStamp {
            file,
            dtype: self.width,
            count: self.count,
            checksum,
        })
    }

    fn error(&self, source: io::Error) -> DataError {
        DataError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// A file of numbers, mapped into memory.
#[derive(Debug)]
pub struct NumberFile {
    /// Absent for a file without numbers: an empty range cannot be mapped everywhere.
    map: Option<Mmap>,
    width: Width,
}

impl NumberFile {
    /// Maps the file that `stamp` describes.
    ///
    /// # Errors
    /// The file is missing, or is not as long as the stamp says, or its checksum differs.
    pub fn open(directory: &Path, stamp: &FileStamp) -> Result<Self, DataError> {
        let path = directory.join(&stamp.file);
        let damaged = |reason| DataError::Damaged {
            path: path.clone(),
            reason,
            directory: directory.to_path_buf(),
        };
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => damaged("it is missing".to_owned()),
            _ => DataError::Read {
                path: path.clone(),
                source,
            },
        };
        let file = File::open(&path).map_err(read)?;
        let (length, wanted) = (
            file.metadata().map_err(read)?.len(),
            stamp.count * stamp.dtype.bytes(),
        );
        if length != wanted {
            return Err(damaged(format!(
                "it has {length} bytes and should have {wanted}"
            )));
        }
        if checksum(&path).map_err(read)? != stamp.checksum {
            return Err(damaged(
                "its checksum is not the one in meta.json".to_owned(),
            ));
        }
        let map = if length == 0 {
            None
        } else {
            Some(map(&file).map_err(read)?)
        };
        Ok(Self {
            map,
            width: stamp.dtype,
        })
    }

    /// How many numbers there are.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64 / self.width.bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The number at `index`, which must be below [`NumberFile::len`].
    pub fn get(&self, index: u64) -> u64 {
        let width = self.width.bytes() as usize;
        let start = index as usize * width;
        let mut number = [0; 8];
        number[..width].copy_from_slice(&self.bytes()[start..start + width]);
        u64::from_le_bytes(number)
    }

    /// Appends `count` token ids from `start` on to `out`; the range must lie inside the file.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<i32>) {
        let width = self.width.bytes() as usize;
        let bytes = &self.bytes()[start as usize * width..(start as usize + count) * width];
        match self.width {
            Width::U16 => out.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|pair| i32::from(u16::from_le_bytes(*pair))),
            ),
            Width::U32 => out.extend(
                bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|four| u32::from_le_bytes(*four) as i32),
            ),
            Width::U64 => out.extend(
                bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|eight| u64::from_le_bytes(*eight) as i32),
            ),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only. Token files are written under another name and renamed when
    // complete, and replaced by renaming too, so this program never changes a mapped file. Another
    // program that truncates one could make reads fail; the same holds for every mapped file.
    unsafe { Mmap::map(file) }
}

/// Hash of the length and of the blocks that opening a file looks at.
fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hash = Fingerprint::default();
    hash.field(length.to_le_bytes());
    let blocks = length.div_ceil(BLOCK);
    let sampled = blocks.min(BLOCKS);
    let mut buffer = vec![0; BLOCK as usize];
    for i in 0..sampled {
        // First and last block are always among them.
        let block = if sampled < 2 {
            0
        } else {
            i * (blocks - 1) / (sampled - 1)
        };
        file.seek(SeekFrom::Start(block * BLOCK))?;
        let bytes = (length - block * BLOCK).min(BLOCK) as usize;
        file.read_exact(&mut buffer[..bytes])?;
        hash.update(&buffer[..bytes]);
    }
    Ok(hash.hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn written(directory: &Path, width: Width, numbers: &[u64]) -> FileStamp {
        let mut writer = NumberWriter::create(directory, "numbers.bin", width).unwrap();
        numbers
            .iter()
            .for_each(|number| writer.push(*number).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn every_width_gives_its_numbers_back() {
        for (width, largest) in [
            (Width::U16, u64::from(u16::MAX)),
            (Width::U32, u64::from(u32::MAX)),
            (Width::U64, u64::MAX),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let numbers = [0, 1, 258, 30_000, largest];
            let stamp = written(dir.path(), width, &numbers);
            let file = NumberFile::open(dir.path(), &stamp).unwrap();
            assert_eq!(file.len(), 5);
            assert_eq!((0..5).map(|i| file.get(i)).collect::<Vec<_>>(), numbers);
            let mut ids = vec![7];
            file.read(1, 3, &mut ids);
            assert_eq!(ids, [7, 1, 258, 30_000]);
        }
    }

    #[test]
    fn a_file_without_numbers_opens() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = written(dir.path(), Width::U16, &[]);
        assert!(NumberFile::open(dir.path(), &stamp).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_changed_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let numbers: Vec<u64> = (0..50_000).collect();
        let stamp = written(dir.path(), Width::U16, &numbers);
        let path = dir.path().join("numbers.bin");
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            NumberFile::open(dir.path(), &stamp)
                .unwrap_err()
                .to_string()
        };
        let short = refused(&good[..good.len() - 2]);
        assert!(
            short.contains("99998 bytes") && short.contains("numbers.bin"),
            "{short}"
        );
        for place in [0, good.len() / 2, good.len() - 1] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            assert!(refused(&bytes).contains("checksum"), "byte {place}");
        }
        fs::remove_file(&path).unwrap();
        let message = NumberFile::open(dir.path(), &stamp)
            .unwrap_err()
            .to_string();
        assert!(message.contains("missing"), "{message}");
        fs::write(&path, &good).unwrap();
        assert!(NumberFile::open(dir.path(), &stamp).is_ok());
    }

    #[test]
    fn a_large_file_is_sampled_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let length = (BLOCK * BLOCKS * 2 + 5) as usize;
        let mut bytes = vec![1u8; length];
        let mut sum = |place: Option<usize>| {
            if let Some(place) = place {
                bytes[place] ^= 1;
            }
            fs::write(&path, &bytes).unwrap();
            if let Some(place) = place {
                bytes[place] ^= 1;
            }
            checksum(&path).unwrap()
        };
        let good = sum(None);
        assert_ne!(good, sum(Some(0)));
        assert_ne!(good, sum(Some(length - 1)));
        assert_eq!(good, sum(None));
    }
}
