//! Weights to the disk: tensor by tensor, in one safetensors file or several with an index.

use super::files::{INDEX, WEIGHTS, damaged, shard_name, write_error};
use crate::error::PretrainedError;
use crate::model::InfinityModel;
use burn::store::burn_pack::Tensor as PackTensor;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use infinity_files::faults;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, json};
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

/// The number format of weights in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32 bits: exact.
    F32,
    /// 16 bits with the exponents of f32, rounded to the nearest, ties to even.
    Bf16,
    /// 16 bits up to 65,504, rounded to the nearest, ties to even; larger weights are an error.
    F16,
}

impl WeightFormat {
    /// Its name in a `config.json`, and the short one.
    fn names(self) -> [&'static str; 2] {
        match self {
            WeightFormat::F32 => ["float32", "f32"],
            WeightFormat::Bf16 => ["bfloat16", "bf16"],
            WeightFormat::F16 => ["float16", "f16"],
        }
    }

    /// Its name in a `config.json`.
    pub(super) fn torch_name(self) -> &'static str {
        self.names()[0]
    }

    fn dtype(self) -> Dtype {
        match self {
            WeightFormat::F32 => Dtype::F32,
            WeightFormat::Bf16 => Dtype::BF16,
            WeightFormat::F16 => Dtype::F16,
        }
    }

    /// `x` in this format, little-endian, and what it is then.
    fn put(self, x: f32, bytes: &mut Vec<u8>) -> f32 {
        match self {
            WeightFormat::F32 => {
                bytes.extend(x.to_le_bytes());
                x
            }
            WeightFormat::Bf16 => {
                let half = bf16::from_f32(x);
                bytes.extend(half.to_le_bytes());
                half.to_f32()
            }
            WeightFormat::F16 => {
                let half = f16::from_f32(x);
                bytes.extend(half.to_le_bytes());
                half.to_f32()
            }
        }
    }

    fn largest(self) -> f32 {
        match self {
            WeightFormat::F32 => f32::MAX,
            WeightFormat::Bf16 => bf16::MAX.to_f32(),
            WeightFormat::F16 => f16::MAX.to_f32(),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::F16];
        let found = all
            .into_iter()
            .find(|format| format.names().contains(&word));
        found.ok_or_else(|| "it must be f32, bf16 or f16".to_owned())
    }
}

/// How [`save_pretrained_with`](super::save_pretrained_with) writes weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Their number format; that of the model's parameters where it is not given.
    pub format: Option<WeightFormat>,
    /// Most bytes of tensors in one file; a larger tensor has a file of its own. One file where it is
    /// not given.
    pub max_shard_bytes: Option<u64>,
}

/// A tensor, and the format that it is written in.
pub(super) type Written = (PackTensor, WeightFormat);

impl SaveOptions {
    fn format(&self, tensor: PackTensor) -> Written {
        let own = match tensor.dtype {
            DType::BF16 => WeightFormat::Bf16,
            DType::F16 => WeightFormat::F16,
            _ => WeightFormat::F32,
        };
        (tensor, self.format.unwrap_or(own))
    }
}

fn bytes((tensor, format): &Written) -> usize {
    tensor.shape.num_elements() * format.dtype().bitsize() / 8
}

/// Writes the weights of `model` into `folder`, which is to become `target`.
pub(super) fn save_weights(
    folder: &Path,
    target: &Path,
    model: &InfinityModel,
    options: &SaveOptions,
) -> Result<(), PretrainedError> {
    let tensors = model.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    let tensors = tensors.into_iter().map(|tensor| options.format(tensor));
    save_tensors(folder, target, tensors.collect(), options.max_shard_bytes)
}

/// Writes tensors, in one file or in several of at most so many bytes.
pub(super) fn save_tensors(
    folder: &Path,
    target: &Path,
    mut tensors: Vec<Written>,
    max_shard_bytes: Option<u64>,
) -> Result<(), PretrainedError> {
    // Wide numbers first, so that all are aligned; then by name.
    tensors.sort_by(|(a, wide), (b, narrow)| {
        let wider = narrow.dtype().cmp(&wide.dtype());
        wider.then_with(|| a.name.cmp(&b.name))
    });
    let total: u64 = tensors.iter().map(|tensor| bytes(tensor) as u64).sum();
    let most = max_shard_bytes.unwrap_or(u64::MAX);
    if total <= most {
        return save_file(folder, target, WEIGHTS, tensors);
    }
    let mut shards: Vec<Vec<Written>> = Vec::new();
    let mut room = 0;
    for tensor in tensors {
        let size = bytes(&tensor) as u64;
        match shards.last_mut().filter(|_| size <= room) {
            Some(shard) => shard.push(tensor),
            None => {
                shards.push(vec![tensor]);
                room = most;
            }
        }
        room = room.saturating_sub(size);
    }
    let count = shards.len();
    let mut map = Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let name = shard_name(i + 1, count);
        let names = shard.iter().map(|(tensor, _)| tensor.name.clone());
        map.extend(names.map(|tensor| (tensor, json!(name))));
        save_file(folder, target, &name, shard)?;
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let text = format!("{index:#}\n");
    let written = infinity_files::write(&folder.join(INDEX), text.as_bytes());
    written.map_err(|source| write_error(&target.join(INDEX), source))
}

/// Writes one safetensors file, a tensor at a time.
pub(super) fn save_file(
    folder: &Path,
    target: &Path,
    name: &str,
    tensors: Vec<Written>,
) -> Result<(), PretrainedError> {
    let mut end = 0;
    let infos = tensors.iter().map(|written| {
        let ((tensor, format), start) = (written, end);
        end += bytes(written);
        let info = TensorInfo {
            dtype: format.dtype(),
            shape: tensor.shape.to_vec(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    });
    let header = header(infos.collect());
    let mut overflow = None;
    let written = infinity_files::write_with(&folder.join(name), |file, partial| {
        faults::point(partial)?;
        let mut file = BufWriter::new(file);
        file.write_all(&header?)?;
        for (tensor, format) in tensors {
            let name = tensor.name.clone();
            let data =
                bridge::into_data(tensor).map_err(|error| io::Error::other(error.to_string()))?;
            let (bytes, lost) = encoded(data, format);
            if let Some(value) = lost {
                overflow = Some((name, value, format));
                return Err(io::Error::other("a weight too large for its format"));
            }
            file.write_all(&bytes)?;
        }
        file.flush()
    });
    match (written, overflow) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some((tensor, value, format))) => {
            let (format, largest) = (format.torch_name(), format.largest());
            let limit = format!("{format} ends at {largest}: write f32 or bf16");
            let reason = format!("{tensor} holds {value}, and {limit}");
            Err(damaged(&target.join(name), reason))
        }
        (Err(source), None) => Err(write_error(&target.join(name), source)),
    }
}

/// The length and text that a safetensors file begins with.
fn header(tensors: Vec<(String, TensorInfo)>) -> io::Result<Vec<u8>> {
    let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(notes), tensors).map_err(io::Error::other)?;
    let mut text = serde_json::to_vec(&metadata)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

/// The numbers in `format`, and the first that is finite and has no finite neighbour there.
fn encoded(data: TensorData, format: WeightFormat) -> (Vec<u8>, Option<f32>) {
    let mut bytes = Vec::with_capacity(data.num_elements() * format.dtype().bitsize() / 8);
    let mut lost = None;
    for x in data.iter::<f32>() {
        let kept = format.put(x, &mut bytes);
        if x.is_finite() && !kept.is_finite() {
            lost = lost.or(Some(x));
        }
    }
    (bytes, lost)
}
