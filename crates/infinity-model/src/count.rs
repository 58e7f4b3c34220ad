//! What a configuration costs, without building the model: parameters, work and state.
//!
//! The counts are sums over [`weights`], the list of every tensor of `model.safetensors`.
//!
//! Work, in floating-point operations for one token (a multiplication and an addition are two):
//! ```text
//! forward  = 2 · matmul weights + operator and convolution of every layer
//! training = 3 · forward                                  backward costs two forwards
//! operator, linear, delta       7 · H·S·K·V      forget 1, recall 2, write 2, read 2
//! operator, linear, additive    5 · H·S·K·V      forget 1, write 2, read 2
//! operator, full                window · H·(K+V) scores and sum over half the window on average
//! operator, sliding             the same, over the keys that a token sees on average
//! convolution                   2 · conv_kernel_size · channels
//! ```
//! Matmul weights are the projections, the feed-forward, the output projection (the embedding
//! again when tied; looking up a row costs nothing), and the learnable feature map and the
//! directions of the routing twice, because q and k share them. Norms and activations are left out, as is usual. The operator is counted in
//! its recurrent form: a chunked form does other work for the same result.

use crate::config::{LayerType, MemoryUpdate, ModelConfig, QkNorm};
use crate::parameters::{Part, weights};
use std::collections::HashMap;

/// Learned parameters, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterCount(HashMap<Part, u64>);

impl ParameterCount {
    /// Counts a configuration's parameters.
    pub fn of(config: &ModelConfig) -> Self {
        let mut count = HashMap::new();
        for weight in weights(config).iter().filter(|weight| weight.learned) {
            *count.entry(weight.part).or_default() += weight.numbers() as u64;
        }
        Self(count)
    }

    /// Those that are for one thing.
    pub fn part(&self, part: Part) -> u64 {
        self.0.get(&part).copied().unwrap_or(0)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Floating-point operations to read one token, in the middle of training windows of `window`
/// tokens (which matters to full layers alone). The formula is at the top of this file.
pub fn forward_flops_per_token(config: &ModelConfig, window: usize) -> u64 {
    let mut matmul = 0;
    for weight in weights(config) {
        let shared = ["feature_map.weight", "routing.weight"];
        let uses = match weight.name.as_str() {
            name if shared.iter().any(|end| name.ends_with(end)) => 2,
            name if name.ends_with("_proj.weight") || name == "lm_head.weight" => 1,
            _ => 0,
        };
        matmul += uses * weight.numbers() as u64;
    }
    if config.tie_word_embeddings {
        matmul += config.vocab_size as u64 * config.hidden_size as u64;
    }
    2 * matmul + over_layers(config, |kind| operator_flops(config, kind, window))
}

/// The sum over all layers of what one of its type counts.
fn over_layers(config: &ModelConfig, of: impl Fn(LayerType) -> u64) -> u64 {
    let all = |kind: &LayerType| config.num_layers_of(*kind) as u64 * of(*kind);
    LayerType::ALL.iter().map(all).sum()
}

/// Floating-point operations to train on one token: a forward pass and a backward pass of twice
/// its cost.
pub fn training_flops_per_token(config: &ModelConfig, window: usize) -> u64 {
    3 * forward_flops_per_token(config, window)
}

/// The operator's work, and the convolutions'.
fn operator_flops(config: &ModelConfig, kind: LayerType, window: usize) -> u64 {
    let channels = (config.key_dim_total() + config.value_dim_total()) as u64;
    let window = window as u64;
    match kind {
        LayerType::Full => window * channels,
        LayerType::Sliding => {
            // Half of a triangle is missing beyond the sliding window.
            let missing = window.saturating_sub(config.sliding_window.unwrap_or(0) as u64);
            channels * (window * window - missing * missing) / window.max(1)
        }
        LayerType::Linear => {
            let per_element = match config.memory_update {
                MemoryUpdate::Delta => 7,
                MemoryUpdate::Additive => 5,
            };
            let convolution = 2 * config.conv_kernel_size as u64 * convolved_channels(config);
            per_element * memory_elements(config) + convolution
        }
    }
}

/// Numbers in one layer's memory `[H, S, K, V]`; the denominator is one more value column.
fn memory_elements(config: &ModelConfig) -> u64 {
    let of = config.linear_heads();
    let value_columns = of.value_dim + usize::from(config.qk_norm == QkNorm::Denominator);
    (of.values * config.num_states() * of.key_dim * value_columns) as u64
}

fn convolved_channels(config: &ModelConfig) -> u64 {
    let of = config.linear_heads();
    (2 * of.key_width() + of.value_width()) as u64
}

const F32: u64 = 4;

/// Bytes of the keys and values of a token in one full layer.
fn token_bytes(config: &ModelConfig) -> u64 {
    let width = config.head_dim() + config.value_head_dim();
    F32 * (config.num_key_value_heads() * width) as u64
}

/// Bytes of the state of `batch` texts after `position` tokens each.
///
/// A linear layer's state has one size whatever the position; a full one keeps every key and value it has
/// seen, a sliding one those that the next token sees. Everything is f32, and a position is a u64. A cache may
/// have room for as many tokens more.
pub fn state_bytes(config: &ModelConfig, batch: usize, position: u64) -> u64 {
    const POSITION: u64 = 8;
    let layers = over_layers(config, |kind| match kind {
        LayerType::Linear => {
            let tail = config.conv_kernel_size.saturating_sub(1) as u64;
            F32 * (memory_elements(config) + tail * convolved_channels(config))
        }
        LayerType::Full => position * token_bytes(config),
        LayerType::Sliding => {
            let window = config.sliding_window.unwrap_or(1) as u64;
            position.min(window - 1) * token_bytes(config)
        }
    });
    batch as u64 * (layers + POSITION)
}

/// Bytes by which the state of a text grows with each token: those of its full layers.
pub fn state_bytes_per_token(config: &ModelConfig) -> u64 {
    config.num_layers_of(LayerType::Full) as u64 * token_bytes(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mixer;

    /// D = 8, H = 2, K = 4, V = 4, S = 4, feed-forward 64, one layer, 10 tokens.
    fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 10,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            ..ModelConfig::first()
        }
    }

    #[test]
    fn counted_by_hand() {
        let count = ParameterCount::of(&tiny());
        assert_eq!(count.part(Part::Embedding), 10 * 8);
        assert_eq!(count.part(Part::MixerProjections), 4 * 8 * 8);
        assert_eq!(count.part(Part::Convolution), 3 * 8 * 4);
        // decay 8·8 + A_log 8 + dt_bias 8, beta 2·8, write and read 2·(8·8 + 8),
        // memory gate 2·8 + 2, output gate 8·8
        assert_eq!(count.part(Part::Gates), 80 + 16 + 144 + 18 + 64);
        assert_eq!(count.part(Part::FeedForward), 3 * 8 * 64);
        assert_eq!(count.part(Part::Norms), 3 * 8 + 4);
        assert_eq!(count.total(), 80 + 256 + 96 + 322 + 1536 + 28);
    }

    #[test]
    fn work_is_six_times_the_matmul_weights_and_the_operator() {
        let config = tiny();
        let matmul = 80 + 256 + 64 + 16 + 128 + 16 + 64 + 1536;
        let operator = 7 * 2 * 4 * 4 * 4;
        let convolution = 2 * 4 * 24;
        let expected = 6 * matmul + 3 * (operator + convolution);
        assert_eq!(training_flops_per_token(&config, 100), expected);
        assert_eq!(training_flops_per_token(&config, 1_000_000), expected);

        let softmax = ModelConfig {
            mixer: Mixer::Softmax,
            ..config
        };
        let at_100 = training_flops_per_token(&softmax, 100);
        assert_eq!(at_100, 6 * (80 + 256 + 1536) + 3 * 100 * 16);
        assert!(training_flops_per_token(&softmax, 200) > at_100);
    }

    /// D = 8, H = 2, K = V = 4, one head of keys; linear, full and sliding layers.
    #[test]
    fn a_hybrid_is_counted_layer_by_layer() {
        let hybrid = ModelConfig {
            num_hidden_layers: 3,
            layer_types: Some(LayerType::ALL.to_vec()),
            num_key_value_heads: Some(1),
            sliding_window: Some(10),
            ..tiny()
        };
        let token = 2 * 4 * 4;
        let linear = (2 * 4 * 4 * 4 + 3 * 24) * 4;
        assert_eq!(state_bytes_per_token(&hybrid), token);
        for (position, kept) in [(5, 5), (9, 9), (1000, 9)] {
            let expected = linear + (position + kept) * token + 8;
            assert_eq!(state_bytes(&hybrid, 1, position), expected);
        }
        let softmax = ModelConfig {
            mixer: Mixer::Softmax,
            layer_types: None,
            ..hybrid.clone()
        };
        let flops = |window, change: fn(&mut ModelConfig)| {
            let mut config = softmax.clone();
            change(&mut config);
            forward_flops_per_token(&config, window)
        };
        let full = |window| flops(window, |_| ());
        let slide = |window| flops(window, |c| c.layer_types = Some(vec![LayerType::Sliding]));
        assert_eq!(slide(10), full(10), "all of it is in the window");
        // Of 20 tokens one sees 10 on average; in a window of 10, those after the tenth see 10: 7.5.
        let (half, most) = (slide(20) - slide(0), full(20) - full(0));
        assert_eq!((half, most), (3 * 16 * 15, 3 * 16 * 20));
        assert_eq!(full(20) - full(0), 3 * 20 * 2 * 8);
        let mixer = ParameterCount::of(&softmax).part(Part::MixerProjections);
        assert_eq!(mixer, 3 * (8 * 8 + 2 * 4 * 8 + 8 * 8));
    }

    #[test]
    fn the_state_has_one_size() {
        let config = tiny();
        let expected = (2 * 4 * 4 * 4 + 3 * 24) * 4 + 8;
        assert_eq!(state_bytes(&config, 1, 10), expected);
        assert_eq!(state_bytes(&config, 1, 1_000_000), expected);
        assert_eq!(state_bytes(&config, 3, 10), 3 * expected);
        let softmax = ModelConfig {
            mixer: Mixer::Softmax,
            ..config
        };
        assert_eq!(
            state_bytes(&softmax, 1, 100) - state_bytes(&softmax, 1, 0),
            100 * 16 * 4
        );
    }
}
