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
use super::error::{DataError, bad};
use super::formats::Seen;
use super::sources::Sources;
use super::store::{
    FORMAT_VERSION, META_FILE, PreparedData, PreparedMeta, SourceMeta, SplitMeta, TOKENIZER_FILE,
    TokenStore,
};
use super::stories::Stories;
use super::task::Part;
use super::task_splits;
use super::templates;
use super::tokenize::{self, Alphabet, LONGEST_WORD, SplitWriter};
use infinity_files::{Fingerprint, PartialDirectory, fingerprint};
use infinity_model::ChatTemplate;
use infinity_model::tokenizer::Tokenizer;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// Gives the data that `data` and `tokenizer` describe: from a prepared directory, from the cache,
/// or made now (and left in the cache). `notify` hears what is done.
///
/// # Errors
/// Everything that [`DataError`] lists; nothing half-made is left behind.
pub fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    notify: &mut dyn FnMut(String),
) -> Result<PreparedData, DataError> {
    data.validate()?;
    if data.source.task().is_some() {
        return task_splits::of(data, tokenizer);
    }
    names_text(data)?;
    let mut prepared = match names_tokens(data) {
        true => given(data, tokenizer)?,
        false => cached(data, tokenizer, notify)?,
    };
    let adds = tokenizer.add_special_tokens;
    prepared.tokenizer = prepared.tokenizer.with_special_tokens(adds);
    check_lengths(data, &prepared)?;
    notify(format!(
        "{} training and {} validation tokens of {} kinds in {}",
        prepared.train.len(),
        prepared.valid.len(),
        prepared.tokenizer.vocab_size(),
        prepared.directory.display()
    ));
    Ok(prepared)
}

/// Makes a prepared directory at `output`, which must not exist, of `texts` one after the other,
/// which stand for `data.train_file`: what `infinity tokenize` does.
pub fn tokenize_to(
    texts: &[PathBuf],
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    output: &Path,
    notify: &mut dyn FnMut(String),
) -> Result<PreparedData, DataError> {
    let data = &DataConfig {
        train_file: texts.first().cloned().unwrap_or_default(),
        ..data.clone()
    };
    data.validate()?;
    names_text(data)?;
    if output.exists() {
        return Err(DataError::Unusable(format!(
            "{} already exists; name another directory, or delete it",
            output.display()
        )));
    }
    Inputs::find("INPUT", texts, data, tokenizer, notify)?.build(output, notify)
}

/// The tokenizer that [`prepare`] will give, where that is known before any text is read.
pub(crate) fn known_tokenizer(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
) -> Result<Option<Tokenizer>, DataError> {
    if data.source.task().is_some() {
        return Ok(None);
    }
    if names_tokens(data) {
        let file = data.train_file.join(TOKENIZER_FILE);
        return Ok(Some(Tokenizer::from_file(file)?));
    }
    tokenize::fixed(tokenizer, tokenizer.resolve()?)
}

/// Whether `directory` was made by [`tokenize_to`] or [`prepare`].
pub fn is_prepared(directory: &Path) -> bool {
    directory.join(META_FILE).is_file() && directory.join(TOKENIZER_FILE).is_file()
}

fn names_text(data: &DataConfig) -> Result<(), DataError> {
    if data.source == DataSource::Files && data.train_file.as_os_str().is_empty() {
        let hint = "name a .txt, .jsonl or .csv file or a directory of them (--train-file)";
        return Err(DataError::not_set("data.train_file", hint));
    }
    Ok(())
}

fn names_tokens(data: &DataConfig) -> bool {
    data.source == DataSource::Files && is_prepared(&data.train_file)
}

/// Opens a prepared directory.
///
/// # Errors
/// A file is missing, truncated, or not the one that was written.
pub fn open_prepared(directory: &Path) -> Result<PreparedData, DataError> {
    let meta = PreparedMeta::read(directory)?;
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
fn given(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<PreparedData, DataError> {
    let kind = tokenizer.resolve()?;
    let validation = &data.validation_file;
    if !validation.as_os_str().is_empty() {
        let reason =
            "`data.train_file` is a prepared directory, which has its own validation split";
        return bad("data.validation_file", validation.display(), reason);
    }
    let prepared = open_prepared(&data.train_file)?;
    if !data.messages_column.is_empty() && !prepared.train.text.marked {
        let reason =
            "data.train_file names tokens of a text, in which no answers are marked: name the rows";
        return bad("data.messages_column", &data.messages_column, reason);
    }
    let found = prepared.meta.tokenizer_kind;
    let (same, wanted) = match kind {
        // The default asks for nothing in particular.
        _ if *tokenizer == TokenizerConfig::default() => return Ok(prepared),
        TokenizerKind::File => {
            let json = tokenize::from_file(tokenizer)?.to_json()?;
            let same = Fingerprint::matches(&prepared.meta.tokenizer_hash, json);
            (same, tokenizer.path.display().to_string())
        }
        kind => (kind == found, kind.name()),
    };
    match same {
        true => Ok(prepared),
        false => Err(DataError::Unusable(format!(
            "{} was made with another tokenizer ({}) than the configuration asks for ({wanted}); tokenize again, or \
             set [tokenizer] accordingly",
            data.train_file.display(),
            found.name()
        ))),
    }
}

/// The directory in the cache that stands for this configuration, made when it is not there or old.
fn cached(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    notify: &mut dyn FnMut(String),
) -> Result<PreparedData, DataError> {
    let texts = std::slice::from_ref(&data.train_file);
    let inputs = Inputs::find("data.train_file", texts, data, tokenizer, notify)?;
    let directory = data.cache_dir.join(inputs.entry_name());
    if directory.exists() {
        match inputs.change(&directory)? {
            None => return open_prepared(&directory),
            Some(reason) => notify(format!("{reason}: making {} again", directory.display())),
        }
    }
    inputs.build(&directory, notify)
}

fn check_lengths(data: &DataConfig, prepared: &PreparedData) -> Result<(), DataError> {
    let window = data.max_seq_length;
    let (tokens, held_out) = (prepared.train.len(), prepared.valid.len());
    let wanted = data.val_fraction.is_none_or(|fraction| fraction > 0.0);
    let (split, more, tokens) = if held_out <= window as u64 && (wanted || held_out > 0) {
        ("validation", data.more_validation(), held_out)
    } else if tokens <= window as u64 && data.packing != Packing::Documents {
        ("training", "more text", tokens)
    } else {
        return Ok(());
    };
    Err(DataError::too_short(split, more, tokens, window))
}

/// A tenth is enough to judge a small text by; of a large one, so many characters are.
const MANY_CHARS: f64 = 1e6;
const SMALL_FRACTION: f64 = 0.1;
const LARGE_FRACTION: f64 = 0.005;

/// The text of both splits, and what makes tokens of it.
struct Inputs<'a> {
    data: &'a DataConfig,
    config: &'a TokenizerConfig,
    kind: TokenizerKind,
    /// The tokenizer, where it does not depend on the text.
    fixed: Option<Tokenizer>,
    train: Sources,
    /// Absent when validation is the end of the training text.
    validation: Option<Sources>,
}

impl<'a> Inputs<'a> {
    /// Finds the text, without reading files of the user; messages about `texts` blame `key`.
    fn find(
        key: &'static str,
        texts: &[PathBuf],
        data: &'a DataConfig,
        config: &'a TokenizerConfig,
        notify: &mut dyn FnMut(String),
    ) -> Result<Self, DataError> {
        let kind = config.resolve()?;
        let template = templates::template(data, config)?;
        let (train, validation) = match data.source {
            DataSource::Files => files(key, texts, data, template, notify)?,
            DataSource::Stories => {
                let told = |part| Sources::of_stories(Stories::new(&data.stories, part));
                (told(Part::Train), Some(told(Part::HeldOut)))
            }
            _ => crates(data, notify)?,
        };
        Ok(Self {
            data,
            config,
            kind,
            fixed: tokenize::fixed(config, kind)?,
            train,
            validation,
        })
    }

    /// Name in the cache: readable, and different for every configuration that gives other tokens.
    fn entry_name(&self) -> String {
        let Self { data, config, .. } = self;
        let kind = self.kind.name();
        let absolute = |path: &Path| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
            path.display().to_string()
        };
        // The algorithm of earlier versions, whose entries are found again.
        let mut hash = Fingerprint::like("");
        hash.field(&kind)
            .field(absolute(&config.path))
            .field(config.train_bpe.to_le_bytes())
            .field(absolute(&data.train_file))
            .field(absolute(&data.validation_file))
            .field(&data.text_column)
            .field(format!("{:?} {}", data.val_fraction, data.append_eos))
            .field(data.train_crates.join(" "))
            .field(data.validation_crates.join(" "));
        if data.source == DataSource::Stories {
            hash.field(format!("{:?}", data.stories));
        }
        if config.add_special_tokens {
            hash.field("add_special_tokens");
        }
        if let Some(template) = &self.train.column.template {
            hash.field(&data.messages_column)
                .field(format!("{template:?}"));
        }
        let stem = match data.source {
            DataSource::Files => data.train_file.file_stem().unwrap_or_default(),
            DataSource::Stories => "stories".as_ref(),
            _ => "crates".as_ref(),
        };
        let stem = stem.to_string_lossy();
        let plain = stem
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_".contains(*c));
        let stem: String = plain.take(40).collect();
        format!("{stem}-{kind}-{}", hash.hex())
    }

    /// Why the cached directory is not what would be made now; nothing if it is.
    fn change(&self, directory: &Path) -> Result<Option<&'static str>, DataError> {
        let meta = PreparedMeta::read(directory)?;
        if let Some(tokenizer) = &self.fixed
            && !Fingerprint::matches(&meta.tokenizer_hash, tokenizer.to_json()?)
        {
            return Ok(Some("the tokenizer changed"));
        }
        if source_changed(&self.train, &meta.source)? {
            return Ok(Some("the training text changed"));
        }
        let validation_changed = match (&self.validation, &meta.validation_source) {
            (None, None) => false,
            (Some(sources), Some(meta)) => source_changed(sources, meta)?,
            _ => true,
        };
        Ok(validation_changed.then_some("the validation text changed"))
    }

    /// Makes the directory, under another name until it is complete. Replaces one that is there.
    fn build(
        self,
        directory: &Path,
        notify: &mut dyn FnMut(String),
    ) -> Result<PreparedData, DataError> {
        // Before any text is read: there may be no place to write it.
        let failed = DataError::write(directory);
        let partial = PartialDirectory::create(directory).map_err(failed)?;
        let mut alphabet = (self.kind == TokenizerKind::Char).then(Alphabet::default);
        let mut scan = |sources| scan(sources, alphabet.as_mut(), Fingerprint::default());
        let (source, chars) = scan(&self.train)?;
        let held_out = self.validation.as_ref().map(scan).transpose()?;
        let (validation_source, held_out_chars) = held_out.unzip();
        let documents = validation_source.iter().chain([&source]);
        let documents: u64 = documents.map(|source| source.documents).sum();
        let total_chars = chars + held_out_chars.unwrap_or(0);
        notify(format!(
            "read {documents} documents, {total_chars} characters"
        ));

        let train_chars = match self.validation {
            // A file that grew since it was counted must not leak into the validation of another file.
            Some(_) => u64::MAX,
            None => train_chars(chars, self.data.val_fraction),
        };
        let entries = self.config.train_bpe;
        let tokenizer = match (&self.fixed, &alphabet) {
            (Some(tokenizer), _) => tokenizer.clone(),
            (None, Some(alphabet)) => alphabet.tokenizer(),
            (None, None) => {
                notify(format!("learning a BPE tokenizer of {entries} entries"));
                // Validation must stay unseen.
                let texts = (self.train.parted(train_chars))
                    .take_while(|part| !matches!(part, Ok((false, _))))
                    .map(|part| Ok(part?.1.text));
                let (tokenizer, cut) = tokenize::train_bpe(texts, entries)?;
                if cut > 0 {
                    notify(format!(
                        "{cut} words of more than {LONGEST_WORD} characters are cut for learning the tokenizer"
                    ));
                }
                tokenizer
            }
        };

        let limits = [train_chars, total_chars];
        let (train, validation) = self.write_splits(limits, &tokenizer, partial.path(), notify)?;
        tokenizer.save(partial.path().join(TOKENIZER_FILE))?;
        let meta = PreparedMeta {
            format_version: FORMAT_VERSION,
            tokenizer_kind: self.kind,
            tokenizer_hash: fingerprint(tokenizer.to_json()?),
            vocab_size: tokenizer.vocab_size(),
            eos_id: tokenizer.eos_id(),
            source,
            validation_source,
            train,
            validation,
        };
        meta.write(partial.path())?;
        partial.rename_to(directory).map_err(failed)?;
        open_prepared(directory)
    }

    /// Tokenizes the first `train_chars` characters of the training text, and what is for validation.
    fn write_splits(
        &self,
        [train_chars, total_chars]: [u64; 2],
        tokenizer: &Tokenizer,
        directory: &Path,
        notify: &mut dyn FnMut(String),
    ) -> Result<(SplitMeta, SplitMeta), DataError> {
        let chat = self.train.column.template.is_some();
        let mut train = SplitWriter::create(directory, "train", tokenizer, chat)?;
        let mut validation = SplitWriter::create(directory, "val", tokenizer, chat)?;
        let (mut chars, mut told) = (0, 0);
        let texts = [
            (Some(&self.train), train_chars),
            (self.validation.as_ref(), 0),
        ];
        for (sources, limit) in texts {
            for part in sources.into_iter().flat_map(|all| all.parted(limit)) {
                let (learned, fragment) = part?;
                chars += fragment.text.chars().count() as u64;
                // Told every few million characters.
                if chars >= told + (1 << 22) || chars == total_chars {
                    told = chars;
                    notify(format!("tokenized {chars} of {total_chars} characters"));
                }
                let split = if learned { &mut train } else { &mut validation };
                split.push(fragment)?;
            }
        }
        let (train, dropped) = train.finish(self.data.append_eos)?;
        let (validation, also_dropped) = validation.finish(self.data.append_eos)?;
        let dropped = dropped.and(also_dropped);
        dropped.check()?;
        if let Some(first) = dropped.first {
            notify(format!(
                "warning: the tokenizer has no tokens for {} of {} characters, which are left out; the first is {first:?}",
                dropped.characters, dropped.of
            ));
        }
        Ok((train, validation))
    }
}

/// Compares names, lengths and times first; contents only when these differ.
fn source_changed(sources: &Sources, meta: &SourceMeta) -> Result<bool, DataError> {
    if let Some(hash) = &sources.known {
        return Ok(*hash != meta.hash);
    }
    if sources.files == meta.files {
        return Ok(false);
    }
    let (now, _) = scan(sources, None, Fingerprint::like(&meta.hash))?;
    Ok(now.hash != meta.hash)
}

/// How many of `chars` characters are for training, the rest being validation.
fn train_chars(chars: u64, val_fraction: Option<f64>) -> u64 {
    let chars = chars as f64;
    let usual = (MANY_CHARS / chars).clamp(LARGE_FRACTION, SMALL_FRACTION);
    let fraction = val_fraction.unwrap_or(usual);
    // 1 − 0.1 is exactly 0.9, and rounding down makes this the split that nanoGPT's data scripts make.
    ((1.0 - fraction) * chars).floor() as u64
}

/// Reads everything once: what it is, and how many characters it has. `hash` is the empty hash to take fingerprints with.
fn scan(
    sources: &Sources,
    mut alphabet: Option<&mut Alphabet>,
    mut hash: Fingerprint,
) -> Result<(SourceMeta, u64), DataError> {
    let (mut documents, mut chars) = (0, 0);
    let seen = Seen::default();
    for fragment in sources.read(hash.clone(), seen.clone()) {
        let fragment = fragment?;
        documents += u64::from(fragment.ends_document);
        chars += fragment.text.chars().count() as u64;
        if let Some(alphabet) = &mut alphabet {
            alphabet.extend(&fragment.text);
        }
    }
    if chars == 0 {
        return Err(DataError::empty(&sources.root));
    }
    for file in &*seen.lock().unwrap_or_else(PoisonError::into_inner) {
        hash.field(file.hex());
    }
    let (hash, files) = match &sources.known {
        // Files of dependencies are named by the lock file; their paths mean nothing elsewhere.
        Some(known) => (known.clone(), Vec::new()),
        None => (hash.hex(), sources.files.clone()),
    };
    let source = SourceMeta {
        hash,
        documents,
        files,
    };
    Ok((source, chars))
}

/// Both splits of the user's files.
fn files(
    key: &'static str,
    texts: &[PathBuf],
    data: &DataConfig,
    template: Option<ChatTemplate>,
    notify: &mut dyn FnMut(String),
) -> Result<(Sources, Option<Sources>), DataError> {
    let column = match template {
        Some(_) => &data.messages_column,
        None => &data.text_column,
    };
    let found = |key, texts| {
        let found = Sources::concatenated(key, texts, column)?;
        Ok::<_, DataError>(found.written_by(template.clone()))
    };
    let held_out = std::slice::from_ref(&data.validation_file);
    let validation = match data.validation_file.as_os_str().is_empty() {
        true => None,
        false => Some(found("data.validation_file", held_out)?),
    };
    let train = found(key, texts)?;
    let all = std::iter::once(&train).chain(&validation);
    let skipped = all.flat_map(|sources| &sources.skipped);
    let skipped: Vec<String> = skipped.map(|path| path.display().to_string()).collect();
    if !skipped.is_empty() {
        notify(format!(
            "not read, because runs, models and token files are no text: {}",
            skipped.join(", ")
        ));
    }
    Ok((train, validation))
}

/// Both splits of the sources of dependencies.
fn crates(
    data: &DataConfig,
    notify: &mut dyn FnMut(String),
) -> Result<(Sources, Option<Sources>), DataError> {
    let here = env::current_dir().map_err(DataError::read(Path::new(".")))?;
    let workspace = CargoWorkspace::find(&here)?;
    let mut found = |key, names: &[String]| {
        let (sources, crates) = workspace.sources(key, names)?;
        let skipped = match sources.skipped.len() {
            0 => String::new(),
            n => format!(", {n} that are not UTF-8 left out"),
        };
        notify(format!(
            "{key}: {} in {} files{skipped} (content {})",
            crates.join(", "),
            sources.files.len(),
            sources.known.as_deref().unwrap_or_default()
        ));
        Ok::<_, DataError>((sources, crates))
    };
    let (train, crates) = found("data.train_crates", &data.train_crates)?;
    if data.validation_crates.is_empty() {
        return Ok((train, None));
    }
    let key = "data.validation_crates";
    let (validation, held_out) = found(key, &data.validation_crates)?;
    match held_out.iter().find(|name| crates.contains(name)) {
        Some(both) => bad(key, both, "is also in `data.train_crates`"),
        None => Ok((train, Some(validation))),
    }
}
