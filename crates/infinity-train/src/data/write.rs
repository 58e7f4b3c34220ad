//! Making a prepared directory.
//!
//! The text is read twice: once to count, check and fingerprint it (and to collect its characters),
//! once to tokenize it. Learning a BPE reads the training part a third time.

use super::config::{DataConfig, TokenizerConfig, TokenizerKind};
use super::error::DataError;
use super::event::DataEvent;
use super::fingerprint::{Fingerprint, fingerprint};
use super::meta::{FORMAT_VERSION, PreparedMeta, SourceMeta, TOKENIZER_FILE};
use super::source::{Fragment, Sources};
use super::store::SplitMeta;
use super::tokenize::SplitWriter;
use super::vocabulary::{self, Alphabet};
use infinity_files::PartialDirectory;
use infinity_model::tokenizer::Tokenizer;
use std::path::Path;

/// A tenth is enough to judge a small text by; of a large one, so many characters are.
const MANY_CHARS: f64 = 1e6;
const SMALL_FRACTION: f64 = 0.1;
const LARGE_FRACTION: f64 = 0.005;

/// The text of both splits.
pub(super) struct Inputs {
    pub(super) train: Sources,
    /// Absent when validation is the end of the training text.
    pub(super) validation: Option<Sources>,
    /// Fingerprints of the two, where finding them already took them.
    pub(super) known_hashes: Option<(String, Option<String>)>,
}

/// Makes the directory, under another name until it is complete. Replaces one that is there.
pub(super) fn build(
    inputs: &Inputs,
    config: &TokenizerConfig,
    kind: TokenizerKind,
    fixed: Option<Tokenizer>,
    data: &DataConfig,
    directory: &Path,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<(), DataError> {
    let mut alphabet = (kind == TokenizerKind::Char).then(Alphabet::default);
    let train = scan(&inputs.train, alphabet.as_mut())?;
    let validation = inputs
        .validation
        .as_ref()
        .map(|sources| scan(sources, alphabet.as_mut()))
        .transpose()?;
    let total_chars = train.chars + validation.as_ref().map_or(0, |scan| scan.chars);
    let documents = train.documents + validation.as_ref().map_or(0, |scan| scan.documents);
    notify(DataEvent::Scanned {
        documents,
        chars: total_chars,
    });

    let train_chars = if validation.is_some() {
        train.chars
    } else {
        train_chars(train.chars, data.val_fraction)
    };
    let tokenizer = match (fixed, &alphabet) {
        (Some(tokenizer), _) => tokenizer,
        (None, Some(alphabet)) => alphabet.tokenizer(),
        (None, None) => {
            notify(DataEvent::TrainingTokenizer {
                entries: config.train_bpe,
            });
            learn(&inputs.train, train_chars, config.train_bpe)?
        }
    };

    let failed = |source| DataError::Write {
        path: directory.to_path_buf(),
        source,
    };
    let partial = PartialDirectory::create(directory).map_err(failed)?;
    let mut progress = Progress {
        chars: 0,
        total_chars,
        next: 0,
        notify,
    };
    let (train_split, validation_split) = write_splits(
        inputs,
        train_chars,
        &tokenizer,
        data.append_eos,
        partial.path(),
        &mut progress,
    )?;
    tokenizer.save(partial.path().join(TOKENIZER_FILE))?;
    let known = inputs.known_hashes.clone().unzip();
    let meta = PreparedMeta {
        format_version: FORMAT_VERSION,
        tokenizer_kind: kind,
        tokenizer_hash: fingerprint(tokenizer.to_json()?),
        vocab_size: tokenizer.vocab_size(),
        eos_id: tokenizer.eos_id(),
        source: train.describe(&inputs.train, known.0),
        validation_source: validation
            .zip(inputs.validation.as_ref())
            .map(|(scan, sources)| scan.describe(sources, known.1.flatten())),
        train: train_split,
        validation: validation_split,
    };
    meta.write(partial.path())?;
    partial.rename_to(directory).map_err(failed)
}

/// How many of `chars` characters are for training, the rest being validation.
fn train_chars(chars: u64, val_fraction: Option<f64>) -> u64 {
    let chars = chars as f64;
    let fraction = val_fraction.unwrap_or_else(|| {
        if chars == 0.0 {
            0.0
        } else {
            (MANY_CHARS / chars).clamp(LARGE_FRACTION, SMALL_FRACTION)
        }
    });
    // 1 − 0.1 is exactly 0.9, and rounding down makes this the split that nanoGPT's data scripts make.
    ((1.0 - fraction) * chars).floor() as u64
}

/// What reading a text once says about it.
struct Scan {
    documents: u64,
    chars: u64,
    hash: String,
}

impl Scan {
    fn describe(&self, sources: &Sources, known: Option<String>) -> SourceMeta {
        // Files of dependencies are named by the lock file; their paths mean nothing elsewhere.
        let files = if known.is_some() {
            Vec::new()
        } else {
            sources.files.clone()
        };
        SourceMeta {
            hash: known.unwrap_or_else(|| self.hash.clone()),
            documents: self.documents,
            files,
        }
    }
}

fn scan(sources: &Sources, mut alphabet: Option<&mut Alphabet>) -> Result<Scan, DataError> {
    let (mut documents, mut chars) = (0, 0);
    let mut fragments = sources.fragments().hashing();
    for fragment in &mut fragments {
        let fragment = fragment?;
        documents += u64::from(fragment.ends_document);
        chars += fragment.text.chars().count() as u64;
        if let Some(alphabet) = &mut alphabet {
            alphabet.extend(&fragment.text);
        }
    }
    if chars == 0 {
        return Err(DataError::Empty {
            path: sources.root.clone(),
        });
    }
    Ok(Scan {
        documents,
        chars,
        hash: combined(fragments.fingerprints()),
    })
}

/// Fingerprint of the contents of all files, in order.
pub(super) fn content_hash(sources: &Sources) -> Result<String, DataError> {
    Ok(scan(sources, None)?.hash)
}

fn combined(fingerprints: &[String]) -> String {
    let mut hash = Fingerprint::default();
    fingerprints.iter().for_each(|fingerprint| {
        hash.field(fingerprint);
    });
    hash.hex()
}

/// Learns a tokenizer from the training part only: validation must stay unseen.
fn learn(sources: &Sources, train_chars: u64, entries: usize) -> Result<Tokenizer, DataError> {
    let mut left = train_chars;
    let texts = sources
        .fragments()
        .map_while(move |fragment| match fragment {
            Ok(_) if left == 0 => None,
            Ok(fragment) => {
                let (before, _, chars) = divide(fragment, left);
                left -= chars;
                before.map(|fragment| Ok(fragment.text))
            }
            Err(error) => Some(Err(error)),
        });
    vocabulary::train_bpe(texts, entries)
}

/// Cuts a fragment after `limit` characters: the part before, the part after, and how many
/// characters the part before has.
fn divide(mut fragment: Fragment, limit: u64) -> (Option<Fragment>, Option<Fragment>, u64) {
    let cut = fragment
        .text
        .char_indices()
        .nth(usize::try_from(limit).unwrap_or(usize::MAX));
    match cut {
        None => {
            let chars = fragment.text.chars().count() as u64;
            (Some(fragment), None, chars)
        }
        Some((0, _)) => (None, Some(fragment), 0),
        Some((place, _)) => {
            let after = Fragment {
                text: fragment.text.split_off(place),
                ends_document: fragment.ends_document,
            };
            fragment.ends_document = false;
            (Some(fragment), Some(after), limit)
        }
    }
}

fn write_splits(
    inputs: &Inputs,
    train_chars: u64,
    tokenizer: &Tokenizer,
    append_eos: bool,
    directory: &Path,
    progress: &mut Progress,
) -> Result<(SplitMeta, SplitMeta), DataError> {
    let mut train = SplitWriter::create(directory, "train", tokenizer)?;
    let mut validation = SplitWriter::create(directory, "val", tokenizer)?;
    let mut left = train_chars;
    for fragment in inputs.train.fragments() {
        // A file that grew since it was counted must not leak into the validation of another file.
        let limit = if inputs.validation.is_some() {
            u64::MAX
        } else {
            left
        };
        let (before, after, chars) = divide(fragment?, limit);
        left = left.saturating_sub(chars);
        if let Some(fragment) = before {
            progress.add(&fragment.text);
            train.push(fragment)?;
        }
        if let Some(fragment) = after {
            progress.add(&fragment.text);
            validation.push(fragment)?;
        }
    }
    for fragment in inputs.validation.iter().flat_map(Sources::fragments) {
        let fragment = fragment?;
        progress.add(&fragment.text);
        validation.push(fragment)?;
    }
    Ok((train.finish(append_eos)?, validation.finish(append_eos)?))
}

/// Tells about the progress every few million characters.
struct Progress<'a> {
    chars: u64,
    total_chars: u64,
    next: u64,
    notify: &'a mut dyn FnMut(DataEvent),
}

impl Progress<'_> {
    fn add(&mut self, text: &str) {
        const STEP: u64 = 1 << 22;
        self.chars += text.chars().count() as u64;
        if self.chars >= self.next + STEP || self.chars == self.total_chars {
            self.next = self.chars;
            (self.notify)(DataEvent::Tokenized {
                chars: self.chars,
                total_chars: self.total_chars,
            });
        }
    }
}
