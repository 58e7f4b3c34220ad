//! What a model remembers between the windows of a stream, as a file of a checkpoint: a state file
//! without the fingerprint of a model, which lies beside it.

use burn::tensor::Device;
use infinity_model::ModelState;
use std::fs;
use std::io;
use std::path::Path;

/// Name of the file in a checkpoint. It is not there where no state was carried.
pub(crate) const STREAM: &str = "stream.safetensors";

/// Writes `state`, whose numbers are f32, to `path`.
pub(crate) fn save(path: &Path, state: &ModelState) -> io::Result<()> {
    let bytes = state.to_bytes(None).map_err(io::Error::other)?;
    fs::write(path, bytes)
}

/// Reads the state in `path` onto `device`, or says why the file is not one.
pub(crate) fn load(path: &Path, device: &Device) -> Result<ModelState, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    ModelState::from_bytes(&bytes, device).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tensor, TensorData};
    use infinity_model::config::Mixer;
    use infinity_model::{LayerState, ModelConfig};

    fn used_state(mixer: Mixer) -> (ModelConfig, ModelState) {
        let config = ModelConfig {
            vocab_size: 5,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            mixer,
            ..ModelConfig::first()
        };
        let model = config.init(&Device::flex());
        let tokens = TensorData::new(vec![0, 1, 2, 3, 4, 0], [2, 3]);
        let tokens = Tensor::from_data(tokens, &Device::flex());
        let (_, mut state) = model.forward(tokens, model.initial_state(2));
        state.position = vec![3, u64::MAX - 7];
        (config, state)
    }

    /// Shape and numbers; the debug text of a tensor shows its first few alone.
    fn numbers<const D: usize>(x: &Tensor<D>) -> ([usize; D], Vec<f32>) {
        (x.dims(), x.to_data().iter::<f32>().collect())
    }

    /// Both states as text: every number, every shape.
    fn shown(state: &ModelState) -> String {
        let layers = state.layers.iter().map(|layer| match layer {
            LayerState::Infinity { memory, tails } => {
                let tails: Vec<_> = tails.iter().map(numbers).collect();
                format!("{:?} {tails:?}", numbers(memory))
            }
            LayerState::Softmax { cache } => {
                let filled = cache.filled().map(|filled| filled.each_ref().map(numbers));
                format!("{filled:?} {:?}", cache.starts())
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
