//! Token files: integers written once, front to back, then read at any place, and what describes them.
//!
//! They are read by position, not mapped into memory: a mapped file that somebody cuts short ends
//! the whole program by a signal, and this way it is an error with the file's name.
//!
//! Little-endian, no header; length, width and checksum stand in the `meta.json` beside them, and
//! are compared when a file is opened. The checksum covers the whole of a file up to 16 MiB and
//! 256 evenly spaced blocks of a larger one, so that opening a large corpus stays quick.

use super::chat::SILENT;
use super::config::TokenizerKind;
use super::error::DataError;
use super::formats::SourceFile;
use super::task::TaskRows;
use infinity_files::{Fingerprint, faults};
use infinity_model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 256;
/// Bytes that one read takes at most; a multiple of every width.
const PIECE: u64 = 64 << 10;

/// How many bytes a number takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Two bytes: token ids of vocabularies up to 65,536.
    U16 = 2,
    /// Four bytes: larger vocabularies.
    U32 = 4,
    /// Eight bytes: positions of documents.
    U64 = 8,
}

impl Width {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        self as u64
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
pub(super) struct NumberWriter {
    out: BufWriter<File>,
    path: PathBuf,
    stamp: FileStamp,
}

impl NumberWriter {
    /// Creates `directory/name`; numbers must fit `width`.
    pub(super) fn create(directory: &Path, name: &str, width: Width) -> Result<Self, DataError> {
        let path = directory.join(name);
        let file = faults::point(&path)
            .and_then(|()| File::create_new(&path))
            .map_err(DataError::write(&path))?;
        let stamp = FileStamp {
            file: name.to_owned(),
            dtype: width,
            count: 0,
            checksum: String::new(),
        };
        let out = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { out, path, stamp })
    }

    pub(super) fn count(&self) -> u64 {
        self.stamp.count
    }

    pub(super) fn extend(&mut self, ids: &[u32]) -> Result<(), DataError> {
        ids.iter().try_for_each(|id| self.push(u64::from(*id)))
    }

    pub(super) fn push(&mut self, number: u64) -> Result<(), DataError> {
        let bytes = number.to_le_bytes();
        let width = self.stamp.dtype;
        let (kept, cut) = bytes.split_at(width.bytes() as usize);
        debug_assert!(cut.iter().all(|byte| *byte == 0), "{number}: {width:?}");
        self.stamp.count += 1;
        let written = self.out.write_all(kept);
        written.map_err(DataError::write(&self.path))
    }

    /// Puts everything on the disk and says what was written.
    pub(super) fn finish(mut self) -> Result<FileStamp, DataError> {
        self.stamp.checksum = faults::point(&self.path)
            .and_then(|()| self.out.flush())
            .and_then(|()| self.out.get_ref().sync_all())
            .and_then(|()| checksum(&self.path, Fingerprint::default()))
            .map_err(DataError::write(&self.path))?;
        Ok(self.stamp)
    }
}

/// A file of numbers, open for reading.
#[derive(Debug)]
pub(super) struct NumberFile {
    file: File,
    path: PathBuf,
    stamp: FileStamp,
}

impl NumberFile {
    /// Opens the file that `stamp` describes, if it is there and still the same.
    pub(super) fn open(directory: &Path, stamp: &FileStamp) -> Result<Self, DataError> {
        let path = directory.join(&stamp.file);
        let failed = DataError::lost(&path);
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let hash = Fingerprint::like(&stamp.checksum);
        let reason = match stamp.count.checked_mul(stamp.dtype.bytes()) {
            None => format!("{META_FILE} gives it {} numbers", stamp.count),
            Some(wanted) if length != wanted => {
                format!("it has {length} bytes and should have {wanted}")
            }
            Some(_) if checksum(&path, hash).map_err(failed)? != stamp.checksum => {
                format!("its checksum is not the one in {META_FILE}")
            }
            Some(_) => {
                let stamp = stamp.clone();
                return Ok(Self { file, path, stamp });
            }
        };
        Err(DataError::damaged(&path, reason))
    }

    pub(super) fn len(&self) -> u64 {
        self.stamp.count
    }

    /// Gives out `count` numbers from `start` on; the range must lie below [`NumberFile::len`].
    fn for_each(&self, start: u64, count: u64, mut take: impl FnMut(u64)) -> Result<(), DataError> {
        debug_assert!(start + count <= self.len(), "{start} + {count}");
        let width = self.stamp.dtype.bytes();
        let (mut at, end) = (start * width, (start + count) * width);
        let mut buffer = vec![0; (end - at).min(PIECE) as usize];
        while at < end {
            let piece = &mut buffer[..(end - at).min(PIECE) as usize];
            read_exact_at(&self.file, piece, at).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let length = self.file.metadata().map_or(0, |metadata| metadata.len());
                    let opened = self.len() * width;
                    let reason =
                        format!("it has {length} bytes and had {opened} when it was opened");
                    DataError::damaged(&self.path, reason)
                }
                _ => DataError::read(&self.path)(source),
            })?;
            for bytes in piece.chunks_exact(width as usize) {
                let mut number = [0; 8];
                number[..bytes.len()].copy_from_slice(bytes);
                take(u64::from_le_bytes(number));
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// Fills `buffer` from the place `at`, without a cursor that threads would share.
#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

/// Fills `buffer` from the place `at`; every read names its place, so threads may share the file.
#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Hash of the length and of the blocks that opening a file looks at.
fn checksum(path: &Path, mut hash: Fingerprint) -> io::Result<String> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    hash.field(length.to_le_bytes());
    let blocks = length.div_ceil(BLOCK);
    let sampled = blocks.min(BLOCKS);
    let mut buffer = vec![0; BLOCK as usize];
    for i in 0..sampled {
        // First and last block are always among them.
        let at = i * (blocks - 1) / (sampled - 1).max(1) * BLOCK;
        let bytes = &mut buffer[..(length - at).min(BLOCK) as usize];
        read_exact_at(&file, bytes, at)?;
        hash.update(bytes);
    }
    Ok(hash.hex())
}

/// What `meta.json` says of one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitMeta {
    /// The token file.
    pub tokens: FileStamp,
    /// The file of positions where documents start; a document reaches to the next one's start and
    /// includes the end-of-text token after it.
    pub documents: FileStamp,
    /// What they were made of.
    #[serde(flatten)]
    pub text: TextMeta,
}

/// The text of one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextMeta {
    /// UTF-8 bytes of the text, without end-of-text tokens.
    pub text_bytes: u64,
    /// Characters of the text.
    pub text_chars: u64,
    /// UTF-8 bytes of the first token, which no window predicts.
    pub first_token_bytes: u64,
    /// Whether tokens that are not predicted are marked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marked: bool,
}

/// Both splits as tokens, and the tokenizer that made them.
#[derive(Clone, Debug)]
pub struct PreparedData {
    /// What is learned from.
    pub train: TokenStore,
    /// What is held out; without tokens when neither a file nor a fraction is set aside for it.
    pub valid: TokenStore,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The directory that holds the files.
    pub directory: PathBuf,
    /// Its description.
    pub meta: PreparedMeta,
}

/// Tokens of one split. Cloning is cheap; the tokens are shared.
#[derive(Clone, Debug)]
pub struct TokenStore {
    numbers: Numbers,
    /// What they were made of, and whether [`read_marked`](Self::read_marked) gives marks.
    pub(super) text: TextMeta,
}

#[derive(Clone, Debug)]
enum Numbers {
    Files {
        tokens: Arc<NumberFile>,
        documents: Arc<NumberFile>,
    },
    Memory {
        tokens: Arc<[i32]>,
        documents: Arc<[u64]>,
    },
    /// Rows of a task, one a document.
    Rows(TaskRows),
}

impl TokenStore {
    /// Opens the files of `split` in `directory`.
    pub fn open(directory: &Path, split: &SplitMeta) -> Result<Self, DataError> {
        let tokens = Arc::new(NumberFile::open(directory, &split.tokens)?);
        let documents = Arc::new(NumberFile::open(directory, &split.documents)?);
        Ok(Self {
            numbers: Numbers::Files { tokens, documents },
            text: split.text,
        })
    }

    /// A store in memory, for synthetic tasks: `documents` concatenated, one token counted as one byte.
    pub fn from_documents(documents: &[Vec<u32>]) -> Self {
        let (mut tokens, mut starts) = (Vec::new(), Vec::new());
        for document in documents {
            starts.push(tokens.len() as u64);
            tokens.extend(document.iter().map(|id| *id as i32));
        }
        let bytes = tokens.len() as u64;
        Self {
            numbers: Numbers::Memory {
                tokens: tokens.into(),
                documents: starts.into(),
            },
            text: TextMeta {
                text_bytes: bytes,
                text_chars: bytes,
                first_token_bytes: bytes.min(1),
                marked: false,
            },
        }
    }

    /// The rows of a task, made when they are read.
    pub fn of_rows(rows: TaskRows) -> Self {
        Self {
            numbers: Numbers::Rows(rows),
            text: TextMeta::default(),
        }
    }

    /// The task, where these are its rows: its targets are not the tokens that follow.
    pub fn rows(&self) -> Option<&TaskRows> {
        match &self.numbers {
            Numbers::Rows(rows) => Some(rows),
            Numbers::Files { .. } | Numbers::Memory { .. } => None,
        }
    }

    /// Number of tokens, end-of-text tokens included.
    pub fn len(&self) -> u64 {
        match &self.numbers {
            Numbers::Files { tokens, .. } => tokens.len(),
            Numbers::Memory { tokens, .. } => tokens.len() as u64,
            Numbers::Rows(rows) => rows.rows() * rows.row_len() as u64,
        }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `count` token ids from `start` on to `out`; the range must lie inside the store.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<i32>) -> Result<(), DataError> {
        let from = out.len();
        self.read_marked(start, count, out)?;
        if self.text.marked {
            out[from..].iter_mut().for_each(|id| *id &= !SILENT as i32);
        }
        Ok(())
    }

    /// [`read`](Self::read), with their marks on tokens that are not predicted.
    pub(super) fn read_marked(
        &self,
        start: u64,
        count: usize,
        out: &mut Vec<i32>,
    ) -> Result<(), DataError> {
        match &self.numbers {
            Numbers::Files { tokens, .. } => {
                tokens.for_each(start, count as u64, |id| out.push(id as i32))
            }
            Numbers::Memory { tokens, .. } => {
                out.extend_from_slice(&tokens[start as usize..start as usize + count]);
                Ok(())
            }
            Numbers::Rows(rows) => {
                let len = rows.row_len() as u64;
                let inputs = (start / len..).flat_map(|n| rows.row(n).inputs);
                out.extend(inputs.skip((start % len) as usize).take(count));
                Ok(())
            }
        }
    }

    /// The token ids of `range`.
    ///
    /// # Errors
    /// As [`TokenStore::read`].
    pub fn tokens(&self, range: Range<u64>) -> Result<Vec<i32>, DataError> {
        let count = (range.end - range.start) as usize;
        let mut out = Vec::with_capacity(count);
        self.read(range.start, count, &mut out)?;
        Ok(out)
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        match &self.numbers {
            Numbers::Files { documents, .. } => documents.len(),
            Numbers::Memory { documents, .. } => documents.len() as u64,
            Numbers::Rows(rows) => rows.rows(),
        }
    }

    /// Where documents begin, and after them where the last one ends: document `i` lies between
    /// border `i` and border `i + 1`, with the end-of-text token after it.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn borders(&self) -> Result<Vec<u64>, DataError> {
        let mut borders = Vec::new();
        match &self.numbers {
            Numbers::Files { documents: all, .. } => {
                all.for_each(0, all.len(), |start| borders.push(start))?;
            }
            Numbers::Memory { documents, .. } => borders.extend_from_slice(documents),
            Numbers::Rows(rows) => {
                borders.extend((0..rows.rows()).map(|n| n * rows.row_len() as u64));
            }
        }
        borders.push(self.len());
        match &self.numbers {
            Numbers::Files { documents, .. } if !borders.is_sorted() => {
                let reason = "documents begin before those in front of them";
                Err(DataError::damaged(&documents.path, reason))
            }
            _ => Ok(borders),
        }
    }

    /// UTF-8 bytes of the text, without end-of-text tokens.
    pub fn text_bytes(&self) -> u64 {
        self.text.text_bytes
    }

    /// UTF-8 bytes that predicting every token but the first accounts for.
    pub fn target_bytes(&self) -> u64 {
        let text = &self.text;
        text.text_bytes.saturating_sub(text.first_token_bytes)
    }
}

/// Name of the description inside a prepared directory.
pub(super) const META_FILE: &str = "meta.json";
/// Name of the tokenizer inside a prepared directory.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Changes when the files' meaning changes; other versions are made again.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The text that a split was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceMeta {
    /// Fingerprint of the contents, in reading order.
    pub hash: String,
    /// Documents that were read.
    pub documents: u64,
    /// Files, when they were read.
    pub files: Vec<SourceFile>,
}

/// Description of a prepared directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedMeta {
    /// Version of this format.
    pub format_version: u32,
    /// Kind of the tokenizer.
    pub tokenizer_kind: TokenizerKind,
    /// Fingerprint of its `tokenizer.json`.
    pub tokenizer_hash: String,
    /// Its number of tokens.
    pub vocab_size: usize,
    /// The token between documents.
    pub eos_id: Option<u32>,
    /// What the training split was made from.
    pub source: SourceMeta,
    /// What the validation split was made from, unless it is the end of the same text.
    pub validation_source: Option<SourceMeta>,
    /// Files of the training split.
    pub train: SplitMeta,
    /// Files of the validation split.
    pub validation: SplitMeta,
}

impl PreparedMeta {
    /// Reads the description in `directory`.
    pub(super) fn read(directory: &Path) -> Result<Self, DataError> {
        let path = directory.join(META_FILE);
        let damaged = |error| DataError::damaged(&path, error);
        let text = fs::read(&path).map_err(DataError::lost(&path))?;
        let value: Value = serde_json::from_slice(&text).map_err(damaged)?;
        let version = &value["format_version"];
        if *version != FORMAT_VERSION {
            let reason = format!("format version {version}, this program reads {FORMAT_VERSION}");
            return Err(DataError::damaged(&path, reason));
        }
        serde_json::from_value(value).map_err(damaged)
    }

    /// Writes the description into `directory`; last of all files, because it vouches for them.
    pub(super) fn write(&self, directory: &Path) -> Result<(), DataError> {
        let path = directory.join(META_FILE);
        let text =
            serde_json::to_string_pretty(self).expect("numbers and strings can be written as JSON");
        infinity_files::write(&path, text.as_bytes()).map_err(DataError::write(&path))
    }
}

#[cfg(test)]
mod tests {
    mod token_file {
        use super::super::*;
        use std::fs;

        fn written(directory: &Path, width: Width, numbers: &[u64]) -> FileStamp {
            let mut writer = NumberWriter::create(directory, "numbers.bin", width).unwrap();
            numbers
                .iter()
                .for_each(|number| writer.push(*number).unwrap());
            writer.finish().unwrap()
        }

        fn read(
            file: &NumberFile,
            start: u64,
            count: usize,
            ids: &mut Vec<i32>,
        ) -> Result<(), DataError> {
            file.for_each(start, count as u64, |number| ids.push(number as i32))
        }

        fn all(file: &NumberFile) -> Result<Vec<u64>, DataError> {
            let mut numbers = Vec::new();
            file.for_each(0, file.len(), |number| numbers.push(number))?;
            Ok(numbers)
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
                assert_eq!(all(&file).unwrap(), numbers);
                let mut ids = vec![7];
                read(&file, 1, 3, &mut ids).unwrap();
                assert_eq!(ids, [7, 1, 258, 30_000]);
            }
        }

        #[test]
        fn a_read_of_many_pieces_is_one_row() {
            let dir = tempfile::tempdir().unwrap();
            let numbers: Vec<u64> = (0..3 * PIECE / 2 + 5).map(|n| n % 60_000).collect();
            let stamp = written(dir.path(), Width::U16, &numbers);
            let file = NumberFile::open(dir.path(), &stamp).unwrap();
            assert_eq!(all(&file).unwrap(), numbers);
            let mut ids = Vec::new();
            read(&file, 7, numbers.len() - 8, &mut ids).unwrap();
            let inner = &numbers[7..numbers.len() - 1];
            assert!(ids.iter().zip(inner).all(|(id, n)| *id as u64 == *n));
            assert_eq!(ids.len(), inner.len());
        }

        #[test]
        fn a_file_without_numbers_opens() {
            let dir = tempfile::tempdir().unwrap();
            let stamp = written(dir.path(), Width::U16, &[]);
            let file = NumberFile::open(dir.path(), &stamp).unwrap();
            assert!(file.len() == 0 && all(&file).unwrap().is_empty());
        }

        #[test]
        fn a_file_that_is_cut_while_it_is_open_is_an_error() {
            let dir = tempfile::tempdir().unwrap();
            let stamp = written(dir.path(), Width::U16, &[1; 1000]);
            let file = NumberFile::open(dir.path(), &stamp).unwrap();
            let path = dir.path().join("numbers.bin");
            let cut = File::options().write(true).open(&path).unwrap();
            cut.set_len(1000).unwrap();
            let mut ids = Vec::new();
            read(&file, 0, 500, &mut ids).unwrap();
            let message = read(&file, 400, 200, &mut ids).unwrap_err().to_string();
            for word in ["numbers.bin", "damaged", "1000 bytes", "2000"] {
                assert!(message.contains(word), "{message}");
            }
            assert!(all(&file).is_err());
        }

        #[test]
        fn a_count_that_no_file_has_is_an_error() {
            let dir = tempfile::tempdir().unwrap();
            let mut stamp = written(dir.path(), Width::U64, &[1, 2]);
            stamp.count = u64::MAX / 2;
            let message = NumberFile::open(dir.path(), &stamp)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("damaged") && message.contains("9223372036854775807"),
                "{message}"
            );
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
                checksum(&path, Fingerprint::default()).unwrap()
            };
            let good = sum(None);
            assert_ne!(good, sum(Some(0)));
            assert_ne!(good, sum(Some(length - 1)));
            assert_eq!(good, sum(None));
        }
    }

    mod store {
        use super::super::*;

        #[test]
        fn documents_partition_the_tokens() {
            let store = TokenStore::from_documents(&[vec![1, 2, 9], vec![3, 9], vec![4]]);
            assert_eq!((store.len(), store.documents()), (6, 3));
            assert_eq!(store.borders().unwrap(), [0, 3, 5, 6]);
            assert_eq!(store.tokens(2..5).unwrap(), [9, 3, 9]);
            assert_eq!(store.target_bytes(), 5);
            assert!(TokenStore::from_documents(&[]).is_empty());
        }
    }
}
