//! One split of the data as tokens: in the files of a prepared directory, or given by a program.

use super::error::DataError;
use super::task::TaskRows;
use super::token_file::{FileStamp, NumberFile};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What `meta.json` says of one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitMeta {
    /// The token file.
    pub tokens: FileStamp,
    /// The file of positions where documents start; a document reaches to the next one's start and
    /// includes the end-of-text token after it.
    pub documents: FileStamp,
    /// UTF-8 bytes of the text, without end-of-text tokens.
    pub text_bytes: u64,
    /// Characters of the text.
    pub text_chars: u64,
    /// UTF-8 bytes of the first token, which no window predicts.
    pub first_token_bytes: u64,
}

/// Tokens of one split. Cloning is cheap; the tokens are shared.
#[derive(Clone, Debug)]
pub struct TokenStore {
    numbers: Numbers,
    text_bytes: u64,
    text_chars: u64,
    first_token_bytes: u64,
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
    Rows(Arc<TaskRows>),
}

impl TokenStore {
    /// Opens the files of `split` in `directory`.
    pub fn open(directory: &Path, split: &SplitMeta) -> Result<Self, DataError> {
        let tokens = Arc::new(NumberFile::open(directory, &split.tokens)?);
        let documents = Arc::new(NumberFile::open(directory, &split.documents)?);
        Ok(Self {
            numbers: Numbers::Files { tokens, documents },
            text_bytes: split.text_bytes,
            text_chars: split.text_chars,
            first_token_bytes: split.first_token_bytes,
        })
    }

    /// A store in memory, for synthetic tasks: `documents` concatenated, one token counted as one byte.
    pub fn from_documents(documents: &[Vec<u32>]) -> Self {
        let starts = documents.iter().scan(0, |end, document| {
            let start = *end;
            *end += document.len() as u64;
            Some(start)
        });
        let starts: Vec<u64> = starts.collect();
        let tokens: Vec<i32> = documents.iter().flatten().map(|id| *id as i32).collect();
        let bytes = tokens.len() as u64;
        let numbers = Numbers::Memory {
            tokens: tokens.into(),
            documents: starts.into(),
        };
        Self {
            numbers,
            text_bytes: bytes,
            text_chars: bytes,
            first_token_bytes: bytes.min(1),
        }
    }

    /// The rows of a task, made when they are read.
    pub fn of_rows(rows: TaskRows) -> Self {
        Self {
            numbers: Numbers::Rows(Arc::new(rows)),
            text_bytes: 0,
            text_chars: 0,
            first_token_bytes: 0,
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
        match &self.numbers {
            Numbers::Files { tokens, .. } => tokens.read(start, count, out),
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
        let mut borders = match &self.numbers {
            Numbers::Files { documents, .. } => documents.all()?,
            Numbers::Memory { documents, .. } => documents.to_vec(),
            Numbers::Rows(rows) => (0..rows.rows())
                .map(|n| n * rows.row_len() as u64)
                .collect(),
        };
        borders.push(self.len());
        match &self.numbers {
            Numbers::Files { documents, .. } if !borders.is_sorted() => {
                Err(documents.damaged("documents begin before those in front of them".to_owned()))
            }
            _ => Ok(borders),
        }
    }

    /// UTF-8 bytes of the text, without end-of-text tokens.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Characters of the text.
    pub fn text_chars(&self) -> u64 {
        self.text_chars
    }

    /// UTF-8 bytes that predicting every token but the first accounts for.
    pub fn target_bytes(&self) -> u64 {
        self.text_bytes - self.first_token_bytes.min(self.text_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
