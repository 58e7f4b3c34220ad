//! From `[data]` and `[tokenizer]` to token files, once.
//!
//! A prepared directory holds `train.bin`, `val.bin`, where their documents start, the
//! tokenizer and `meta.json`. It is made under another name and renamed when complete, so a
//! directory that exists is whole. In the cache its name stands for the configuration, and its
//! `meta.json` for the contents: when text or tokenizer changed, it is made again.

use super::config::{DataConfig, DataSource, Packing, TokenizerConfig, TokenizerKind};
use super::error::DataError;
use super::event::DataEvent;
use super::fingerprint::{Fingerprint, fingerprint};
use super::inputs::inputs;
use super::meta::{META_FILE, PreparedMeta, SourceMeta, TOKENIZER_FILE};
use super::source::Sources;
use super::store::TokenStore;
use super::task;
use super::vocabulary;
use super::write::{Inputs, build};
use infinity_model::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

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
        return task::prepare(data, tokenizer);
    }
    let kind = tokenizer.resolve()?;
    let prepared = if is_prepared(&data.train_file) && data.source == DataSource::Files {
        given(data, tokenizer, kind)?
    } else {
        cached(data, tokenizer, kind, notify)?
    };
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
    let fixed = vocabulary::fixed(tokenizer, kind)?;
    build(
        &inputs("INPUT", texts, data, notify)?,
        tokenizer,
        kind,
        fixed,
        data,
        output,
        notify,
    )?;
    open_prepared(output)
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
    if fingerprint(tokenizer.to_json()?) != meta.tokenizer_hash {
        let reason = "it is not the tokenizer in meta.json".to_owned();
        return Err(DataError::Damaged {
            path,
            reason,
            directory: directory.to_path_buf(),
        });
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
        return super::config::bad(
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
        let wanted = vocabulary::from_file(tokenizer)?;
        let same = fingerprint(wanted.to_json()?) == prepared.meta.tokenizer_hash;
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
    let inputs = inputs("data.train_file", texts, data, notify)?;
    let fixed = vocabulary::fixed(tokenizer, kind)?;
    let directory = data.cache_dir.join(entry_name(data, tokenizer, kind));
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
fn entry_name(data: &DataConfig, tokenizer: &TokenizerConfig, kind: TokenizerKind) -> String {
    let absolute = |path: &Path| match path.as_os_str().is_empty() {
        true => String::new(),
        false => std::path::absolute(path)
            .unwrap_or_else(|_| path.to_path_buf())
            .display()
            .to_string(),
    };
    let mut hash = Fingerprint::default();
    hash.field(kind.name())
        .field(absolute(&tokenizer.path))
        .field(tokenizer.train_bpe.to_le_bytes());
    hash.field(absolute(&data.train_file))
        .field(absolute(&data.validation_file))
        .field(&data.text_column);
    hash.field(format!("{:?} {}", data.val_fraction, data.append_eos));
    hash.field(data.train_crates.join(" "))
        .field(data.validation_crates.join(" "));
    let stem = match data.source {
        DataSource::Files => data
            .train_file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        source => source.task().map_or("crates", task::Task::name).to_owned(),
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
        && fingerprint(tokenizer.to_json()?) != meta.tokenizer_hash
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
    Ok(super::write::content_hash(sources)? != meta.hash)
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
