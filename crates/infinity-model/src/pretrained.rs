//! A model directory, laid out as Hugging Face's tools do it.
//!
//! ```text
//! config.json             the model's shape; required
//! model.safetensors       the weights, PyTorch's names and layout; or, in several files,
//!                         model-00001-of-00002.safetensors, … with model.safetensors.index.json
//! generation_config.json  how to generate; defaults if not there
//! tokenizer.json          the tokenizer; a model without one reads and writes ids
//! tokenizer_config.json   which class of Python's `transformers` loads it, and whether texts get its
//!                         special tokens
//! ```
//!
//! An adapter's directory is another one: `peft.rs`. Directories of other families' models, as their own programs write them, are read too: `model_type`
//! decides.
//!
//! The weight file is compared with the list of weights before any of it reaches a model: every
//! tensor there, in its shape, and no other.

mod back;
mod files;
mod fit;
mod foreign;
mod peft;
mod plan;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use infinity_files::PartialDirectory;
use serde_json::json;

use crate::config::ModelConfig;
use crate::error::{ConfigError, PretrainedError};
use crate::generation_config::GenerationConfig;
use crate::model::InfinityModel;
use crate::parameters::Weight;
use crate::precision::{Formats, Precision, PrecisionError};
use crate::tokenizer::Tokenizer;
pub use back::{same_network, save_like};
pub use files::is_part;
use files::{
    CONFIG, GENERATION, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, config_error, damaged, missing,
    read_error, write_error,
};
pub use fit::Fit;
use foreign::Foreign;
pub use peft::{
    AdapterSettings, base_of, copy_adapter, is_adapter, read_adapter_settings, save_adapter,
    with_adapter_of,
};
use plan::Recipe;
use read::StoredWeights;
use serde_json::Value;
pub use write::{SaveOptions, WeightFormat};

/// The key of `tokenizer_config.json` that says whether texts get the special tokens of `tokenizer.json`.
pub const ADDS_SPECIAL_TOKENS: &str = "add_special_tokens";

/// Everything that is in a model directory.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The network with its weights.
    pub model: InfinityModel,
    /// Its shape, every size written out.
    pub config: ModelConfig,
    /// Its tokenizer, if the directory has one.
    pub tokenizer: Option<Tokenizer>,
    /// How to generate.
    pub generation: GenerationConfig,
    /// What was in the files of another family's model and is not used.
    pub notes: Vec<String>,
}

/// What is in a model directory beside its weights.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its shape.
    pub config: ModelConfig,
    /// Its tokenizer, if the directory has one.
    pub tokenizer: Option<Tokenizer>,
    /// How to generate.
    pub generation: GenerationConfig,
    /// What was in the files of another family's model and is not used.
    pub notes: Vec<String>,
    names: Option<foreign::Names>,
}

impl Settings {
    /// Whether another family's program wrote the directory.
    pub fn is_of_others(&self) -> bool {
        self.names.is_some()
    }
}

/// Writes a model directory, with weights in the format of the model's parameters.
///
/// It appears whole or not at all: one that is there already is exchanged for it at once. Files that
/// are no part of a model stay; a tokenizer that was there goes when `tokenizer` is `None`.
///
/// # Errors
/// [`PretrainedError`]: the tokenizer has tokens that the model does not know, a setting is out of
/// range, or something cannot be written. What was there is there still.
pub fn save_pretrained(
    dir: &Path,
    model: &InfinityModel,
    tokenizer: Option<&Tokenizer>,
    generation: &GenerationConfig,
) -> Result<(), PretrainedError> {
    save_pretrained_with(dir, model, tokenizer, generation, &SaveOptions::default())
}

/// [`save_pretrained`] with weights in another number format, or in several files.
///
/// # Errors
/// As [`save_pretrained`], and if a weight is too large for the format.
pub fn save_pretrained_with(
    dir: &Path,
    model: &InfinityModel,
    tokenizer: Option<&Tokenizer>,
    generation: &GenerationConfig,
    options: &SaveOptions,
) -> Result<(), PretrainedError> {
    let config = model.config();
    let error_in = |name| config_error(dir.join(name));
    config.validate().map_err(error_in(CONFIG))?;
    generation.validate().map_err(error_in(GENERATION))?;
    check_vocabulary(dir, config, tokenizer)?;

    let staging = Staging::create(dir)?;
    let format = options.format.unwrap_or(WeightFormat::F32).torch_name();
    staging.text(CONFIG, &config.to_json_of(format))?;
    staging.text(GENERATION, &generation.to_json())?;
    if let Some(tokenizer) = tokenizer {
        staging.text(TOKENIZER, &tokenizer.to_json()?)?;
        staging.text(TOKENIZER_CONFIG, &tokenizer_config(tokenizer))?;
    }
    write::save_weights(staging.partial.path(), dir, model, options)?;
    staging.publish()
}

/// Reads a model directory onto a device. Weights in half precision become f32, exactly. Beside the
/// model itself, loading takes memory for a small part of one tensor.
///
/// ```
/// use infinity_model::burn::tensor::Device;
/// use infinity_model::{GenerationConfig, ModelConfig, Tokenizer, from_pretrained, save_pretrained};
///
/// # let folder = tempfile::tempdir()?;
/// # let dir = folder.path().join("model");
/// let model = ModelConfig::new(257).with_hidden_size(16).init(&Device::flex());
/// save_pretrained(&dir, &model, Some(&Tokenizer::bytes()), &GenerationConfig::default())?;
/// let loaded = from_pretrained(&dir, &Device::flex())?;
/// assert_eq!(loaded.model.config(), &model.config().resolved());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`PretrainedError`]: a file is missing, damaged, or does not fit `config.json`. The message
/// names the file, and the tensors or keys in it.
pub fn from_pretrained(dir: &Path, device: &Device) -> Result<Pretrained, PretrainedError> {
    from_pretrained_in(dir, Precision::F32, device)
}

/// [`from_pretrained`] of a model that computes in `precision`, with its parameters in the formats that this takes:
/// those in half precision are never there in f32.
///
/// # Errors
/// As [`from_pretrained`], and if the device cannot hold the parameters.
pub fn from_pretrained_in(
    dir: &Path,
    precision: Precision,
    device: &Device,
) -> Result<Pretrained, PretrainedError> {
    let unheld = |error: PrecisionError| PretrainedError::Precision(error.to_string());
    Formats::new(precision, device)
        .check(device)
        .map_err(unheld)?;
    let settings = read_settings(dir)?;
    let stored = StoredWeights::open(dir)?;
    let config = &settings.config;
    let model = match &settings.names {
        Some(names) => plan::load(
            &stored,
            config,
            (precision, device),
            |weight| names.recipe(&stored, weight),
            |name| names.ignores(name),
        ),
        None => {
            let itself = |weight: &Weight| Recipe::whole(weight.name.clone(), weight.shape[0]);
            plan::load(&stored, config, (precision, device), itself, |_| false)
        }
    }?;
    Ok(Pretrained {
        model: model.with_precision(precision).map_err(unheld)?,
        config: settings.config,
        tokenizer: settings.tokenizer,
        generation: settings.generation,
        notes: settings.notes,
    })
}

/// Reads everything in a model directory but its weights.
///
/// # Errors
/// [`PretrainedError`]: a file is missing or damaged, or belongs to a network that is not there.
pub fn read_settings(dir: &Path) -> Result<Settings, PretrainedError> {
    if !dir.is_dir() {
        return Err(PretrainedError::NotADirectory(dir.into()));
    }
    let (config, foreign) = parse(&dir.join(CONFIG), understood)?
        .ok_or_else(|| missing(dir, CONFIG, "it says which network the weights belong to"))?;
    let (mut notes, path) = (Vec::new(), dir.join(GENERATION));
    let mut generation = match &foreign {
        None => parse(&path, GenerationConfig::from_json)?.unwrap_or_default(),
        Some(foreign) => {
            notes.extend_from_slice(&foreign.notes);
            let read = parse(&path, GenerationConfig::from_json_of_others)?;
            let unknown = read.iter().flat_map(|(_, unknown)| unknown);
            notes.extend(
                unknown.map(|key| format!("{GENERATION}: {key} is not known and not used")),
            );
            read.map_or_else(GenerationConfig::of_others, |(generation, _)| generation)
        }
    };
    let path = dir.join(TOKENIZER);
    let tokenizer = path.exists().then(|| Tokenizer::from_file(&path));
    let tokenizer = tokenizer.transpose()?;
    let object = |text: &str| Ok(serde_json::from_str(text.trim_start_matches('\u{feff}'))?);
    let about = match parse(&dir.join(TOKENIZER_CONFIG), object) {
        // Never needed of ours: this program writes it for others.
        Err(_) if foreign.is_none() => Value::Null,
        about => about?.unwrap_or_default(),
    };
    let eos = &about["eos_token"];
    let eos = eos.as_str().or_else(|| eos.get("content")?.as_str());
    let tokenizer = tokenizer.map(|tokenizer| match (&foreign, eos) {
        (Some(_), Some(eos)) => tokenizer.with_special_tokens(true).with_eos(eos),
        (Some(_), None) => tokenizer.with_special_tokens(true),
        // Ours alone: whether texts get the special tokens of `tokenizer.json`.
        (None, _) => tokenizer.with_special_tokens(about[ADDS_SPECIAL_TOKENS] == true),
    });
    if let Some(foreign) = &foreign
        && generation.eos_token_id.is_empty()
    {
        let named = tokenizer.as_ref().and_then(Tokenizer::eos_id);
        let mut ends = foreign.ends.clone();
        ends.extend(named.filter(|id| !ends.contains(id)));
        generation.eos_token_id = ends;
    }
    check_vocabulary(dir, &config, tokenizer.as_ref())?;
    Ok(Settings {
        config,
        tokenizer,
        generation,
        notes,
        names: foreign.map(|foreign| foreign.names),
    })
}

/// Reads the text of a `config.json`, of this program's or of another family's model.
///
/// # Errors
/// As [`ModelConfig::from_json`], and for a family that is not read or a value that it cannot be run with.
pub fn config_from_json(text: &str) -> Result<ModelConfig, ConfigError> {
    understood(text).map(|(config, _)| config)
}

/// What a `config.json` says, and the family that it is from if that is another.
fn understood(text: &str) -> Result<(ModelConfig, Option<Foreign>), ConfigError> {
    Ok(match Foreign::read(text)? {
        Some(foreign) => (foreign.config.clone(), Some(foreign)),
        None => (ModelConfig::from_json(text)?, None),
    })
}

/// Reads and parses a file; `None` if there is no such file.
fn parse<T>(
    path: &Path,
    from_json: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Option<T>, PretrainedError> {
    match fs::read_to_string(path) {
        Ok(text) => from_json(&text)
            .map(Some)
            .map_err(config_error(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(read_error(path, source)),
    }
}

/// Every token of the tokenizer must have a row in the embedding. Rows without a token are usual
/// (vocabularies are padded to a multiple of 64) and never drawn.
fn check_vocabulary(
    dir: &Path,
    config: &ModelConfig,
    tokenizer: Option<&Tokenizer>,
) -> Result<(), PretrainedError> {
    match tokenizer.map(Tokenizer::vocab_size) {
        Some(tokens) if tokens > config.vocab_size => {
            let most = config.vocab_size;
            let reason = format!(
                "the tokenizer has {tokens} tokens, but model.vocab_size is only {most}: \
                 they do not belong together"
            );
            Err(damaged(dir, reason))
        }
        _ => Ok(()),
    }
}

/// Puts the chat template in the file `from` into the model directory `dir`.
///
/// # Errors
/// [`PretrainedError`]: one cannot be read, or the other not written.
pub fn copy_template(dir: &Path, from: &Path) -> Result<(), PretrainedError> {
    let text = fs::read(from).map_err(|source| read_error(from, source))?;
    let path = dir.join(TEMPLATE);
    infinity_files::write(&path, &text).map_err(|source| write_error(&path, source))
}

/// What the directory `from` of a tokenizer says of conversations, by the names of its files: its special tokens, and its
/// chat template. What is not there is no error.
pub fn conversations(from: &Path, tokenizer: Option<&Tokenizer>) -> Vec<(&'static str, String)> {
    let begins = tokenizer.is_some_and(Tokenizer::adds_special_tokens);
    let read = |name| Some((name, fs::read_to_string(from.join(name)).ok()?));
    let files = [TOKENIZER_CONFIG, TEMPLATE].into_iter().filter_map(read);
    let files = files.map(|(name, text)| match serde_json::from_str::<Value>(&text) {
        Ok(mut value) if begins && name == TOKENIZER_CONFIG && value.is_object() => {
            value[ADDS_SPECIAL_TOKENS] = true.into();
            (name, format!("{value:#}\n"))
        }
        _ => (name, text),
    });
    files.collect()
}

/// Puts into the model directory `dir` what the directory `from` of the same tokenizer says of [`conversations`].
///
/// # Errors
/// [`PretrainedError::Write`].
pub fn copy_conversations(
    dir: &Path,
    from: &Path,
    tokenizer: Option<&Tokenizer>,
) -> Result<(), PretrainedError> {
    for (name, text) in conversations(from, tokenizer) {
        let path = dir.join(name);
        let written = infinity_files::write(&path, text.as_bytes());
        written.map_err(|source| write_error(&path, source))?;
    }
    Ok(())
}

fn tokenizer_config(tokenizer: &Tokenizer) -> String {
    let eos = tokenizer.eos_id().and_then(|id| tokenizer.token(id));
    let mut value = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "clean_up_tokenization_spaces": false,
    });
    if tokenizer.adds_special_tokens() {
        value[ADDS_SPECIAL_TOKENS] = true.into();
    }
    format!("{value:#}\n")
}

/// A directory being written, under a temporary name; removed if it is not published.
struct Staging {
    partial: PartialDirectory,
    target: PathBuf,
}

impl Staging {
    fn create(target: &Path) -> Result<Self, PretrainedError> {
        let failed = |source| write_error(target, source);
        // Where a link leads, the directory is exchanged and the link stays.
        let target = match target.canonicalize() {
            Ok(real) if !real.is_dir() => return Err(failed(io::ErrorKind::NotADirectory.into())),
            Ok(real) if std::env::current_dir().is_ok_and(|here| here.starts_with(&real)) => {
                let reason = "it is, or holds, the directory this program was started in";
                return Err(failed(io::Error::other(reason)));
            }
            Ok(real) => real,
            Err(_) => target.to_owned(),
        };
        Ok(Self {
            partial: PartialDirectory::create(&target).map_err(failed)?,
            target,
        })
    }

    fn text(&self, name: &str, text: &str) -> Result<(), PretrainedError> {
        let written = infinity_files::write(&self.partial.path().join(name), text.as_bytes());
        written.map_err(|source| write_error(&self.target.join(name), source))
    }

    fn publish(self) -> Result<(), PretrainedError> {
        let Self { partial, target } = self;
        let kept = partial.keep_from(&target, &|name| !is_part(name));
        let published = kept.and_then(|()| partial.rename_to(&target));
        published.map_err(|source| write_error(&target, source))
    }
}
