//! Weights on the disk: one safetensors file, or several with an index, read tensor by tensor.
//!
//! Headers are read first, and compared with what the network needs. A tensor's numbers are then read
//! in small pieces, each widened to f32 and put where the network has it, so that no second copy of
//! the weights exists while they are loaded.

use super::{INDEX, WEIGHTS, damaged, missing};
use crate::config::ModelConfig;
use crate::error::PretrainedError;
use crate::model::InfinityModel;
use crate::parameters::weights;
use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{ModuleAdapter, ModuleContext, ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{DType, Device, Shape, TensorData};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers that are read at once.
const PIECE: usize = 1 << 18;
/// Bytes of the longest header that is read.
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of a model directory, whose numbers are still on the disk.
pub(super) struct StoredWeights {
    /// The weight file, or the index of several.
    path: PathBuf,
    tensors: Arc<BTreeMap<String, Place>>,
}

/// Where a tensor is.
#[derive(Clone)]
struct Place {
    file: Arc<Shard>,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes before it in its file.
    offset: u64,
}

/// A weight file.
struct Shard {
    path: PathBuf,
    file: Mutex<File>,
}

impl StoredWeights {
    /// Reads the headers of the weight files in `dir`. A whole file is taken before an index.
    pub(super) fn open(dir: &Path) -> Result<Self, PretrainedError> {
        let (path, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        let mut tensors = BTreeMap::new();
        if path.exists() {
            tensors.extend(Shard::open(&path)?);
        } else if index.exists() {
            return Self::sharded(dir, index);
        } else {
            return Err(missing(dir, WEIGHTS, "it holds the weights"));
        }
        Ok(Self {
            path,
            tensors: Arc::new(tensors),
        })
    }

    /// Reads the headers of all files that an index names.
    fn sharded(dir: &Path, index: PathBuf) -> Result<Self, PretrainedError> {
        let refuse = |reason: String| PretrainedError::Index {
            path: index.clone(),
            reason,
        };
        let text = fs::read_to_string(&index).map_err(|source| PretrainedError::Read {
            path: index.clone(),
            source,
        })?;
        let Index { weight_map } =
            serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        // By file, so that each is opened once.
        let mut listed: BTreeMap<String, &str> = BTreeMap::new();
        for (tensor, shard) in &weight_map.0 {
            let parts = Path::new(shard).components();
            let mut parts = parts.map(|part| matches!(part, Component::Normal(_)));
            // Backslashes separate folders where this file may come from.
            let inside = !shard.is_empty() && !shard.contains('\\') && parts.all(|normal| normal);
            if !inside {
                return Err(PretrainedError::OutsideFolder {
                    path: index,
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                });
            }
            if let Some(first) = listed
                .insert(tensor.clone(), shard)
                .filter(|first| first != shard)
            {
                return Err(refuse(format!(
                    "{tensor} is in two files, {first} and {shard}"
                )));
            }
        }
        let mut shards: Vec<&str> = listed.values().copied().collect();
        shards.sort_unstable();
        shards.dedup();
        let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
        for shard in shards {
            let path = dir.join(shard);
            if !path.exists() {
                let mut of = listed.iter().filter(|(_, of)| **of == shard);
                let tensor = of
                    .next()
                    .map_or_else(String::new, |(tensor, _)| tensor.clone());
                return Err(PretrainedError::MissingShard {
                    path,
                    index,
                    tensor,
                });
            }
            for (tensor, place) in Shard::open(&path)? {
                if let Some(other) = tensors.get(&tensor) {
                    let (first, second) = (other.file.path.display(), path.display());
                    return Err(refuse(format!(
                        "{tensor} is in two files, {first} and {second}"
                    )));
                }
                match listed.get(&tensor) {
                    Some(name) if *name == shard => {}
                    Some(name) => {
                        let path = path.display();
                        return Err(refuse(format!("{tensor} is in {path} instead of {name}")));
                    }
                    None => {
                        let path = path.display();
                        return Err(refuse(format!("{tensor} in {path} is not listed")));
                    }
                }
                tensors.insert(tensor, place);
            }
        }
        if let Some((tensor, shard)) = listed.iter().find(|(name, _)| !tensors.contains_key(*name))
        {
            return Err(refuse(format!("{tensor} is not in {shard}")));
        }
        Ok(Self {
            path: index,
            tensors: Arc::new(tensors),
        })
    }

    /// Builds the model of `config` with these weights, which must be all of its and no others.
    pub(super) fn load(
        self,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<InfinityModel, PretrainedError> {
        self.check(config)?;
        let places = self.tensors.iter();
        let tensors: Vec<PackTensor> = places
            .map(|(name, place)| place.deferred(name.clone(), false))
            .collect();
        let mut model = config.unfilled(device);
        let adapter = Box::new(Streamed(Arc::clone(&self.tensors)));
        let result = model.apply(tensors, None, Some(adapter), true);
        if let Some(error) = result.errors.first() {
            return Err(damaged(&self.path, error));
        }
        if !result.missing.is_empty() || !result.unused.is_empty() {
            let reason = format!(
                "parts of the network without weights: {:?}; weights without a part: {:?}",
                result.missing, result.unused
            );
            return Err(damaged(&self.path, reason));
        }
        Ok(model)
    }

    fn check(&self, config: &ModelConfig) -> Result<(), PretrainedError> {
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        let mut others: Vec<&String> = self.tensors.keys().collect();
        for weight in weights(config) {
            if let Ok(at) = others.binary_search(&&weight.name) {
                others.remove(at);
            }
            match self.tensors.get(&weight.name) {
                None => missing.push(weight.name),
                Some(place) if place.shape != weight.shape => wrong.push(format!(
                    "{} {:?} instead of {:?}",
                    weight.name, place.shape, weight.shape
                )),
                Some(place) if !is_float(place.dtype) => wrong.push(format!(
                    "{} of {:?} instead of floats",
                    weight.name, place.dtype
                )),
                Some(_) => {}
            }
        }
        let unexpected = others.into_iter().cloned().collect();
        let kinds = [
            ("missing", missing),
            ("wrong", wrong),
            ("unexpected", unexpected),
        ];
        let problems: Vec<String> = (kinds.iter())
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", shortened(names)))
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(PretrainedError::Mismatch {
                path: self.path.clone(),
                problems: problems.join("; "),
            }),
        }
    }
}

/// The first names, and how many more there are.
pub(super) fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Shard {
    /// The tensors of a file, by its header.
    fn open(path: &Path) -> Result<Vec<(String, Place)>, PretrainedError> {
        let not_whole = |reason: String| {
            damaged(
                path,
                format!("it is not a whole safetensors file: {reason}"),
            )
        };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => not_whole("it ends in its header".to_owned()),
            _ => PretrainedError::Read {
                path: path.into(),
                source,
            },
        };
        let mut file = File::open(path).map_err(failed)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(failed)?;
        let (length, whole) = (
            u64::from_le_bytes(length),
            file.metadata().map_err(failed)?.len(),
        );
        if length > MAX_HEADER || length > whole {
            return Err(not_whole(format!(
                "a header of {length} bytes in a file of {whole}"
            )));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| not_whole(error.to_string()))?;
        let start = 8 + length;
        let ends = start + header.data_len() as u64;
        if ends != whole {
            return Err(not_whole(format!("it has {whole} bytes instead of {ends}")));
        }
        let file = Arc::new(Shard {
            path: path.into(),
            file: Mutex::new(file),
        });
        let tensors = header.tensors().into_iter().map(|(name, info)| {
            let place = Place {
                file: Arc::clone(&file),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: start + info.data_offsets.0 as u64,
            };
            (name, place)
        });
        Ok(tensors.collect())
    }
}

impl Place {
    /// The tensor in f32, read when it is asked for; `transposed` from `[out, in]` to `[in, out]`.
    fn deferred(&self, name: String, transposed: bool) -> PackTensor {
        let mut shape = self.shape.clone();
        if transposed {
            shape.reverse();
        }
        let (place, shape) = (self.clone(), Shape::from(shape));
        bridge::deferred(name, DType::F32, shape, None, move || {
            let read = place.read(transposed);
            read.map_err(|error| {
                PackError::IoError(format!("{}: {error}", place.file.path.display()))
            })
        })
    }

    fn read(&self, transposed: bool) -> io::Result<TensorData> {
        let numbers = self.shape.iter().product();
        let mut values = vec![0.0; numbers];
        // A file is never half-read: every reader begins at its own place.
        let mut file = self
            .file
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        let mut next = |into: &mut [f32]| {
            bytes.resize(into.len() * self.dtype.bitsize() / 8, 0);
            file.read_exact(&mut bytes)?;
            widen(self.dtype, &bytes, into);
            io::Result::Ok(())
        };
        if !transposed {
            for piece in values.chunks_mut(PIECE) {
                next(piece)?;
            }
            return Ok(TensorData::new(values, self.shape.clone()));
        }
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let at_once = (PIECE / columns.max(1)).clamp(1, rows.max(1));
        let mut piece = vec![0.0; at_once * columns];
        for first in (0..rows).step_by(at_once) {
            let piece = &mut piece[..at_once.min(rows - first) * columns];
            next(piece)?;
            // Down a column of the piece, so that what is written lies together.
            for column in 0..columns {
                let row = values[column * rows + first..].iter_mut();
                let numbers = piece[column..].iter().step_by(columns);
                row.zip(numbers)
                    .for_each(|(value, number)| *value = *number);
            }
        }
        Ok(TensorData::new(values, [columns, rows]))
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F64)
}

/// Little-endian numbers in f32. Those of half precision are exact, those of double are rounded.
fn widen(dtype: Dtype, bytes: &[u8], into: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], into: &mut [f32], number: impl Fn([u8; N]) -> f32) {
        for (value, bytes) in into.iter_mut().zip(bytes.as_chunks().0) {
            *value = number(*bytes);
        }
    }
    match dtype {
        Dtype::BF16 => each(bytes, into, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => each(bytes, into, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::F64 => each(bytes, into, |b| f64::from_le_bytes(b) as f32),
        _ => each(bytes, into, f32::from_le_bytes),
    }
}

/// Finds a tensor under the name that PyTorch gives it, and turns projections around.
#[derive(Clone)]
struct Streamed(Arc<BTreeMap<String, Place>>);

impl ModuleAdapter for Streamed {
    fn adapt(&self, tensor: PackTensor, context: ModuleContext<'_>) -> PackTensor {
        let projection = context.module_type() == Some("Struct:Linear") && tensor.shape.len() == 2;
        match self.0.get(&tensor.name) {
            Some(place) if projection => place.deferred(tensor.name, true),
            _ => tensor,
        }
    }

    fn get_alternative_param_name(&self, name: &str, container: &str) -> Option<String> {
        PyTorchToBurnAdapter.get_alternative_param_name(name, container)
    }

    fn clone_box(&self) -> Box<dyn ModuleAdapter> {
        Box::new(self.clone())
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensors and their files, with those that are named twice.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names of tensors with the files that they are in")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                match pairs.is_empty() {
                    true => Err(de::Error::custom("weight_map lists no tensors")),
                    false => Ok(WeightMap(pairs)),
                }
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
