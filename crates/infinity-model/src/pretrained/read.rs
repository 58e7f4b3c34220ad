//! Weights on the disk: one safetensors file, or several with an index, read tensor by tensor.
//!
//! Headers are read first, and compared with what the network needs. A tensor's numbers are then read
//! in small pieces, each widened to f32 and put where the network has it, so that no second copy of
//! the weights exists while they are loaded.

use super::files::{INDEX, WEIGHTS, damaged, missing, read_error};
use super::write::WeightFormat;
use crate::error::PretrainedError;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the longest header that is read.
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of a model directory, whose numbers are still on the disk.
pub(super) struct StoredWeights {
    /// The weight file, or the index of several.
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeMap<String, Place>,
}

/// Where a tensor is, or some of its rows.
#[derive(Clone)]
pub(super) struct Place {
    file: Arc<Shard>,
    dtype: Dtype,
    pub(super) shape: Vec<usize>,
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
        if path.exists() {
            Self::of_file(path)
        } else if index.exists() {
            Self::sharded(dir, index)
        } else {
            Err(missing(dir, WEIGHTS, "it holds the weights"))
        }
    }

    /// Reads the header of one file.
    pub(super) fn of_file(path: PathBuf) -> Result<Self, PretrainedError> {
        let tensors = Shard::open(&path)?.into_iter().collect();
        Ok(Self { path, tensors })
    }

    /// Reads the headers of all files that an index names.
    fn sharded(dir: &Path, index: PathBuf) -> Result<Self, PretrainedError> {
        let refuse = |reason: String| damaged(&index, reason);
        let text = fs::read_to_string(&index).map_err(|source| read_error(&index, source))?;
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
                let what = "which is no file in this folder";
                return Err(refuse(format!(
                    "{tensor} is said to be in {shard:?}, {what}"
                )));
            }
            let before = listed.insert(tensor.clone(), shard);
            if let Some(first) = before.filter(|first| first != shard) {
                let reason = format!("{tensor} is in two files, {first} and {shard}");
                return Err(refuse(reason));
            }
        }
        let shards: BTreeSet<&str> = listed.values().copied().collect();
        let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
        for shard in shards {
            let path = dir.join(shard);
            if !path.exists() {
                let tensor = listed.iter().find(|(_, of)| **of == shard);
                let tensor = tensor.map_or("a tensor", |(tensor, _)| tensor);
                let why = format!("{} says that it holds {tensor}", index.display());
                return Err(missing(dir, shard, &why));
            }
            let shown = path.display();
            for (tensor, place) in Shard::open(&path)? {
                if let Some(other) = tensors.get(&tensor) {
                    let first = other.file.path.display();
                    let reason = format!("{tensor} is in two files, {first} and {shown}");
                    return Err(refuse(reason));
                }
                match listed.get(&tensor) {
                    Some(name) if *name == shard => tensors.insert(tensor, place),
                    Some(name) => {
                        return Err(refuse(format!("{tensor} is in {shown} instead of {name}")));
                    }
                    None => return Err(refuse(format!("{tensor} in {shown} is not listed"))),
                };
            }
        }
        let mut listed = listed.iter();
        if let Some((tensor, shard)) = listed.find(|(name, _)| !tensors.contains_key(*name)) {
            return Err(refuse(format!("{tensor} is not in {shard}")));
        }
        Ok(Self {
            path: index,
            tensors,
        })
    }
}

impl Shard {
    /// The tensors of a file, by its header.
    fn open(path: &Path) -> Result<Vec<(String, Place)>, PretrainedError> {
        let not_whole = |reason: String| {
            let reason = format!("it is not a whole safetensors file: {reason}");
            damaged(path, reason)
        };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => not_whole("it ends in its header".to_owned()),
            _ => read_error(path, source),
        };
        let mut file = File::open(path).map_err(failed)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(failed)?;
        let length = u64::from_le_bytes(length);
        let whole = file.metadata().map_err(failed)?.len();
        if length > MAX_HEADER || length > whole {
            let reason = format!("a header of {length} bytes in a file of {whole}");
            return Err(not_whole(reason));
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
    /// Its rows from `start` on.
    pub(super) fn rows(&self, start: usize, len: usize) -> Self {
        let mut shape = self.shape.clone();
        let row = shape[1..].iter().product::<usize>() * self.dtype.bitsize() / 8;
        shape[0] = len;
        Self {
            offset: self.offset + (start * row) as u64,
            shape,
            ..self.clone()
        }
    }

    /// The format that gives its numbers back when they are written again.
    pub(super) fn format(&self) -> WeightFormat {
        match self.dtype {
            Dtype::BF16 => WeightFormat::Bf16,
            Dtype::F16 => WeightFormat::F16,
            _ => WeightFormat::F32,
        }
    }

    /// How it is said to be stored, if that is not as floats.
    pub(super) fn not_floats(&self) -> Option<Dtype> {
        let floats = [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F64];
        (!floats.contains(&self.dtype)).then_some(self.dtype)
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Reads all its numbers in f32, some at a time, and hands them over in order.
    pub(super) fn read(&self, at_once: usize, mut each: impl FnMut(&[f32])) -> io::Result<()> {
        // A file is never half-read: every reader begins at its own place.
        let file = &self.file.file;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.offset))?;
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        let mut left = self.shape.iter().product::<usize>();
        while left > 0 {
            let count = left.min(at_once);
            bytes.resize(count * self.dtype.bitsize() / 8, 0);
            numbers.resize(count, 0.0);
            file.read_exact(&mut bytes)?;
            widen(self.dtype, &bytes, &mut numbers);
            each(&numbers);
            left -= count;
        }
        Ok(())
    }
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
