//! One split of the data as tokens: mapped from a prepared directory, or given by a program.

use super::error::DataError;
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
    Mapped {
        tokens: Arc<NumberFile>,
        documents: Arc<NumberFile>,
    },
    Memory {
        tokens: Arc<[i32]>,
        documents: Arc<[u64]>,
    },
}

impl TokenStore {
    /// Maps the files of `split` in `directory`.
    pub fn open(directory: &Path, split: &SplitMeta) -> Result<Self, DataError> {
        let tokens = Arc::new(NumberFile::open(directory, &split.tokens)?);
        let documents = Arc::new(NumberFile::open(directory, &split.documents)?);
        Ok(Self {
            numbers: Numbers::Mapped { tokens, documents },
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

    /// Number of tokens, end-of-text tokens included.
    pub fn len(&self) -> u64 {
        match &self.numbers {
            Numbers::Mapped { tokens, .. } => tokens.len(),
            Numbers::Memory { tokens, .. } => tokens.len() as u64,
        }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `count` token ids from `start` on to `out`; the range must lie inside the store.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<i32>) {
        match &self.numbers {
            Numbers::Mapped { tokens, .. } => tokens.read(start, count, out),
            Numbers::Memory { tokens, .. } => {
                out.extend_from_slice(&tokens[start as usize..start as usize + count])
            }
        }
    }

    /// The token ids of `range`.
    pub fn tokens(&self, range: Range<u64>) -> Vec<i32> {
        let mut out = Vec::new();
        self.read(range.start, (range.end - range.start) as usize, &mut out);
        out
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        match &self.numbers {
            Numbers::Mapped { documents, .. } => documents.len(),
            Numbers::Memory { documents, .. } => documents.len() as u64,
        }
    }

    /// Where the tokens of document `index` lie, its end-of-text token included.
    pub fn document(&self, index: u64) -> Range<u64> {
        let start = |index: u64| match &self.numbers {
            Numbers::Mapped { documents, .. } => documents.get(index),
            Numbers::Memory { documents, .. } => documents[index as usize],
        };
        let end = if index + 1 < self.documents() {
            start(index + 1)
        } else {
            self.len()
        };
        start(index)..end
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
        let ranges: Vec<_> = (0..3).map(|i| store.document(i)).collect();
        assert_eq!(ranges, [0..3, 3..5, 5..6]);
        assert_eq!(store.tokens(2..5), [9, 3, 9]);
        assert_eq!(store.target_bytes(), 5);
        assert!(TokenStore::from_documents(&[]).is_empty());
    }
}
