//! Adapters on the disk, as the Python package PEFT lays them out.
//!
//! ```text
//! adapter_config.json        which adapters, and which model they belong to
//! adapter_model.safetensors  `base_model.model.<module>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]
//! base.json                  ours alone: the fingerprint of that model
//! ```
//!
//! Modules have the names of the model's own family. Where a matrix of theirs is several of ours, one adapter of
//! theirs is one of each of ours, with A in common and the rows of B; several of ours are one of theirs of higher rank,
//! with every A in it and B zero where an A has no part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::store::bridge;
use burn::store::burn_pack::Error as PackError;
use burn::tensor::{DType, Shape, Tensor, TensorData};
use serde_json::{Map, Value, json};

use super::files::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE, TEMPLATE, damaged, missing, read_error, write_error,
};
use super::foreign::Names;
use super::plan::{Problems, Recipe, made};
use super::read::StoredWeights;
use super::{Staging, WeightFormat, parse, read_settings, write};
use crate::adapter::{Lora, ends_with, projection};
use crate::error::{ConfigError, PretrainedError};
use crate::lora::{Factors, factors};
use crate::model::InfinityModel;
use crate::parameters::{Weight, weights};

const BEFORE: &str = "base_model.model.";

/// What an adapter's directory says of it.
#[derive(Clone, Debug)]
pub struct AdapterSettings {
    /// The model that it belongs to, as it was written, if it was: a directory, or a name on a hub.
    pub base: Option<String>,
    /// The fingerprint of that model's weights, if a program of ours wrote the directory.
    pub fingerprint: Option<String>,
    r: usize,
    alpha: f64,
    ranks: Map<String, Value>,
    alphas: Map<String, Value>,
}

/// Where the projections of a model are among the tensors of its directory.
struct Places(Option<(Names, StoredWeights)>);

impl Places {
    /// Of the model in `base`; one that lies in no directory has our names.
    fn of(base: Option<&Path>) -> Result<Self, PretrainedError> {
        let names = base.map(read_settings).transpose()?;
        let names = names.and_then(|settings| settings.names);
        Ok(Places(match names.zip(base) {
            Some((names, base)) => Some((names, StoredWeights::open(base)?)),
            None => None,
        }))
    }

    fn recipe(&self, weight: &Weight) -> Recipe {
        match &self.0 {
            Some((names, stored)) => names.recipe(stored, weight),
            None => Recipe::whole(weight.name.clone(), weight.shape[0]),
        }
    }

    /// Modules that could have an adapter.
    fn modules(&self, model: &InfinityModel) -> BTreeSet<String> {
        let own = weights(model.config()).into_iter();
        let own = own.filter(|weight| projection(&weight.name).is_some());
        let theirs = own.flat_map(|weight| self.recipe(&weight).pieces);
        theirs.map(|piece| module(&piece.tensor)).collect()
    }
}

/// The module of a weight.
fn module(tensor: &str) -> String {
    tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned()
}

/// The last part of a module's name.
fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// One adapter of theirs in the making.
#[derive(Default)]
struct Fused {
    rows: usize,
    width: usize,
    /// Every A `[r, in]` that is in it, once.
    a: Vec<Vec<f32>>,
    /// Rows `[n, r]` of a B: which A they belong to, and where they begin.
    b: Vec<(usize, usize, Vec<f32>)>,
}

impl Fused {
    fn tensors(self, r: usize) -> [(Vec<f32>, [usize; 2]); 2] {
        let rank = self.a.len() * r;
        let mut b = vec![0.0; self.rows * rank];
        for (of, start, rows) in self.b {
            for (i, row) in rows.chunks_exact(r).enumerate() {
                b[(start + i) * rank + of * r..][..r].copy_from_slice(row);
            }
        }
        [
            (self.a.concat(), [rank, self.width]),
            (b, [self.rows, rank]),
        ]
    }
}

/// Writes the adapters of `model` for PEFT. `base` is the directory of the model that they belong to, if it is a model
/// directory, whose names they get; `shown` is what PEFT is to look for.
///
/// # Errors
/// [`PretrainedError`]: `base` cannot be read, or something cannot be written. What was in `dir` is there still.
///
/// # Panics
/// If the model has no adapters.
pub fn save_adapter(
    dir: &Path,
    model: &InfinityModel,
    base: Option<&Path>,
    shown: &Path,
    fingerprint: &str,
) -> Result<(), PretrainedError> {
    let lora = model.lora().expect("a model with adapters");
    let places = Places::of(base)?;
    let numbers = |x: Tensor<2>| x.transpose().into_data().iter::<f32>().collect::<Vec<_>>();
    let mut all: BTreeMap<String, Fused> = BTreeMap::new();
    let mut factors = factors(model);
    for weight in weights(model.config()) {
        let Some(Factors { a, b, .. }) = factors.remove(&weight.name) else {
            continue;
        };
        let (a, b, mut from) = (numbers(a), numbers(b), 0);
        for piece in places.recipe(&weight).pieces {
            let of = all.entry(module(&piece.tensor)).or_default();
            (of.rows, of.width) = (piece.of, weight.shape[1]);
            let known = of.a.iter().position(|known| *known == a);
            let which = known.unwrap_or_else(|| {
                of.a.push(a.clone());
                of.a.len() - 1
            });
            for i in 0..piece.count {
                let rows = &b[from * lora.r..(from + piece.len) * lora.r];
                of.b.push((which, piece.start + i * piece.stride, rows.to_vec()));
                from += piece.len;
            }
        }
    }
    let staging = Staging::create(dir)?;
    let config = adapter_config(lora, shown, &all, &places.modules(model));
    staging.text(ADAPTER_CONFIG, &format!("{config:#}\n"))?;
    let base = json!({ "fingerprint": fingerprint });
    staging.text(BASE, &format!("{base:#}\n"))?;
    let written = all.into_iter().flat_map(|(module, fused)| {
        let of = ["lora_A", "lora_B"].into_iter().zip(fused.tensors(lora.r));
        let of = of.map(|(part, (values, shape))| {
            let name = format!("{BEFORE}{module}.{part}.weight");
            let data = move || Ok::<_, PackError>(TensorData::new(values.clone(), shape));
            let shape = Shape::from(shape);
            let tensor = bridge::deferred(name, DType::F32, shape, None, data);
            (tensor, WeightFormat::F32)
        });
        of.collect::<Vec<_>>()
    });
    let folder = staging.partial.path();
    write::save_file(folder, dir, ADAPTER_WEIGHTS, written.collect())?;
    staging.publish()
}

/// Writes the adapters in `from` once more.
///
/// # Errors
/// [`PretrainedError`]: a file is missing, or something cannot be written. What was in `dir` is there still.
pub fn copy_adapter(dir: &Path, from: &Path) -> Result<(), PretrainedError> {
    let staging = Staging::create(dir)?;
    for name in [ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE, TEMPLATE] {
        let path = from.join(name);
        if [BASE, TEMPLATE].contains(&name) && !path.is_file() {
            continue;
        }
        let mut bytes = std::fs::read(&path).map_err(|source| read_error(&path, source))?;
        if name == ADAPTER_CONFIG
            && let Some(base) = base_of(from, &read_adapter_settings(from)?)
            && let Ok(base) = base.canonicalize()
            && let Ok(mut config) = serde_json::from_slice::<Value>(&bytes)
        {
            // A way from there leads elsewhere from here.
            config["base_model_name_or_path"] = base.to_string_lossy().into();
            bytes = format!("{config:#}\n").into_bytes();
        }
        let written = infinity_files::write(&staging.partial.path().join(name), &bytes);
        written.map_err(|source| write_error(&dir.join(name), source))?;
    }
    staging.publish()
}

/// `adapter_config.json`; modules are named by the ends of their names where all of that end have adapters of one rank.
fn adapter_config(
    lora: &Lora,
    base: &Path,
    all: &BTreeMap<String, Fused>,
    modules: &BTreeSet<String>,
) -> Value {
    let (mut targets, mut ranks, mut alphas) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for (module, fused) in all {
        let rank = fused.a.len();
        let same = |other: &String| {
            last(other) != last(module) || all.get(other).is_some_and(|of| of.a.len() == rank)
        };
        let name = match modules.iter().all(same) {
            true => last(module),
            false => module,
        };
        targets.insert(name);
        if rank != 1 {
            ranks.insert(name, rank * lora.r);
            alphas.insert(name, rank as f64 * lora.alpha);
        }
    }
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": targets,
        "rank_pattern": ranks, "alpha_pattern": alphas,
        "bias": "none", "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
        "use_rslora": false, "use_dora": false, "modules_to_save": null,
    })
}

/// Whether `dir` is an adapter's directory, and no model's.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER_CONFIG).is_file() && !dir.join(super::CONFIG).is_file()
}

/// Keys of `adapter_config.json` that decide nothing here, or nothing but how training began.
const FREE: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
];

/// Reads what an adapter's directory says of it.
///
/// # Errors
/// [`PretrainedError`]: a file is missing or damaged, or the adapter is of a kind that is not read; the message names
/// the key.
pub fn read_adapter_settings(dir: &Path) -> Result<AdapterSettings, PretrainedError> {
    let settings = parse(&dir.join(ADAPTER_CONFIG), understood)?
        .ok_or_else(|| missing(dir, ADAPTER_CONFIG, "it describes the adapter"))?;
    let fingerprint = parse(&dir.join(BASE), |text| {
        let base: Value = serde_json::from_str(text)?;
        Ok(base["fingerprint"].as_str().map(str::to_owned))
    })?;
    Ok(AdapterSettings {
        fingerprint: fingerprint.flatten(),
        ..settings
    })
}

fn understood(text: &str) -> Result<AdapterSettings, ConfigError> {
    let object: Value = serde_json::from_str(text)?;
    let unsupported = |key: &str, why| ConfigError::unsupported(key, &object[key], why);
    for (key, value) in object.as_object().into_iter().flatten() {
        let says_nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(word) => word.is_empty() || word == "none",
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let fits = match key.as_str() {
            "peft_type" => *value == "LORA",
            // Others take a part of the model's own weights away.
            "init_lora_weights" => {
                let apart = ["pissa", "olora", "corda", "loftq", "lora_ga"];
                let word = value.as_str().unwrap_or_default();
                !apart.iter().any(|kind| word.starts_with(kind))
            }
            key => says_nothing || FREE.contains(&key),
        };
        if !fits {
            let why = "adapters are read that are plain LoRA: A and B beside weights as they are";
            return Err(unsupported(key, why));
        }
    }
    let r = object["r"]
        .as_u64()
        .filter(|r| *r > 0)
        .ok_or_else(|| ConfigError::missing("r", "it is the rank, a whole number above 0"))?;
    let alpha = object["lora_alpha"].as_f64().ok_or_else(|| {
        ConfigError::missing("lora_alpha", "over the rank it is what the adapter counts")
    })?;
    let base = object["base_model_name_or_path"].as_str();
    let pattern = |key: &str| object[key].as_object().cloned().unwrap_or_default();
    for key in ["rank_pattern", "alpha_pattern"] {
        // They are regular expressions there.
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let plain = |name: &String| name.trim_start_matches('^').chars().all(is_name);
        if !pattern(key).keys().all(plain) {
            let why = "names of modules are read, or ends of them";
            return Err(unsupported(key, why));
        }
    }
    Ok(AdapterSettings {
        base: base.filter(|base| !base.is_empty()).map(str::to_owned),
        fingerprint: None,
        r: r as usize,
        alpha,
        ranks: pattern("rank_pattern"),
        alphas: pattern("alpha_pattern"),
    })
}

impl AdapterSettings {
    /// Rank and scale of the adapter of `module`.
    fn of(&self, module: &str) -> (usize, f64) {
        let named = |patterns: &Map<String, Value>| {
            let mut patterns = patterns.iter();
            let found = patterns.find(|(key, _)| ends_with(module, key.trim_start_matches('^')));
            found.and_then(|(_, value)| value.as_f64())
        };
        let r = named(&self.ranks).map_or(self.r, |r| r as usize);
        (r, named(&self.alphas).unwrap_or(self.alpha) / r as f64)
    }
}

/// `model` with the adapters in `dir`, which alone learn where it does. `base` is the directory that the model was read
/// from, if it was one.
///
/// # Errors
/// [`PretrainedError`]: a file is missing or damaged, or does not fit the model; the message names the tensors.
pub fn with_adapter_of(
    model: InfinityModel,
    base: Option<&Path>,
    dir: &Path,
) -> Result<InfinityModel, PretrainedError> {
    let settings = read_adapter_settings(dir)?;
    let path = dir.join(ADAPTER_WEIGHTS);
    if !path.is_file() {
        return Err(missing(dir, ADAPTER_WEIGHTS, "it holds the adapter"));
    }
    let stored = StoredWeights::of_file(path)?;
    let places = Places::of(base)?;
    // A model that also sees has its language model one level deeper, with or without it.
    let flat = |module: &str| module.replacen("model.language_model.", "model.", 1);
    let mut theirs: BTreeMap<String, String> = BTreeMap::new();
    let mut unknown: Vec<String> = Vec::new();
    for name in stored.tensors.keys() {
        let module = ["A", "B"].iter().find_map(|part| {
            let end = format!(".lora_{part}.weight");
            name.strip_prefix(BEFORE)?.strip_suffix(&end)
        });
        match module {
            Some(module) => drop(theirs.insert(flat(module), module.to_owned())),
            None => unknown.push(name.clone()),
        }
    }
    let (device, mut problems, mut used) = (model.device(), Problems::default(), BTreeSet::new());
    let mut found = BTreeMap::new();
    for weight in weights(model.config()) {
        if projection(&weight.name).is_none() {
            continue;
        }
        let mut recipe = places.recipe(&weight);
        let Some(piece) = recipe.pieces.first() else {
            continue;
        };
        let key = flat(&module(&piece.tensor));
        let Some(own) = theirs.get(&key) else {
            continue;
        };
        let [a, b] = ["A", "B"].map(|part| format!("{BEFORE}{own}.lora_{part}.weight"));
        let (r, scale) = settings.of(own);
        for piece in &mut recipe.pieces {
            piece.tensor.clone_from(&b);
        }
        let like = |shape: [usize; 2]| Weight {
            shape: shape.to_vec(),
            ..weight.clone()
        };
        let of_a = like([r, weight.shape[1]]);
        let of_b = like([weight.shape[0], r]);
        let a = made(&stored, &of_a, &Recipe::whole(a, r), &mut problems);
        let b = made(&stored, &of_b, &recipe, &mut problems);
        found.insert(weight.name.clone(), (a, b, scale));
        used.insert(key);
    }
    let unplaced = theirs.iter().filter(|(key, _)| !used.contains(*key));
    unknown.extend(unplaced.map(|(_, module)| module.clone()));
    problems.into_result(&stored.path, unknown)?;
    let mut factors = BTreeMap::new();
    for (name, (a, b, scale)) in found {
        let read = |made: super::plan::Made| {
            let data = made.read(true);
            let data = data.map_err(|reason| damaged(&stored.path, reason))?;
            Ok::<_, PretrainedError>(Tensor::<2>::from_data(data, &device))
        };
        let (a, b) = (read(a)?, read(b)?);
        factors.insert(name, Factors { a, b, scale });
    }
    Ok(model.with_factors(factors))
}

/// Where an adapter's directory says that its model is: as it is written, or seen from the directory.
pub fn base_of(dir: &Path, settings: &AdapterSettings) -> Option<PathBuf> {
    let written = PathBuf::from(settings.base.as_ref()?);
    let places = [written.clone(), dir.join(written)];
    places.into_iter().find(|place| place.is_dir())
}
