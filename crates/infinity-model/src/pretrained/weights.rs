//! `model.safetensors`: PyTorch's names and layout, checked against the configuration.
//!
//! A file is compared with the list of [`crate::parameters::weights()`] before any of it reaches a model:
//! every tensor there, in its shape, and no other.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use burn::prelude::*;
use burn::store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, SafetensorsStore,
};
use burn::tensor::DType;

use crate::config::ModelConfig;
use crate::error::PretrainedError;
use crate::model::InfinityModel;
use crate::parameters;

/// Writes the weights.
///
/// The store writes to a temporary file, which its owner alone may read, and renames it. A model
/// has the permissions of any new file instead: those that the process's umask leaves.
pub(super) fn save(path: &Path, model: &InfinityModel) -> io::Result<()> {
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
pub(super) fn load(
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
    check(path, config, &mut store)?;
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

fn check(
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
    for weight in parameters::weights(config) {
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
