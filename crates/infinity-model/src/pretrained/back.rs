//! A model in the files of the family that it comes from: the way of the recipes, backwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::{DType, Shape, TensorData};

use super::files::{
    CONFIG, GENERATION, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, config_error, read_error,
};
use super::plan::Made;
use super::read::StoredWeights;
use super::{Settings, Staging, read_settings, write};
use crate::config::ModelConfig;
use crate::error::{ConfigError, PretrainedError};
use crate::model::InfinityModel;
use crate::parameters::weights;

/// Keys of our configuration in which a model may differ from the folder that it is written like: they are no
/// part of the network that is written.
const FREE: &[&str] = &[
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "max_half_life",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

/// Rows of a weight of ours that are rows of one of theirs.
#[derive(Clone)]
struct Rows {
    ours: PackTensor,
    from: usize,
    to: usize,
    len: usize,
    one_plus: bool,
}

/// Writes `model` as the directory `like` of another family is written, with its configuration, its tokenizer
/// and its number formats. What it has beside the network, such as an encoder of images, stays as it is there.
///
/// # Errors
/// [`PretrainedError`]: `like` is no directory of another family or of another network, or something cannot be
/// written. What was in `dir` is there still.
pub fn save_like(dir: &Path, model: &InfinityModel, like: &Path) -> Result<(), PretrainedError> {
    let Settings { config, names, .. } = read_settings(like)?;
    let refuse = || config_error(like.join(CONFIG));
    let names = names.ok_or_else(|| {
        let limit = "that of another family, to write a model like it";
        refuse()(ConfigError::unknown("model_type", "infinityformer", limit))
    })?;
    let why = "a model is written like the one that it comes from";
    same_network(model.config(), &config, why).map_err(refuse())?;
    let stored = StoredWeights::open(like)?;
    let ours = model.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    let mut made: BTreeMap<&str, Vec<Rows>> = BTreeMap::new();
    for weight in weights(&config) {
        let recipe = names.recipe(&stored, &weight);
        let tensor = ours.iter().find(|tensor| tensor.name == weight.name);
        let (Some(tensor), mut from) = (tensor, 0) else {
            continue;
        };
        for piece in &recipe.pieces {
            let Some((name, _)) = stored.tensors.get_key_value(&piece.tensor) else {
                continue;
            };
            for i in 0..piece.count {
                made.entry(name).or_default().push(Rows {
                    ours: tensor.clone(),
                    from,
                    to: piece.start + i * piece.stride,
                    len: piece.len,
                    one_plus: recipe.one_plus,
                });
                from += piece.len;
            }
        }
    }
    let written = stored.tensors.iter().filter_map(|(name, place)| {
        let shape = place.shape.clone();
        let rows = made.remove(name.as_str());
        // What is tied to a weight of ours is not written twice.
        if rows.is_none() && name == "lm_head.weight" {
            return None;
        }
        let unchanged = Made::of(place.clone());
        let data = move || match &rows {
            Some(rows) => gathered(rows, &shape),
            None => unchanged.read(false),
        };
        let shape = Shape::from(place.shape.clone());
        let data = move || data().map_err(PackError::IoError);
        let tensor = bridge::deferred(name.clone(), DType::F32, shape, None, data);
        Some((tensor, place.format()))
    });
    let staging = Staging::create(dir)?;
    write::save_tensors(staging.partial.path(), dir, written.collect(), None)?;
    for name in [CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE] {
        let path = like.join(name);
        if path.is_file() {
            let text = fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
            staging.text(name, &text)?;
        }
    }
    staging.publish()
}

/// A tensor of theirs of rows of ours.
fn gathered(all: &[Rows], shape: &[usize]) -> Result<TensorData, String> {
    let width = shape[1..].iter().product::<usize>();
    let mut values = vec![0.0; shape.iter().product()];
    for rows in all {
        let data = bridge::into_data(rows.ours.clone()).map_err(|error| error.to_string())?;
        let data: Vec<f32> = data.iter::<f32>().collect();
        let from = &data[rows.from * width..(rows.from + rows.len) * width];
        let to = &mut values[rows.to * width..(rows.to + rows.len) * width];
        for (to, from) in to.iter_mut().zip(from) {
            *to = if rows.one_plus { from - 1.0 } else { *from };
        }
    }
    Ok(TensorData::new(values, shape.to_vec()))
}

/// Refuses a model that is another network than a folder's, and says why that may not be.
///
/// # Errors
/// [`ConfigError`]: the first key that differs.
pub fn same_network(
    ours: &ModelConfig,
    theirs: &ModelConfig,
    why: &str,
) -> Result<(), ConfigError> {
    let [ours, theirs] = [ours, theirs].map(|config| config.resolved().to_object());
    let mut theirs = theirs.iter();
    match theirs.find(|(key, value)| !FREE.contains(&key.as_str()) && ours[*key] != **value) {
        None => Ok(()),
        Some((key, value)) => Err(ConfigError::conflict(
            format!("model.{key} = {}", ours[key]),
            format!("{value} in this folder"),
            why,
        )),
    }
}
