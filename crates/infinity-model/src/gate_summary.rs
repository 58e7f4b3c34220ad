//! How the gates of a trained or training model are distributed, layer by layer: what it forgets,
//! how strongly it writes, and where it writes and reads.

use crate::layer::Tap;
use crate::model::InfinityModel;
use crate::state::ModelState;
use burn::tensor::{Int, Tensor};
use infinity_kernels::MemoryScanInputs;
use infinity_kernels::borders::Borders;

/// The gates of one layer over all positions, rows and heads.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSummary {
    /// Half-lives in tokens, over states too; `None` where nothing decays.
    pub half_life: Option<Quantiles>,
    /// Strength of a write over all states; with delta writes this is `beta`.
    pub write_strength: Quantiles,
    /// Mean part of the squared write strength that goes to each state.
    pub write_share: Vec<f64>,
    /// Mean weight with which each state is read.
    pub read_weight: Vec<f64>,
}

/// Where a tenth, half and nine tenths of some values lie, and their mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// A tenth is below.
    pub p10: f64,
    /// Half is below.
    pub p50: f64,
    /// Nine tenths are below.
    pub p90: f64,
    /// The mean.
    pub mean: f64,
}

impl Quantiles {
    /// Of `values`, of which there is at least one.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Quantiles {
            p10: at(0.1),
            p50: at(0.5),
            p90: at(0.9),
            mean: values.iter().sum::<f64>() / values.len() as f64,
        }
    }
}

impl InfinityModel {
    /// The gates of every layer while it reads `tokens` `[B, T]`, which are at least one; empty for
    /// a model without gates.
    ///
    /// # Panics
    /// If `state` has another number of rows than `tokens`.
    pub fn gate_summaries(&self, tokens: Tensor<2, Int>, state: ModelState) -> Vec<GateSummary> {
        let (mut found, tap) = (Vec::new(), Tap::default());
        let [_, t] = tokens.dims();
        let pass = self.pass(&state.position, t, &Borders::default());
        let pass = pass.with_tap(&tap);
        let mut look = |_| found.extend(tap.take().map(|gates| summary(&gates)));
        self.through(tokens, &pass, state.layers, &mut look);
        look(0);
        found
    }
}

/// What a layer read, as its tap has it.
fn summary(gates: &MemoryScanInputs) -> GateSummary {
    let [_, _, _, s] = gates.write.dims();
    let host = |tensor: &Tensor<4>| tensor.to_data().iter::<f64>().collect::<Vec<_>>();
    let [decays, writes, reads] = [&gates.log_decay, &gates.write, &gates.read].map(host);
    let decays: Vec<f64> = decays.into_iter().filter(|g| *g < 0.0).collect();
    let half_lives = decays.iter().map(|g| std::f64::consts::LN_2 / -g);
    let squares = |states: &[f64]| states.iter().map(|w| w * w).sum::<f64>();
    let strengths = writes.chunks(s).map(|states| squares(states).sqrt());
    // Mean over positions, rows and heads of what `part` makes of a state's value.
    let by_state = |values: &[f64], part: &dyn Fn(f64, &[f64]) -> f64| -> Vec<f64> {
        let mut sums = vec![0.0; s];
        for states in values.chunks(s) {
            for (sum, value) in sums.iter_mut().zip(states) {
                *sum += part(*value, states);
            }
        }
        let n = (values.len() / s).max(1) as f64;
        sums.into_iter().map(|sum| sum / n).collect()
    };
    let share = |w: f64, states: &[f64]| w * w / squares(states).max(f64::MIN_POSITIVE);
    GateSummary {
        half_life: (!decays.is_empty()).then(|| Quantiles::of(half_lives.collect())),
        write_strength: Quantiles::of(strengths.collect()),
        write_share: by_state(&writes, &share),
        read_weight: by_state(&reads, &|r, _| r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Decay, Mixer, ModelConfig};
    use burn::tensor::{Device, TensorData};

    fn summaries(change: impl Fn(&mut ModelConfig)) -> Vec<GateSummary> {
        let mut config = ModelConfig {
            vocab_size: 11,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 32,
            ..ModelConfig::first()
        };
        change(&mut config);
        let device = Device::flex();
        let model = config.init(&device);
        let tokens = TensorData::new((0..40).map(|i| i % 11).collect::<Vec<i32>>(), [2, 20]);
        let state = model.initial_state(2);
        model.gate_summaries(Tensor::from_data(tokens, &device), state)
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let ramp = Quantiles::of((0..=100).rev().map(f64::from).collect());
        assert_eq!(
            (ramp.p10, ramp.p50, ramp.p90, ramp.mean),
            (10.0, 50.0, 90.0, 50.0)
        );
    }

    #[test]
    fn every_layer_tells_what_it_forgets_writes_and_reads() {
        let layers = summaries(|_| {});
        assert_eq!(layers.len(), 2);
        for gates in layers {
            // Fresh gates: half-lives from 4 to the longest, half strength, all states alike.
            let half_life = gates.half_life.unwrap();
            assert!(
                half_life.p10 >= 3.0 && half_life.p90 > 2.0 * half_life.p10,
                "{half_life:?}"
            );
            assert!((gates.write_strength.p50 - 0.5).abs() < 0.1, "{gates:?}");
            let total: f64 = gates.write_share.iter().sum();
            assert!((total - 1.0).abs() < 1e-6, "{total}");
            assert_eq!(gates.read_weight.len(), gates.write_share.len());
        }
    }

    #[test]
    fn what_has_no_gates_says_nothing() {
        assert!(summaries(|config| config.mixer = Mixer::Softmax).is_empty());
        let still = summaries(|config| config.decay = Decay::None);
        assert!(still.iter().all(|gates| gates.half_life.is_none()));
    }
}
