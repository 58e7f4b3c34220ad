//! What a model remembers between the windows of a stream, as a file of a checkpoint.
//!
//! ```text
//! position                        [B] u64
//! layers.0.memory                 [B, H, S, K, V]
//! layers.0.tails.0 … .2           [B, channels, kernel − 1]
//! layers.0.keys, layers.0.values  [B, T, H, ·], for the softmax mixer
//! ```

use burn::tensor::{DType, Device, Tensor, TensorData};
use infinity_model::{LayerState, ModelState};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

/// Name of the file in a checkpoint. It is not there where no state was carried.
pub(crate) const STREAM: &str = "stream.safetensors";

/// Name of the count of layers in the header: a layer may have no tensor.
const LAYERS: &str = "layers";

/// Writes `state` to `path`.
///
/// # Errors
/// If it cannot be written, or has numbers of another format than floats.
pub(crate) fn save(path: &Path, state: &ModelState) -> io::Result<()> {
    let mut tensors = Vec::new();
    for (i, layer) in state.layers.iter().enumerate() {
        match layer {
            LayerState::Infinity { memory, tails } => {
                tensors.push((format!("layers.{i}.memory"), memory.to_data()));
                for (j, tail) in tails.iter().enumerate() {
                    tensors.push((format!("layers.{i}.tails.{j}"), tail.to_data()));
                }
            }
            LayerState::Softmax {
                cache: Some((keys, values)),
            } => {
                tensors.push((format!("layers.{i}.keys"), keys.to_data()));
                tensors.push((format!("layers.{i}.values"), values.to_data()));
            }
            LayerState::Softmax { cache: None } => {}
        }
    }
    let position: Vec<u8> = state
        .position
        .iter()
        .flat_map(|row| row.to_le_bytes())
        .collect();
    let mut views = vec![(
        "position".to_owned(),
        view(Dtype::U64, &[state.batch()], &position)?,
    )];
    for (name, data) in &tensors {
        let shape: Vec<usize> = data.shape().to_vec();
        views.push((
            name.clone(),
            view(to_file(data.dtype())?, &shape, data.as_bytes())?,
        ));
    }
    let header = HashMap::from([(LAYERS.to_owned(), state.layers.len().to_string())]);
    fs::write(
        path,
        safetensors::serialize(views, Some(header)).map_err(io::Error::other)?,
    )
}

fn view<'a>(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> io::Result<TensorView<'a>> {
    TensorView::new(dtype, shape.to_vec(), bytes).map_err(io::Error::other)
}

fn to_file(dtype: DType) -> io::Result<Dtype> {
    match dtype {
        DType::F64 => Ok(Dtype::F64),
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => Err(io::Error::other(format!("a state of {other:?}"))),
    }
}

/// Reads the state in `path` onto `device`.
///
/// # Errors
/// Says why the file is not a state.
pub(crate) fn load(path: &Path, device: &Device) -> Result<ModelState, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
    let layers = header
        .metadata()
        .as_ref()
        .and_then(|header| header.get(LAYERS)?.parse().ok());
    let layers: usize = layers.ok_or("no number of layers in its header")?;
    let file = File {
        tensors: SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?,
        device,
    };
    let position = file
        .tensors
        .tensor("position")
        .map_err(|error| error.to_string())?;
    let position = position.data().chunks_exact(8);
    Ok(ModelState {
        position: position
            .map(|row| u64::from_le_bytes(row.try_into().expect("eight bytes")))
            .collect(),
        layers: (0..layers)
            .map(|i| file.layer(i))
            .collect::<Result<_, _>>()?,
    })
}

/// An open file, and where its tensors go.
struct File<'a> {
    tensors: SafeTensors<'a>,
    device: &'a Device,
}

impl File<'_> {
    fn layer(&self, i: usize) -> Result<LayerState, String> {
        if let Some(memory) = self.tensor(&format!("layers.{i}.memory"))? {
            let mut tails = Vec::new();
            while let Some(tail) = self.tensor(&format!("layers.{i}.tails.{}", tails.len()))? {
                tails.push(tail);
            }
            return Ok(LayerState::Infinity { memory, tails });
        }
        let keys = self.tensor(&format!("layers.{i}.keys"))?;
        let values = self.tensor(&format!("layers.{i}.values"))?;
        Ok(LayerState::Softmax {
            cache: keys.zip(values),
        })
    }

    /// The tensor of that name, if there is one.
    fn tensor<const D: usize>(&self, name: &str) -> Result<Option<Tensor<D>>, String> {
        let Ok(found) = self.tensors.tensor(name) else {
            return Ok(None);
        };
        let dtype = match found.dtype() {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(format!("{name} holds {other:?}")),
        };
        if found.shape().len() != D {
            return Err(format!(
                "{name} has {} dimensions, not {D}",
                found.shape().len()
            ));
        }
        let data = TensorData::from_bytes_vec(found.data().to_vec(), found.shape().to_vec(), dtype);
        Ok(Some(Tensor::from_data(data, (self.device, dtype))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_model::ModelConfig;
    use infinity_model::config::Mixer;

    fn used_state(mixer: Mixer) -> (ModelConfig, ModelState) {
        let config = ModelConfig {
            vocab_size: 5,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            mixer,
            ..ModelConfig::default()
        };
        let model = config.init(&Device::flex());
        let tokens = TensorData::new(vec![0, 1, 2, 3, 4, 0], [2, 3]);
        let tokens = Tensor::from_data(tokens, &Device::flex());
        let (_, mut state) = model.forward(tokens, model.initial_state(2));
        state.position = vec![3, u64::MAX - 7];
        (config, state)
    }

    /// Both states as text: every number, every shape.
    fn shown(state: &ModelState) -> String {
        let layers = state.layers.iter().map(|layer| match layer {
            LayerState::Infinity { memory, tails } => {
                let tails: Vec<_> = tails.iter().map(|tail| tail.to_data()).collect();
                format!("{:?} {tails:?}", memory.to_data())
            }
            LayerState::Softmax { cache } => {
                format!(
                    "{:?}",
                    cache.as_ref().map(|(k, v)| (k.to_data(), v.to_data()))
                )
            }
        });
        format!("{:?} {:?}", state.position, layers.collect::<Vec<_>>())
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STREAM);
        for mixer in [Mixer::Infinity, Mixer::Softmax] {
            let (config, state) = used_state(mixer);
            save(&path, &state).unwrap();
            let loaded = load(&path, &Device::flex()).unwrap();
            assert_eq!(shown(&loaded), shown(&state));
            let fresh = config.init(&Device::flex()).initial_state(2);
            assert_ne!(shown(&fresh), shown(&state));
            save(&path, &fresh).unwrap();
            assert_eq!(shown(&load(&path, &Device::flex()).unwrap()), shown(&fresh));
        }
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(load(&path, &Device::flex()).is_err());
    }
}
