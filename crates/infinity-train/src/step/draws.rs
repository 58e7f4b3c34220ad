//! What is random in a step falls the same way each time it is computed.
//!
//! Dropout draws from the device's generator. A step that computes a part twice seeds it before
//! that part both times, with a seed that depends on the step, the segment and the part alone. All
//! ways through a step do so, hence they drop the same numbers where they cut the batch alike.

use burn::tensor::{Device, Distribution, Tensor};
use infinity_model::{InfinityModel, ModelConfig};

/// The seeds of one step.
pub(super) struct Draws {
    device: Device,
    /// `None` where nothing is drawn.
    seed: Option<u64>,
}

impl Draws {
    /// Seeds for a step of `model`. Without a seed of the step's own, one is drawn.
    pub(super) fn new(model: &InfinityModel, seed: Option<u64>) -> Self {
        let device = model.device().inner();
        // The generator is the process's: what draws nothing leaves it to those that do.
        let drops = drops(model.config());
        if let (true, Some(seed)) = (drops, seed) {
            device.seed(seed);
        }
        let seed = drops.then(|| seed.unwrap_or_else(|| drawn(&device)));
        Draws { device, seed }
    }

    /// Before a part of a segment: 0 is the embedding, `i + 1` is block `i`.
    pub(super) fn before(&self, segment: usize, part: usize) {
        if let Some(seed) = self.seed {
            let place = (segment as u64) << 16 | (part as u64 + 1);
            // Neighbouring steps have neighbouring seeds: an odd factor keeps places apart.
            self.device
                .seed(seed.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        }
    }
}

/// Whether a training step of a model of this configuration drops anything.
pub(crate) fn drops(config: &ModelConfig) -> bool {
    config.hidden_dropout_prob > 0.0 || config.attention_probs_dropout_prob > 0.0
}

fn drawn(device: &Device) -> u64 {
    let any = Tensor::<1>::random([1], Distribution::Uniform(0.0, f64::from(1 << 24)), device);
    any.into_scalar::<f32>() as u64
}
