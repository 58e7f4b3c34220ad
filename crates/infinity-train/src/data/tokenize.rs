//! Text in, token files out, in bounded memory and on all cores; and the tokenizer that does it.
//!
//! Long documents are encoded in pieces. For bytes and characters any cut is harmless. For other
//! tokenizers a cut is made only where encoding the two sides of it separately gives the same ids
//! as encoding them together; a tokenizer for which no such place is found (one that adds a space
//! in front of every text, say) gets its documents whole.

use super::chat::{Answers, SILENT};
use super::config::{TokenizerConfig, TokenizerKind};
use super::error::DataError;
use super::formats::Fragment;
use super::store::{NumberWriter, SplitMeta, TextMeta, Width};
use infinity_model::TokenizerError;
use infinity_model::tokenizer::{Dropped, Tokenizer, TokenizerKind as Made};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Documents are encoded in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Text on each side of a cut that must not notice the cut.
const CONTEXT_BYTES: usize = 2 << 10;
/// Text in which the first cut is looked for.
const CUT_AT: usize = PIECE_BYTES + CONTEXT_BYTES;
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
    /// Length of `open` at which the next cut is looked for.
    cut_at: usize,
    batch: Vec<Piece>,
    batch_bytes: usize,
    /// Characters of the open document that are in `batch` or written.
    chars_before: u64,
    text: TextMeta,
    /// Characters that the tokenizer has no token for.
    dropped: Dropped,
    /// What marks the token that ends the last document: the end of a conversation is learned behind an answer. Of one
    /// that ends by itself, nothing.
    end_mark: Option<u32>,
}

/// A part of one document, and how many of its characters stand before it: none where it begins one.
type Piece = (Fragment, u64);

impl<'a> SplitWriter<'a> {
    /// Creates `name.bin` and `name.documents.bin` in `directory`, for conversations or other text.
    pub(super) fn create(
        directory: &Path,
        name: &str,
        tokenizer: &'a Tokenizer,
        chat: bool,
    ) -> Result<Self, DataError> {
        let width = match chat {
            false if tokenizer.vocab_size() <= 1 << 16 => Width::U16,
            // Room for a mark.
            _ => Width::U32,
        };
        let documents = format!("{name}.documents.bin");
        Ok(Self {
            tokenizer,
            tokens: NumberWriter::create(directory, &format!("{name}.bin"), width)?,
            documents: NumberWriter::create(directory, &documents, Width::U64)?,
            open: String::new(),
            cut_at: CUT_AT,
            batch: Vec::new(),
            batch_bytes: 0,
            chars_before: 0,
            text: TextMeta {
                marked: chat,
                ..TextMeta::default()
            },
            dropped: Dropped::default(),
            end_mark: Some(0),
        })
    }

    /// Adds a part of the open document, or the beginning of the next.
    pub(super) fn push(&mut self, fragment: Fragment) -> Result<(), DataError> {
        if fragment.answers.is_some() {
            self.enqueue(fragment)?;
            return self.end_document();
        }
        match self.open.is_empty() {
            true => self.open = fragment.text,
            false => self.open.push_str(&fragment.text),
        }
        while self.open.len() >= self.cut_at {
            match safe_cut(self.tokenizer, &self.open)? {
                Some(cut) => {
                    let rest = self.open.split_off(cut);
                    let piece = std::mem::replace(&mut self.open, rest);
                    self.cut_at = CUT_AT;
                    self.enqueue(Fragment::whole(piece))?;
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
            self.enqueue(Fragment::whole(last))?;
        }
        self.cut_at = CUT_AT;
        self.chars_before = 0;
        Ok(())
    }

    fn enqueue(&mut self, piece: Fragment) -> Result<(), DataError> {
        let (bytes, chars) = (piece.text.len(), piece.text.chars().count() as u64);
        self.batch_bytes += bytes;
        let learned = piece.answers.as_ref().map(Answers::bytes);
        self.text.text_bytes += learned.unwrap_or(bytes as u64);
        self.text.text_chars += chars;
        self.batch.push((piece, self.chars_before));
        self.chars_before += chars;
        match self.batch_bytes >= BATCH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let pieces = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let encode = |(piece, chars_before): &Piece| {
            let ids = match (&piece.answers, chars_before) {
                (Some(answers), _) => answers.encode(self.tokenizer, &piece.text),
                (None, 0) => self.tokenizer.encode_text(&piece.text),
                (None, _) => self.tokenizer.encode(&piece.text),
            };
            let ids = ids.map_err(|mut error| {
                // The place in the document, not in the piece.
                if let TokenizerError::UnknownChar { position, .. } = &mut error {
                    *position += *chars_before as usize;
                }
                error
            })?;
            Ok((ids, self.tokenizer.dropped(&piece.text)?))
        };
        let encoded = pieces.par_iter().map(encode);
        let encoded: Vec<_> = encoded.collect::<Result<_, TokenizerError>>()?;
        for ((piece, chars_before), (ids, dropped)) in pieces.iter().zip(&encoded) {
            self.dropped = self.dropped.and(*dropped);
            if *chars_before == 0 {
                if self.documents.count() > 0 {
                    self.separate()?;
                }
                self.documents.push(self.tokens.count())?;
            }
            if let Some(answers) = &piece.answers {
                let mark = if answers.end(&piece.text) { 0 } else { SILENT };
                self.end_mark = (!answers.whole).then_some(mark);
            } else if self.tokens.count() == 0 && !ids.is_empty() {
                self.text.first_token_bytes = bytes_of(self.tokenizer, ids[0])?;
            }
            self.tokens.extend(ids)?;
        }
        Ok(())
    }

    fn separate(&mut self) -> Result<(), DataError> {
        let Some(mark) = self.end_mark else {
            return Ok(());
        };
        let eos = self.tokenizer.eos_id().ok_or_else(|| {
            DataError::Unusable(format!(
                "{} documents, but the tokenizer has no end-of-text token to separate them",
                self.documents.count() + 1
            ))
        })?;
        self.tokens.push(u64::from(eos | mark))
    }

    /// Encodes what is left and closes the files; `append_eos` ends the last document too, unless
    /// the split was cut inside it. The second value counts characters without a token.
    pub(super) fn finish(mut self, append_eos: bool) -> Result<(SplitMeta, Dropped), DataError> {
        let cut_inside = self.chars_before > 0 || !self.open.is_empty();
        self.end_document()?;
        self.flush()?;
        if (append_eos || self.text.marked) && !cut_inside && self.documents.count() > 0 {
            self.separate()?;
        }
        let meta = SplitMeta {
            tokens: self.tokens.finish()?,
            documents: self.documents.finish()?,
            text: self.text,
        };
        Ok((meta, self.dropped))
    }
}

/// UTF-8 bytes of one token. A token that is only part of a character counts as what it decodes to,
/// which is off by at most two bytes, once a split.
fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Result<u64, DataError> {
    match tokenizer.kind() {
        Made::Byte => Ok(1),
        Made::Char | Made::File => Ok(tokenizer.decode(&[id])?.len() as u64),
    }
}

/// A place near `PIECE_BYTES` where cutting `text` leaves its ids as they are.
fn safe_cut(tokenizer: &Tokenizer, text: &str) -> Result<Option<usize>, DataError> {
    let end = text.floor_char_boundary(PIECE_BYTES);
    if tokenizer.kind() != Made::File {
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

/// The token between documents, under the name that loaders of `tokenizer.json` recognise.
const END_OF_TEXT: &str = "<|endoftext|>";

/// A pair seen once teaches nothing about the next text.
const MIN_FREQUENCY: u64 = 2;

/// For each character, whether it is in a text.
pub(super) struct Alphabet(Vec<bool>);

impl Default for Alphabet {
    fn default() -> Self {
        Self(vec![false; char::MAX as usize + 1])
    }
}

impl Alphabet {
    pub(super) fn extend(&mut self, text: &str) {
        text.chars().for_each(|c| self.0[c as usize] = true);
    }

    /// The tokenizer whose tokens are these characters.
    pub(super) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::chars(('\0'..=char::MAX).filter(|c| self.0[*c as usize]))
    }
}

/// The tokenizer at `tokenizer.path`, which may be its directory.
pub(super) fn from_file(config: &TokenizerConfig) -> Result<Tokenizer, DataError> {
    let path = tokenizer_path(config);
    (path.metadata()).map_err(DataError::not_read("tokenizer.path", &path))?;
    Ok(Tokenizer::from_file(path)?.with_special_tokens(config.add_special_tokens))
}

pub(super) fn tokenizer_path(config: &TokenizerConfig) -> PathBuf {
    match config.path.is_dir() {
        true => config.path.join("tokenizer.json"),
        false => config.path.clone(),
    }
}

/// Tokenizers that do not depend on the text; nothing for the ones that are learned from it.
pub(super) fn fixed(
    config: &TokenizerConfig,
    kind: TokenizerKind,
) -> Result<Option<Tokenizer>, DataError> {
    match kind {
        TokenizerKind::Byte => Ok(Some(Tokenizer::bytes())),
        TokenizerKind::File => from_file(config).map(Some),
        TokenizerKind::Char | TokenizerKind::Bpe | TokenizerKind::Hub => Ok(None),
    }
}

/// Characters of a word that merges are learned in. Learning takes the square of a word's length, and no
/// entry that is worth having is longer: longer words are cut, as tokenizers do that bound a word.
pub(super) const LONGEST_WORD: usize = 256;

/// Learns a byte-level BPE of `entries` tokens (GPT-2's kind: bytes, merges inside words, no unknown
/// token) from `texts`, and says how many words were cut because they are longer than 256 characters. The same texts
/// give the same tokenizer.
///
/// # Errors
/// The first error of `texts`, or what the `tokenizers` crate refuses.
pub fn train_bpe(
    texts: impl Iterator<Item = Result<String, DataError>> + Send,
    entries: usize,
) -> Result<(Tokenizer, u64), DataError> {
    let failed = |error: tokenizers::Error| {
        DataError::Unusable(format!("cannot train a BPE tokenizer: {error}"))
    };
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(entries)
        .min_frequency(MIN_FREQUENCY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    let bytes = ByteLevel::new(false, false, true);
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(bytes))
            .with_post_processor(None)
            .build()
            .map_err(failed)?;
    // The trainer takes texts, not results: the first error ends them and is kept aside.
    let (first_error, cut) = (Mutex::new(None), AtomicU64::new(0));
    let good = texts.map_while(|text| match text {
        Ok(text) => Some(pieces(&text, &cut)),
        Err(error) => {
            *first_error.lock().expect("nothing panics while holding it") = Some(error);
            None
        }
    });
    let trained = tokenizer.train(&mut trainer, good.flatten()).map(drop);
    let first_error = first_error.into_inner();
    if let Some(error) = first_error.expect("nothing panics while holding it") {
        return Err(error);
    }
    trained.map_err(failed)?;
    let json = tokenizer.to_string(false).map_err(failed)?;
    Ok((Tokenizer::from_json(&json)?, cut.into_inner()))
}

/// The text, cut inside words that are longer than [`LONGEST_WORD`], which are counted. A word is
/// what [`ByteLevel`] takes for one: letters, digits, spaces or other characters in a row.
fn pieces(text: &str, cut: &AtomicU64) -> Vec<String> {
    let kind = |c: char| match c {
        c if c.is_whitespace() => 0,
        c if c.is_alphabetic() => 1,
        c if c.is_numeric() => 2,
        _ => 3,
    };
    let (mut pieces, mut start, mut length, mut last, mut counted) = (Vec::new(), 0, 0, 0, false);
    for (place, character) in text.char_indices() {
        let now = kind(character);
        if now != last {
            (length, counted) = (0, false);
        }
        if length == LONGEST_WORD {
            pieces.push(text[start..place].to_owned());
            (start, length) = (place, 0);
            if !std::mem::replace(&mut counted, true) {
                cut.fetch_add(1, Relaxed);
            }
        }
        (last, length) = (now, length + 1);
    }
    pieces.push(text[start..].to_owned());
    pieces
}

#[cfg(test)]
mod tests {
    mod tokenize {
        use super::super::*;
        use crate::data::store::TokenStore;

        fn split(
            tokenizer: &Tokenizer,
            fragments: &[(&str, bool)],
            append_eos: bool,
        ) -> (TokenStore, SplitMeta) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = SplitWriter::create(dir.path(), "train", tokenizer, false).unwrap();
            for (text, ends_document) in fragments {
                writer
                    .push(Fragment {
                        text: (*text).to_owned(),
                        ends_document: *ends_document,
                        answers: None,
                    })
                    .unwrap();
            }
            let (meta, _) = writer.finish(append_eos).unwrap();
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
                (
                    meta.text.text_bytes,
                    meta.text.text_chars,
                    store.target_bytes()
                ),
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
            let lines = text.lines().take(500).map(|line| Ok(line.to_owned()));
            let (bpe, _) = train_bpe(lines, 500).unwrap();
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
                assert_eq!(meta.text.text_chars, text.chars().count() as u64);
            }
        }

        #[test]
        fn a_cut_inside_a_word_is_noticed_and_a_tokenizer_without_safe_cuts_gets_whole_documents() {
            let text = long_text();
            let lines = text.lines().take(500).map(|line| Ok(line.to_owned()));
            let (bpe, _) = train_bpe(lines, 500).unwrap();
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
            let mut writer = SplitWriter::create(dir.path(), "train", &tokenizer, false).unwrap();
            writer
                .push(Fragment {
                    text,
                    ends_document: true,
                    answers: None,
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

    mod vocabulary {
        use super::super::*;
        use std::path::Path;

        fn text() -> String {
            (0..400)
                .map(|i| {
                    format!(
                        "the cat number {i} sat on the mat, über allen 水 {}\n",
                        i * i
                    )
                })
                .collect()
        }

        fn trained(text: &str, entries: usize) -> Tokenizer {
            let lines = text.lines().map(|line| Ok(format!("{line}\n")));
            train_bpe(lines, entries).unwrap().0
        }

        #[test]
        fn a_trained_bpe_is_deterministic_and_loses_nothing() {
            let tokenizer = trained(&text(), 400);
            assert_eq!(tokenizer.vocab_size(), 400);
            assert!(tokenizer.eos_id().is_some());
            for _ in 0..3 {
                assert_eq!(
                    trained(&text(), 400).to_json().unwrap(),
                    tokenizer.to_json().unwrap()
                );
            }
            for sample in [text().as_str(), "  unseen\r\n\tÆ 🦀 words  ", ""] {
                let ids = tokenizer.encode(sample).unwrap();
                assert_eq!(tokenizer.decode(&ids).unwrap(), sample);
                assert!(ids.len() <= sample.len());
            }
            assert!(tokenizer.encode(&text()).unwrap().len() < text().len() / 2);
        }

        #[test]
        fn other_text_gives_another_bpe() {
            let other = text().replace("cat", "dog");
            assert_ne!(
                trained(&text(), 400).to_json().unwrap(),
                trained(&other, 400).to_json().unwrap()
            );
        }

        #[test]
        fn an_error_in_the_text_ends_the_training() {
            let texts = [
                Ok("good".to_owned()),
                Err(DataError::empty(Path::new("bad.txt"))),
            ];
            let message = train_bpe(texts.into_iter(), 300).unwrap_err().to_string();
            assert!(message.contains("bad.txt"), "{message}");
        }

        #[test]
        fn the_alphabet_holds_what_was_read() {
            let mut alphabet = Alphabet::default();
            alphabet.extend("bab");
            alphabet.extend("水\u{10ffff}\0");
            let tokenizer = alphabet.tokenizer();
            let characters = tokenizer.decode(&[0, 1, 2, 3, 4]).unwrap();
            assert_eq!(characters, "\0ab水\u{10ffff}");
            assert_eq!(tokenizer.vocab_size(), 5 + 1, "the end of text");
            assert_eq!(tokenizer.encode("水ab").unwrap(), [3, 1, 2]);
        }

        #[test]
        fn a_missing_tokenizer_file_names_its_key() {
            let config = TokenizerConfig {
                path: "no/such.json".into(),
                ..TokenizerConfig::default()
            };
            let message = fixed(&config, TokenizerKind::File).unwrap_err().to_string();
            assert!(
                message.contains("tokenizer.path") && message.contains("such.json"),
                "{message}"
            );
            let dir = tempfile::tempdir().unwrap();
            Tokenizer::bytes()
                .save(dir.path().join("tokenizer.json"))
                .unwrap();
            let config = TokenizerConfig {
                path: dir.path().into(),
                ..TokenizerConfig::default()
            };
            assert!(fixed(&config, TokenizerKind::File).unwrap().is_some());
            assert!(tokenizer_path(&config).ends_with(Path::new("tokenizer.json")));
        }
    }
}
