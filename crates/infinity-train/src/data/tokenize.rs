//! Text in, token files out, in bounded memory and on all cores.
//!
//! Long documents are encoded in pieces. For bytes and characters any cut is harmless. For other
//! tokenizers a cut is made only where encoding the two sides of it separately gives the same ids
//! as encoding them together; a tokenizer for which no such place is found (one that adds a space
//! in front of every text, say) gets its documents whole.

use super::error::DataError;
use super::source::Fragment;
use super::store::SplitMeta;
use super::token_file::{NumberWriter, Width};
use infinity_model::TokenizerError;
use infinity_model::tokenizer::{Tokenizer, TokenizerKind};
use rayon::prelude::*;
use std::path::Path;

/// Documents are encoded in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Text on each side of a cut that must not notice the cut.
const CONTEXT_BYTES: usize = 2 << 10;
/// Places that are tried before a piece is left to grow.
const CANDIDATES: usize = 32;
/// Pieces are encoded in parallel when this much text has gathered.
const BATCH_BYTES: usize = 8 << 20;

/// Writes one split: tokens, where documents start, and how much text it was.
pub(super) struct SplitWriter<'a> {
    tokenizer: &'a Tokenizer,
    tokens: NumberWriter,
    documents: NumberWriter,
    /// Text of the open document that is not in `batch` yet.
    open: String,
    in_document: bool,
    /// Length of `open` at which the next cut is looked for.
    cut_at: usize,
    batch: Vec<Piece>,
    batch_bytes: usize,
    /// Characters of the open document that are in `batch` or written.
    chars_before: u64,
    text_bytes: u64,
    text_chars: u64,
    first_token_bytes: u64,
}

/// A part of one document.
struct Piece {
    text: String,
    begins_document: bool,
    /// Characters of the document before it, so that messages can say where in the document.
    chars_before: u64,
}

impl<'a> SplitWriter<'a> {
    /// Creates `name.bin` and `name.documents.bin` in `directory`.
    pub(super) fn create(
        directory: &Path,
        name: &str,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, DataError> {
        let width = Width::for_vocabulary(tokenizer.vocab_size());
        Ok(Self {
            tokenizer,
            tokens: NumberWriter::create(directory, &format!("{name}.bin"), width)?,
            documents: NumberWriter::create(
                directory,
                &format!("{name}.documents.bin"),
                Width::U64,
            )?,
            open: String::new(),
            in_document: false,
            cut_at: PIECE_BYTES + CONTEXT_BYTES,
            batch: Vec::new(),
            batch_bytes: 0,
            chars_before: 0,
            text_bytes: 0,
            text_chars: 0,
            first_token_bytes: 0,
        })
    }

    /// Adds a part of the open document, or the beginning of the next.
    pub(super) fn push(&mut self, fragment: Fragment) -> Result<(), DataError> {
        if self.open.is_empty() {
            self.open = fragment.text;
        } else {
            self.open.push_str(&fragment.text);
        }
        while self.open.len() >= self.cut_at {
            match safe_cut(self.tokenizer, &self.open)? {
                Some(cut) => {
                    let rest = self.open.split_off(cut);
                    let piece = std::mem::replace(&mut self.open, rest);
                    self.cut_at = PIECE_BYTES + CONTEXT_BYTES;
                    self.enqueue(piece)?;
                }
                None => self.cut_at = self.open.len() * 2,
            }
        }
        if fragment.ends_document {
            self.end_document()?;
        }
        Ok(())
    }

    fn end_document(&mut self) -> Result<(), DataError> {
        if !self.open.is_empty() {
            let last = std::mem::take(&mut self.open);
            self.enqueue(last)?;
        }
        self.cut_at = PIECE_BYTES + CONTEXT_BYTES;
        self.in_document = false;
        self.chars_before = 0;
        Ok(())
    }

    fn enqueue(&mut self, text: String) -> Result<(), DataError> {
        let chars = text.chars().count() as u64;
        self.batch_bytes += text.len();
        self.text_bytes += text.len() as u64;
        self.text_chars += chars;
        let begins_document = !std::mem::replace(&mut self.in_document, true);
        self.batch.push(Piece {
            text,
            begins_document,
            chars_before: self.chars_before,
        });
        self.chars_before += chars;
        if self.batch_bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let pieces = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let encode = |piece: &Piece| {
            self.tokenizer
                .encode(&piece.text)
                .map_err(|error| placed(error, piece))
        };
        let encoded: Vec<Vec<u32>> = pieces.par_iter().map(encode).collect::<Result<_, _>>()?;
        for (piece, ids) in pieces.iter().zip(&encoded) {
            if piece.begins_document {
                if self.documents.count() > 0 {
                    self.separate()?;
                }
                self.documents.push(self.tokens.count())?;
            }
            if self.tokens.count() == 0 && !ids.is_empty() {
                self.first_token_bytes = bytes_of(self.tokenizer, ids[0])?;
            }
            self.tokens.extend(ids)?;
        }
        Ok(())
    }

    fn separate(&mut self) -> Result<(), DataError> {
        let documents = self.documents.count() + 1;
        let eos = self
            .tokenizer
            .eos_id()
            .ok_or(DataError::NoSeparator { documents })?;
        self.tokens.push(u64::from(eos))
    }

    /// Encodes what is left and closes the files; `append_eos` ends the last document too, unless
    /// the split was cut inside it.
    pub(super) fn finish(mut self, append_eos: bool) -> Result<SplitMeta, DataError> {
        let cut_inside = self.in_document || !self.open.is_empty();
        self.end_document()?;
        self.flush()?;
        if append_eos && !cut_inside && self.documents.count() > 0 {
            self.separate()?;
        }
        Ok(SplitMeta {
            tokens: self.tokens.finish()?,
            documents: self.documents.finish()?,
            text_bytes: self.text_bytes,
            text_chars: self.text_chars,
            first_token_bytes: self.first_token_bytes,
        })
    }
}

/// Makes the place an error names the place in the document, not in the piece.
fn placed(error: TokenizerError, piece: &Piece) -> TokenizerError {
    match error {
        TokenizerError::UnknownChar {
            character,
            position,
            vocab_size,
        } => TokenizerError::UnknownChar {
            character,
            position: position + piece.chars_before as usize,
            vocab_size,
        },
        other => other,
    }
}

/// UTF-8 bytes of one token. A token that is only part of a character counts as what it decodes to,
/// which is off by at most two bytes, once a split.
fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Result<u64, DataError> {
    match tokenizer.kind() {
        TokenizerKind::Byte => Ok(1),
        TokenizerKind::Char | TokenizerKind::File => Ok(tokenizer.decode(&[id])?.len() as u64),
    }
}

/// A place near `PIECE_BYTES` where cutting `text` leaves its ids as they are.
fn safe_cut(tokenizer: &Tokenizer, text: &str) -> Result<Option<usize>, DataError> {
    let end = text.floor_char_boundary(PIECE_BYTES);
    if tokenizer.kind() != TokenizerKind::File {
        return Ok(Some(end));
    }
    // Words end there in every language that has words; what the tokenizer thinks is asked next.
    let mut after = text[end..].chars().next();
    let mut tried = 0;
    for (start, character) in text[..end].char_indices().rev() {
        let cut = start + character.len_utf8();
        if character.is_alphanumeric() && after.is_some_and(|after| !after.is_alphanumeric()) {
            if leaves_ids(tokenizer, text, cut)? {
                return Ok(Some(cut));
            }
            tried += 1;
            if tried == CANDIDATES {
                break;
            }
        }
        after = Some(character);
    }
    Ok(None)
}

fn leaves_ids(tokenizer: &Tokenizer, text: &str, cut: usize) -> Result<bool, DataError> {
    let start = text.floor_char_boundary(cut.saturating_sub(CONTEXT_BYTES));
    let end = text.ceil_char_boundary((cut + CONTEXT_BYTES).min(text.len()));
    let mut apart = tokenizer.encode(&text[start..cut])?;
    apart.extend(tokenizer.encode(&text[cut..end])?);
    Ok(apart == tokenizer.encode(&text[start..end])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::store::TokenStore;
    use crate::data::vocabulary::train_bpe;

    fn split(
        tokenizer: &Tokenizer,
        fragments: &[(&str, bool)],
        append_eos: bool,
    ) -> (TokenStore, SplitMeta) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SplitWriter::create(dir.path(), "train", tokenizer).unwrap();
        for (text, ends_document) in fragments {
            writer
                .push(Fragment {
                    text: (*text).to_owned(),
                    ends_document: *ends_document,
                })
                .unwrap();
        }
        let meta = writer.finish(append_eos).unwrap();
        (TokenStore::open(dir.path(), &meta).unwrap(), meta)
    }

    fn ids(store: &TokenStore) -> Vec<u32> {
        store
            .tokens(0..store.len())
            .unwrap()
            .into_iter()
            .map(|id| id as u32)
            .collect()
    }

    fn long_text() -> String {
        (0..12_000)
            .map(|i| format!("Line {i}: the cat's  number, 水 is {}.\n\n", i * 7))
            .collect()
    }

    #[test]
    fn documents_are_separated_and_found_again() {
        let fragments = [("ab", true), ("c", false), ("d", true), ("ß", true)];
        let (store, meta) = split(&Tokenizer::bytes(), &fragments, false);
        assert_eq!(ids(&store), [97, 98, 256, 99, 100, 256, 0xc3, 0x9f]);
        assert_eq!(store.borders().unwrap(), [0, 3, 6, 8]);
        assert_eq!(
            (meta.text_bytes, meta.text_chars, store.target_bytes()),
            (6, 5, 5)
        );
        let (store, _) = split(&Tokenizer::bytes(), &fragments, true);
        assert_eq!(ids(&store), [97, 98, 256, 99, 100, 256, 0xc3, 0x9f, 256]);
        let (cut, _) = split(&Tokenizer::bytes(), &fragments[..2], true);
        assert_eq!(
            ids(&cut),
            [97, 98, 256, 99],
            "a document that is cut has not ended"
        );
    }

    #[test]
    fn pieces_give_the_ids_of_the_whole() {
        let text = long_text();
        let half = text.floor_char_boundary(text.len() / 2);
        let bpe = train_bpe(text.lines().take(500).map(|line| Ok(line.to_owned())), 500).unwrap();
        for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(text.chars()), bpe] {
            let (store, meta) = split(
                &tokenizer,
                &[(&text[..half], false), (&text[half..], true)],
                false,
            );
            assert_eq!(
                ids(&store),
                tokenizer.encode(&text).unwrap(),
                "{tokenizer:?}"
            );
            assert_eq!(meta.text_chars, text.chars().count() as u64);
        }
    }

    #[test]
    fn a_cut_inside_a_word_is_noticed_and_a_tokenizer_without_safe_cuts_gets_whole_documents() {
        let text = long_text();
        let bpe = train_bpe(text.lines().take(500).map(|line| Ok(line.to_owned())), 500).unwrap();
        let inside = text.find("number").unwrap() + 3;
        assert!(!leaves_ids(&bpe, &text, inside).unwrap());
        // A space before every text changes what follows a cut.
        let prefixed = bpe
            .to_json()
            .unwrap()
            .replace("\"add_prefix_space\": false", "\"add_prefix_space\": true");
        let prefixed = Tokenizer::from_json(&prefixed).unwrap();
        let unspaced = text.replace(' ', "_").replace("\n\n", "\n");
        assert_eq!(safe_cut(&prefixed, &unspaced).unwrap(), None);
        let (store, _) = split(&prefixed, &[(&unspaced, true)], false);
        assert_eq!(ids(&store), prefixed.encode(&unspaced).unwrap());
    }

    #[test]
    fn an_unknown_character_is_placed_in_its_document() {
        let text = format!("{}z", "ab".repeat(200_000));
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::chars("ab".chars());
        let mut writer = SplitWriter::create(dir.path(), "train", &tokenizer).unwrap();
        writer
            .push(Fragment {
                text,
                ends_document: true,
            })
            .unwrap();
        let error = writer.finish(false).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Tokenizer(TokenizerError::UnknownChar {
                    character: 'z',
                    position: 400_000,
                    ..
                })
            ),
            "{error}"
        );
    }
}
