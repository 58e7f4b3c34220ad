//! A model directory, laid out as Hugging Face's tools do it.
//!
//! ```text
//! config.json             the model's shape; required
//! model.safetensors       the weights, PyTorch's names and layout; required
//! generation_config.json  how to generate; defaults if not there
//! tokenizer.json          the tokenizer; a model without one reads and writes ids
//! tokenizer_config.json   which class of Python's `transformers` loads it; written, never read
//! ```
//!
//! The weight file is compared with the list of [`weights`] before any of it reaches a model: every
//! tensor there, in its shape, and no other.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use burn::prelude::*;
use burn::store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, SafetensorsStore,
};
use burn::tensor::DType;
use infinity_files::PartialDirectory;
use serde_json::json;

use crate::config::ModelConfig;
use crate::error::PretrainedError;
use crate::generation_config::GenerationConfig;
use crate::model::InfinityModel;
use crate::parameters::weights;
use crate::tokenizer::Tokenizer;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

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
}

/// Writes a model directory.
///
/// A new directory appears whole or not at all. In one that is there already, each file is
/// replaced whole, one after the other; a tokenizer that was there goes when `tokenizer` is `None`,
/// and files that are no part of a model stay.
///
/// # Errors
/// [`PretrainedError`]: the tokenizer has tokens that the model does not know, a setting is out of
/// range, or something cannot be written.
pub fn save_pretrained(
    dir: &Path,
    model: &InfinityModel,
    tokenizer: Option<&Tokenizer>,
    generation: &GenerationConfig,
) -> Result<(), PretrainedError> {
    let path = |name: &str| dir.join(name);
    let config = model.config();
    config
        .validate()
        .map_err(|source| PretrainedError::Config {
            path: path(CONFIG),
            source,
        })?;
    generation
        .validate()
        .map_err(|source| PretrainedError::Config {
            path: path(GENERATION),
            source,
        })?;
    check_vocabulary(dir, config, tokenizer)?;

    let staging = Staging::create(dir)?;
    staging.text(CONFIG, &config.to_json())?;
    staging.text(GENERATION, &generation.to_json())?;
    if let Some(tokenizer) = tokenizer {
        staging.text(TOKENIZER, &tokenizer.to_json()?)?;
        staging.text(TOKENIZER_CONFIG, &tokenizer_config(tokenizer))?;
    }
    staging.write(WEIGHTS, |path| save_weights(path, model))?;
    staging.publish()
}

/// Reads a model directory onto a device. Weights in half precision become f32.
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
    if !dir.is_dir() {
        return Err(PretrainedError::NotADirectory { path: dir.into() });
    }
    let config = parse(&dir.join(CONFIG), ModelConfig::from_json)?
        .ok_or_else(|| missing(dir, CONFIG, "it says which network the weights belong to"))?;
    let generation = parse(&dir.join(GENERATION), GenerationConfig::from_json)?.unwrap_or_default();
    let tokenizer_path = dir.join(TOKENIZER);
    let tokenizer = tokenizer_path
        .exists()
        .then(|| Tokenizer::from_file(&tokenizer_path))
        .transpose()?;
    check_vocabulary(dir, &config, tokenizer.as_ref())?;

    let weights_path = dir.join(WEIGHTS);
    if !weights_path.exists() {
        let why = if dir.join("model.safetensors.index.json").exists() {
            "weights in several files cannot be loaded: join them into one"
        } else {
            "it holds the weights"
        };
        return Err(missing(dir, WEIGHTS, why));
    }
    let model = load_weights(&weights_path, &config, device)?;
    Ok(Pretrained {
        model,
        config,
        tokenizer,
        generation,
    })
}

fn missing(dir: &Path, name: &str, why: &str) -> PretrainedError {
    PretrainedError::MissingFile {
        path: dir.join(name),
        why: why.into(),
    }
}

/// Reads and parses a file; `None` if there is no such file.
fn parse<T>(
    path: &Path,
    from_json: impl Fn(&str) -> Result<T, crate::error::ConfigError>,
) -> Result<Option<T>, PretrainedError> {
    match fs::read_to_string(path) {
        Ok(text) => from_json(&text)
            .map(Some)
            .map_err(|source| PretrainedError::Config {
                path: path.into(),
                source,
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PretrainedError::Read {
            path: path.into(),
            source,
        }),
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
        Some(tokens) if tokens > config.vocab_size => Err(PretrainedError::Vocabulary {
            path: dir.into(),
            tokenizer: tokens,
            model: config.vocab_size,
        }),
        _ => Ok(()),
    }
}

fn tokenizer_config(tokenizer: &Tokenizer) -> String {
    let eos = tokenizer.eos_id().and_then(|id| tokenizer.token(id));
    let value = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "clean_up_tokenization_spaces": false,
    });
    format!("{value:#}\n")
}

/// A directory being written, under a temporary name; removed if it is not published.
struct Staging {
    partial: PartialDirectory,
    target: PathBuf,
}

impl Staging {
    fn create(target: &Path) -> Result<Self, PretrainedError> {
        // Inside an existing directory, so that files only change their name in the end.
        let partial = match target.is_dir() {
            true => PartialDirectory::create(&target.join("model")),
            false => PartialDirectory::create(target),
        };
        Ok(Self {
            partial: partial.map_err(|source| write_error(target, source))?,
            target: target.into(),
        })
    }

    /// A file on its way to the target. Errors name where it was to go.
    fn write(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), PretrainedError> {
        write(&self.partial.path().join(name))
            .map_err(|source| write_error(&self.target.join(name), source))
    }

    fn text(&self, name: &str, text: &str) -> Result<(), PretrainedError> {
        self.write(name, |path| infinity_files::write(path, text.as_bytes()))
    }

    fn publish(self) -> Result<(), PretrainedError> {
        let Self { partial, target } = self;
        if !target.is_dir() {
            return (partial.rename_to(&target)).map_err(|source| write_error(&target, source));
        }
        for name in [TOKENIZER, TOKENIZER_CONFIG, GENERATION, CONFIG, WEIGHTS] {
            let (staged, path) = (partial.path().join(name), target.join(name));
            let replaced = match (staged.exists(), path.exists()) {
                (true, _) => fs::rename(&staged, &path),
                (false, true) => fs::remove_file(&path),
                (false, false) => Ok(()),
            };
            replaced.map_err(|source| write_error(&path, source))?;
        }
        Ok(())
    }
}

fn write_error(path: &Path, source: io::Error) -> PretrainedError {
    PretrainedError::Write {
        path: path.into(),
        source,
    }
}

/// Writes the weights.
///
/// The store writes to a temporary file, which its owner alone may read, and renames it. A model
/// has the permissions of any new file instead: those that the process's umask leaves.
fn save_weights(path: &Path, model: &InfinityModel) -> io::Result<()> {
    let permissions = File::create(path)?.metadata()?.permissions();
    let mut store = SafetensorsStore::from_file(path)
        .overwrite(true)
        .clear_metadata()
        .metadata("format", "pt")
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true);
    // The store says what went wrong in words of its own layers around the system's.
    (model.save_into(&mut store)).map_err(|error| io::Error::other(error.to_string()))?;
    fs::set_permissions(path, permissions)?;
    File::open(path)?.sync_all()
}

/// Builds the model of `config` with the weights of the file.
fn load_weights(
    path: &Path,
    config: &ModelConfig,
    device: &Device,
) -> Result<InfinityModel, PretrainedError> {
    // Reading one byte tells what the system refuses from what is wrong with the file.
    let readable = File::open(path).and_then(|mut file| file.read(&mut [0]));
    readable.map_err(|source| PretrainedError::Read {
        path: path.into(),
        source,
    })?;
    let mut store = SafetensorsStore::from_file(path)
        .with_from_adapter(PyTorchToBurnAdapter.chain(FloatCastAdapter::to(DType::F32)))
        .skip_enum_variants(true);
    check_weights(path, config, &mut store)?;
    let mut model = config.init(device);
    let result = model
        .load_from(&mut store)
        .map_err(|error| damaged(path, error))?;
    if !result.unused.is_empty() {
        return Err(damaged(
            path,
            format!("no part of the network took {:?}", result.unused),
        ));
    }
    Ok(model)
}

fn damaged(path: &Path, reason: impl ToString) -> PretrainedError {
    PretrainedError::Weights {
        path: path.into(),
        reason: reason.to_string(),
    }
}

fn check_weights(
    path: &Path,
    config: &ModelConfig,
    store: &mut SafetensorsStore,
) -> Result<(), PretrainedError> {
    let tensors = store
        .get_all_tensors()
        .map_err(|error| damaged(path, format!("it is not a whole safetensors file: {error}")))?;
    let mut unexpected: BTreeMap<&str, ()> =
        tensors.keys().map(|name| (name.as_str(), ())).collect();
    let mut problems = Problems::default();
    for weight in weights(config) {
        unexpected.remove(weight.name.as_str());
        let Some(tensor) = tensors.get(&weight.name) else {
            problems.missing.push(weight.name);
            continue;
        };
        let shape: Vec<usize> = tensor.shape.to_vec();
        if shape != weight.shape {
            problems.misshapen.push(format!(
                "{} {shape:?} instead of {:?}",
                weight.name, weight.shape
            ));
        } else if !tensor.dtype.is_float() {
            problems.misshapen.push(format!(
                "{} of {:?} instead of floats",
                weight.name, tensor.dtype
            ));
        }
    }
    problems.unexpected = unexpected.into_keys().map(str::to_owned).collect();
    problems.into_result(path)
}

/// What differs between a file and a configuration.
#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    misshapen: Vec<String>,
    unexpected: Vec<String>,
}

impl Problems {
    fn into_result(self, path: &Path) -> Result<(), PretrainedError> {
        let kinds = [
            ("missing", self.missing),
            ("wrong", self.misshapen),
            ("unexpected", self.unexpected),
        ];
        let problems: Vec<String> = kinds
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", shortened(&names)))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(PretrainedError::Mismatch {
            path: path.into(),
            problems: problems.join("; "),
        })
    }
}

/// The first names, and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
