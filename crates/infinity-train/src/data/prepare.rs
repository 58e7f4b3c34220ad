//! From `[data]` and `[tokenizer]` to token files, once.
//!
//! A prepared directory holds `train.bin`, `val.bin`, where their documents start, the
//! tokenizer and `meta.json`. It is made under another name and renamed when complete, so a
//! directory that exists is whole. In the cache its name stands for the configuration, and its
//! `meta.json` for the contents: when text or tokenizer changed, it is made again.
//!
//! The text is read twice: once to count, check and fingerprint it (and to collect its characters),
//! once to tokenize it. Learning a BPE reads the training part a third time.

use super::cargo::CargoWorkspace;
use super::config::{DataConfig, DataSource, Packing, TokenizerConfig, TokenizerKind};
use super::error::{DataError, DataEvent, bad};
use super::sources::{Sources, divide};
use super::store::{
    FORMAT_VERSION, META_FILE, PreparedData, PreparedMeta, SourceMeta, SplitMeta, TOKENIZER_FILE,
    TokenStore,
};
use super::stories::Stories;
use super::task::{Part, Task};
use super::task_splits;
use super::templates;
use super::tokenize::{self, Alphabet, SplitWriter};
use infinity_files::{Fingerprint, PartialDirectory, fingerprint};
use infinity_model::ChatTemplate;
use infinity_model::tokenizer::Tokenizer;
use std::env;
use std::path::{Path, PathBuf};

/// Gives the data that `data` and `tokenizer` describe: from a prepared directory, from the cache,
/// or made now (and left in the cache). `notify` hears what is done.
///
/// # Errors
/// Everything that [`DataError`] lists; nothing half-made is left behind.
pub fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<PreparedData, DataError> {
    data.validate()?;
    if data.source.task().is_some() {
        return task_splits::of(data, tokenizer);
    }
    let kind = tokenizer.resolve()?;
    let mut prepared = if is_prepared(&data.train_file) && data.source == DataSource::Files {
        let given = given(data, tokenizer, kind)?;
        if !data.messages_column.is_empty() && !given.train.is_marked() {
            return Err(DataError::BadValue {
                key: "data.messages_column",
                value: data.messages_column.clone(),
                reason: "data.train_file names tokens of a text, in which no answers are marked: name the rows".into(),
            });
        }
        given
    } else {
        cached(data, tokenizer, kind, notify)?
    };
    let adds = tokenizer.add_special_tokens;
    prepared.tokenizer = prepared.tokenizer.with_special_tokens(adds);
    check_lengths(data, &prepared)?;
    notify(DataEvent::Ready {
        train_tokens: prepared.train.len(),
        validation_tokens: prepared.valid.len(),
        vocab_size: prepared.tokenizer.vocab_size(),
        directory: prepared.directory.clone(),
    });
    Ok(prepared)
}

/// Makes a prepared directory at `output`, which must not exist, of `texts` one after the other,
/// which stand for `data.train_file`: what `infinity tokenize` does.
pub fn tokenize_to(
    texts: &[PathBuf],
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    output: &Path,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<PreparedData, DataError> {
    let data = &DataConfig {
        train_file: texts.first().cloned().unwrap_or_default(),
        ..data.clone()
    };
    data.validate()?;
    let kind = tokenizer.resolve()?;
    if output.exists() {
        return Err(DataError::OutputExists {
            path: output.to_path_buf(),
        });
    }
    let fixed = tokenize::fixed(tokenizer, kind)?;
    let template = templates::template(data, tokenizer)?;
    build(
        &inputs("INPUT", texts, data, template, notify)?,
        tokenizer,
        kind,
        fixed,
        data,
        output,
        notify,
    )?;
    open_prepared(output)
}

/// The tokenizer that [`prepare`] will give, where that is known before any text is read.
///
/// # Errors
/// Its file cannot be read, or `[tokenizer]` contradicts itself.
pub(crate) fn known_tokenizer(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
) -> Result<Option<Tokenizer>, DataError> {
    if data.source.task().is_some() {
        return Ok(None);
    }
    if is_prepared(&data.train_file) && data.source == DataSource::Files {
        let file = data.train_file.join(TOKENIZER_FILE);
        return Ok(Some(Tokenizer::from_file(file)?));
    }
    tokenize::fixed(tokenizer, tokenizer.resolve()?)
}

/// Whether `directory` was made by [`tokenize_to`] or [`prepare`].
pub fn is_prepared(directory: &Path) -> bool {
    directory.join(META_FILE).is_file() && directory.join(TOKENIZER_FILE).is_file()
}

/// Opens a prepared directory.
///
/// # Errors
/// A file is missing, truncated, or not the one that was written.
pub fn open_prepared(directory: &Path) -> Result<PreparedData, DataError> {
    open(directory, PreparedMeta::read(directory)?)
}

fn open(directory: &Path, meta: PreparedMeta) -> Result<PreparedData, DataError> {
    let path = directory.join(TOKENIZER_FILE);
    let tokenizer = Tokenizer::from_file(&path)?;
    if !Fingerprint::matches(&meta.tokenizer_hash, tokenizer.to_json()?) {
        let reason = "it is not the tokenizer in meta.json";
        return Err(DataError::damaged(&path, reason));
    }
    Ok(PreparedData {
        train: TokenStore::open(directory, &meta.train)?,
        valid: TokenStore::open(directory, &meta.validation)?,
        tokenizer,
        directory: directory.to_path_buf(),
        meta,
    })
}

/// The prepared directory that `data.train_file` names, if nothing contradicts it.
fn given(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    kind: TokenizerKind,
) -> Result<PreparedData, DataError> {
    if !data.validation_file.as_os_str().is_empty() {
        let reason =
            "`data.train_file` is a prepared directory, which has its own validation split";
        return bad(
            "data.validation_file",
            data.validation_file.display(),
            reason,
        );
    }
    let prepared = open_prepared(&data.train_file)?;
    let found = prepared.meta.tokenizer_kind;
    let other = |wanted: String| {
        Err(DataError::OtherTokenizer {
            path: data.train_file.clone(),
            found: found.name().to_owned(),
            wanted,
        })
    };
    // The default asks for nothing in particular.
    if *tokenizer == TokenizerConfig::default() {
        return Ok(prepared);
    }
    if kind == TokenizerKind::File {
        let wanted = tokenize::from_file(tokenizer)?;
        let same = Fingerprint::matches(&prepared.meta.tokenizer_hash, wanted.to_json()?);
        return if same {
            Ok(prepared)
        } else {
            other(tokenizer.path.display().to_string())
        };
    }
    if kind == found {
        Ok(prepared)
    } else {
        other(kind.name().to_owned())
    }
}

/// The directory in the cache that stands for this configuration, made when it is not there or old.
fn cached(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    kind: TokenizerKind,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<PreparedData, DataError> {
    let texts = std::slice::from_ref(&data.train_file);
    let template = templates::template(data, tokenizer)?;
    let entry = entry_name(data, tokenizer, kind, template.as_ref());
    let inputs = inputs("data.train_file", texts, data, template, notify)?;
    let fixed = tokenize::fixed(tokenizer, kind)?;
    let directory = data.cache_dir.join(entry);
    if directory.exists() {
        match change(&directory, &inputs, fixed.as_ref())? {
            None => return open_prepared(&directory),
            Some(reason) => notify(DataEvent::Rebuilding {
                directory: directory.clone(),
                reason,
            }),
        }
    }
    build(&inputs, tokenizer, kind, fixed, data, &directory, notify)?;
    open_prepared(&directory)
}

/// Name in the cache: readable, and different for every configuration that gives other tokens.
fn entry_name(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    kind: TokenizerKind,
    template: Option<&ChatTemplate>,
) -> String {
    let absolute = |path: &Path| match path.as_os_str().is_empty() {
        true => String::new(),
        false => std::path::absolute(path)
            .unwrap_or_else(|_| path.to_path_buf())
            .display()
            .to_string(),
    };
    // The algorithm of earlier versions, whose entries are found again.
    let mut hash = Fingerprint::like("");
    hash.field(kind.name())
        .field(absolute(&tokenizer.path))
        .field(tokenizer.train_bpe.to_le_bytes());
    hash.field(absolute(&data.train_file))
        .field(absolute(&data.validation_file))
        .field(&data.text_column);
    hash.field(format!("{:?} {}", data.val_fraction, data.append_eos));
    hash.field(data.train_crates.join(" "))
        .field(data.validation_crates.join(" "));
    if data.source == DataSource::Stories {
        hash.field(format!("{:?}", data.stories));
    }
    if tokenizer.add_special_tokens {
        hash.field("add_special_tokens");
    }
    if let Some(template) = template {
        hash.field(&data.messages_column)
            .field(format!("{template:?}"));
    }
    let stem = match data.source {
        DataSource::Files => data
            .train_file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        DataSource::Stories => "stories".to_owned(),
        source => source.task().map_or("crates", Task::name).to_owned(),
    };
    let stem: String = stem
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
        .take(40)
        .collect();
    format!("{stem}-{}-{}", kind.name(), hash.hex())
}

/// Why the cached directory is not what would be made now; nothing if it is.
fn change(
    directory: &Path,
    inputs: &Inputs,
    fixed: Option<&Tokenizer>,
) -> Result<Option<String>, DataError> {
    let meta = PreparedMeta::read(directory)?;
    if let Some(tokenizer) = fixed
        && !Fingerprint::matches(&meta.tokenizer_hash, tokenizer.to_json()?)
    {
        return Ok(Some("the tokenizer changed".to_owned()));
    }
    let known = inputs.known_hashes.as_ref();
    if source_changed(&inputs.train, &meta.source, known.map(|known| &known.0))? {
        return Ok(Some("the training text changed".to_owned()));
    }
    let validation_changed = match (&inputs.validation, &meta.validation_source) {
        (None, None) => false,
        (Some(sources), Some(meta)) => {
            source_changed(sources, meta, known.and_then(|known| known.1.as_ref()))?
        }
        _ => true,
    };
    Ok(validation_changed.then(|| "the validation text changed".to_owned()))
}

/// Compares names, lengths and times first; contents only when these differ.
fn source_changed(
    sources: &Sources,
    meta: &SourceMeta,
    known: Option<&String>,
) -> Result<bool, DataError> {
    if let Some(hash) = known {
        return Ok(*hash != meta.hash);
    }
    if sources.files == meta.files {
        return Ok(false);
    }
    Ok(content_hash(sources, &meta.hash)? != meta.hash)
}

fn check_lengths(data: &DataConfig, prepared: &PreparedData) -> Result<(), DataError> {
    let window = data.max_seq_length;
    let held_out = prepared.valid.len();
    let wanted = data.val_fraction.is_none_or(|fraction| fraction > 0.0);
    if held_out <= window as u64 && (wanted || held_out > 0) {
        return Err(DataError::SplitTooShort {
            split: "validation",
            more: data.more_validation(),
            tokens: held_out,
            window,
        });
    }
    let tokens = prepared.train.len();
    if tokens <= window as u64 && data.packing != Packing::Documents {
        return Err(DataError::SplitTooShort {
            split: "training",
            more: "more text",
            tokens,
            window,
        });
    }
    Ok(())
}

/// A tenth is enough to judge a small text by; of a large one, so many characters are.
const MANY_CHARS: f64 = 1e6;
const SMALL_FRACTION: f64 = 0.1;
const LARGE_FRACTION: f64 = 0.005;

/// The text of both splits.
struct Inputs {
    train: Sources,
    /// Absent when validation is the end of the training text.
    validation: Option<Sources>,
    /// Fingerprints of the two, where finding them already took them.
    known_hashes: Option<(String, Option<String>)>,
}

/// Makes the directory, under another name until it is complete. Replaces one that is there.
fn build(
    inputs: &Inputs,
    config: &TokenizerConfig,
    kind: TokenizerKind,
    fixed: Option<Tokenizer>,
    data: &DataConfig,
    directory: &Path,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<(), DataError> {
    // Before any text is read: there may be no place to write it.
    let failed = DataError::write(directory);
    let partial = PartialDirectory::create(directory).map_err(failed)?;
    let mut alphabet = (kind == TokenizerKind::Char).then(Alphabet::default);
    let train = scan(&inputs.train, alphabet.as_mut(), Fingerprint::default())?;
    let validation = inputs
        .validation
        .as_ref()
        .map(|sources| scan(sources, alphabet.as_mut(), Fingerprint::default()))
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
            let (tokenizer, cut) = learn(&inputs.train, train_chars, config.train_bpe)?;
            if cut > 0 {
                notify(DataEvent::LongWords {
                    count: cut,
                    limit: tokenize::LONGEST_WORD,
                });
            }
            tokenizer
        }
    };

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
    partial
        .rename_to(directory)
        .map_err(DataError::write(directory))
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

/// Reads everything once; `hash` is the empty hash to take fingerprints with.
fn scan(
    sources: &Sources,
    mut alphabet: Option<&mut Alphabet>,
    mut hash: Fingerprint,
) -> Result<Scan, DataError> {
    let (mut documents, mut chars) = (0, 0);
    let mut fragments = sources.fragments().hashing(hash.clone());
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
    for fingerprint in fragments.fingerprints() {
        hash.field(fingerprint);
    }
    Ok(Scan {
        documents,
        chars,
        hash: hash.hex(),
    })
}

/// Fingerprint of the contents of all files, in order, as `stored` was taken.
fn content_hash(sources: &Sources, stored: &str) -> Result<String, DataError> {
    Ok(scan(sources, None, Fingerprint::like(stored))?.hash)
}

/// Learns a tokenizer from the training part only: validation must stay unseen.
fn learn(
    sources: &Sources,
    train_chars: u64,
    entries: usize,
) -> Result<(Tokenizer, u64), DataError> {
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
    tokenize::learn_bpe(texts, entries)
}

fn write_splits(
    inputs: &Inputs,
    train_chars: u64,
    tokenizer: &Tokenizer,
    append_eos: bool,
    directory: &Path,
    progress: &mut Progress,
) -> Result<(SplitMeta, SplitMeta), DataError> {
    let chat = inputs.train.column.template.is_some();
    let mut train = SplitWriter::create(directory, "train", tokenizer, chat)?;
    let mut validation = SplitWriter::create(directory, "val", tokenizer, chat)?;
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
    let (train, dropped) = train.finish(append_eos)?;
    let (validation, also_dropped) = validation.finish(append_eos)?;
    let dropped = dropped.and(also_dropped);
    dropped.check()?;
    if let Some(first) = dropped.first {
        (progress.notify)(DataEvent::Missing {
            missing: dropped.characters,
            chars: dropped.of,
            first,
        });
    }
    Ok((train, validation))
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

/// Finds the text, without reading files of the user; messages about `texts` blame `key`.
fn inputs(
    key: &'static str,
    texts: &[PathBuf],
    data: &DataConfig,
    template: Option<ChatTemplate>,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<Inputs, DataError> {
    if data.source == DataSource::Files {
        let column = match template {
            Some(_) => &data.messages_column,
            None => &data.text_column,
        };
        let validation = &data.validation_file;
        let validation = (!validation.as_os_str().is_empty())
            .then(|| Sources::resolve("data.validation_file", validation, column))
            .transpose()?;
        let train = Sources::concatenated(key, texts, column)?;
        let all = [Some(&train), validation.as_ref()].into_iter().flatten();
        let directories: Vec<PathBuf> = all.flat_map(|s| s.skipped.clone()).collect();
        if !directories.is_empty() {
            notify(DataEvent::Skipped { directories });
        }
        return Ok(Inputs {
            train: train.written_by(template.clone()),
            validation: validation.map(|sources| sources.written_by(template)),
            known_hashes: None,
        });
    }
    if data.source == DataSource::Stories {
        let [train, valid] =
            [Part::Train, Part::HeldOut].map(|part| Stories::new(&data.stories, part));
        return Ok(Inputs {
            train: Sources::of_stories(train),
            validation: Some(Sources::of_stories(valid)),
            known_hashes: Some((train.fingerprint(), Some(valid.fingerprint()))),
        });
    }
    let here = env::current_dir().map_err(DataError::read(Path::new(".")))?;
    let workspace = CargoWorkspace::find(&here)?;
    let mut crates = |key, names: &[String]| {
        let found = workspace.sources(key, names)?;
        notify(DataEvent::Crates {
            key,
            crates: found.crates.clone(),
            files: found.sources.files.len(),
            skipped: found.skipped,
            fingerprint: found.fingerprint.clone(),
        });
        Ok::<_, DataError>(found)
    };
    let train = crates("data.train_crates", &data.train_crates)?;
    let validation = match data.validation_crates.as_slice() {
        [] => None,
        names => Some(crates("data.validation_crates", names)?),
    };
    let mut held_out = validation.iter().flat_map(|found| &found.crates);
    if let Some(both) = held_out.find(|name| train.crates.contains(name)) {
        return bad(
            "data.validation_crates",
            both,
            "is also in `data.train_crates`",
        );
    }
    let known_hashes = Some((
        train.fingerprint,
        validation.as_ref().map(|found| found.fingerprint.clone()),
    ));
    Ok(Inputs {
        train: train.sources,
        validation: validation.map(|found| found.sources),
        known_hashes,
    })
}
