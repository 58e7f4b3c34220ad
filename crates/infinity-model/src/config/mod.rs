//! `[model]`: everything that decides which network is built.
//!
//! The same keys stand in a run's TOML and in a model directory's `config.json`. They are Hugging
//! Face's and the original project's words, so a configuration reads like others do.
//! [`ModelConfig`] takes any subset of the keys and ignores others: whoever reads a file decides
//! how strict to be, with [`ModelConfig::KEYS`].

mod choices;
mod json;
mod presets;
pub(crate) mod suggest;
mod validate;

use serde::{Deserialize, Serialize};

pub use choices::{Decay, KernelType, MemoryUpdate, Mixer, QkNorm};
pub use presets::PRESETS;
pub(crate) use validate::Check;

/// The shape of a model and the rules of its layers.
///
/// Sizes that are `Option` follow from others when they are not given; read them through the
/// methods of the same name ([`head_dim`](Self::head_dim) and so on).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// How many tokens there are. 0 in a run's file means: as many as the tokenizer has.
    pub vocab_size: usize,
    /// Width D of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of heads H.
    pub num_attention_heads: usize,
    /// Key dimension K of a head; `hidden_size / num_attention_heads` if not given.
    pub head_dim: Option<usize>,
    /// Value dimension V of a head; `head_dim` if not given.
    pub value_head_dim: Option<usize>,
    /// Width of the feed-forward; 8/3 of `hidden_size`, rounded up to a multiple of 64, if not given.
    pub intermediate_size: Option<usize>,
    /// What mixes positions.
    pub mixer: Mixer,
    /// Length of the causal convolution on q, k and v; 0 is none.
    pub conv_kernel_size: usize,
    /// Feature map on q and k.
    pub kernel_type: KernelType,
    /// Normalisation of q and k.
    pub qk_norm: QkNorm,
    /// Whether positions are rotated into q and k.
    pub use_rotary_embeddings: bool,
    /// Which part of `head_dim` is rotated, 0 to 1.
    pub rotary_fraction: f64,
    /// Base of the rotary frequencies.
    pub rotary_embedding_base: f64,
    /// What a token does to the memory.
    pub memory_update: MemoryUpdate,
    /// Whether memory states stand beside the context state.
    pub use_multi_scale_memory: bool,
    /// How many memory states stand beside the context state.
    pub num_memory_scales: usize,
    /// How the memory forgets.
    pub decay: Decay,
    /// Half-life at the start, in tokens, of the slowest state; 16 × `max_position_embeddings` if
    /// not given.
    pub max_half_life: Option<f64>,
    /// Whether a gate weighs the memory against the context.
    pub use_gating: bool,
    /// Where that gate starts: above 0 prefers the memory, below 0 the context.
    pub gate_init_bias: f64,
    /// Whether a head's output is gated by its input.
    pub use_output_gate: bool,
    /// Dropout after the embedding and after each sublayer.
    pub hidden_dropout_prob: f64,
    /// Dropout on the mixer's output (on the attention weights with the softmax mixer).
    pub attention_probs_dropout_prob: f64,
    /// Length of a training window. No limit at inference.
    pub max_position_embeddings: usize,
    /// Standard deviation that weights start with.
    pub initializer_range: f64,
    /// Epsilon of every RMS norm.
    pub layer_norm_eps: f64,
    /// Whether the output projection is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// Token that opens a text.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Token that fills a batch.
    pub pad_token_id: Option<u32>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 0,
            hidden_size: 256,
            num_hidden_layers: 6,
            num_attention_heads: 8,
            head_dim: None,
            value_head_dim: None,
            intermediate_size: None,
            mixer: Mixer::Infinity,
            conv_kernel_size: 4,
            kernel_type: KernelType::Elu,
            qk_norm: QkNorm::L2,
            use_rotary_embeddings: true,
            rotary_fraction: 0.5,
            rotary_embedding_base: 10_000.0,
            memory_update: MemoryUpdate::Delta,
            use_multi_scale_memory: true,
            num_memory_scales: 3,
            decay: Decay::Adaptive,
            max_half_life: None,
            use_gating: true,
            gate_init_bias: 0.0,
            use_output_gate: true,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }
}

impl ModelConfig {
    /// Every key, in the order of the documentation.
    pub const KEYS: &'static [&'static str] = &[
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "value_head_dim",
        "intermediate_size",
        "mixer",
        "conv_kernel_size",
        "kernel_type",
        "qk_norm",
        "use_rotary_embeddings",
        "rotary_fraction",
        "rotary_embedding_base",
        "memory_update",
        "use_multi_scale_memory",
        "num_memory_scales",
        "decay",
        "max_half_life",
        "use_gating",
        "gate_init_bias",
        "use_output_gate",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "max_position_embeddings",
        "initializer_range",
        "layer_norm_eps",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ];

    /// Keys of the original project that mean nothing here, each with the reason.
    pub const LEGACY_KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "memory_compression_ratio",
            "the memory has a constant size, so there is nothing to compress; decay forgets continuously",
        ),
        (
            "memory_compression_frequency",
            "the memory has a constant size, so there is nothing to compress; decay forgets continuously",
        ),
        (
            "kernel_epsilon",
            "the feature maps need no epsilon: q and k are normalised, or the denominator has a floor of 1",
        ),
    ];

    /// Key dimension K of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Value dimension V of a head.
    pub fn value_head_dim(&self) -> usize {
        self.value_head_dim.unwrap_or(self.head_dim())
    }

    /// Width of the feed-forward.
    pub fn intermediate_size(&self) -> usize {
        const MULTIPLE: usize = 64;
        self.intermediate_size
            .unwrap_or((8 * self.hidden_size).div_ceil(3 * MULTIPLE) * MULTIPLE)
    }

    /// States S a head has: the context state and the memory states.
    pub fn num_states(&self) -> usize {
        if self.use_multi_scale_memory {
            1 + self.num_memory_scales
        } else {
            1
        }
    }

    /// Whether the gate between memory and context exists: it needs a memory to weigh.
    pub fn has_memory_gate(&self) -> bool {
        self.use_gating && self.num_states() > 1
    }

    /// Key channels of all heads, H·K.
    pub fn key_dim_total(&self) -> usize {
        self.num_attention_heads * self.head_dim()
    }

    /// Value channels of all heads, H·V.
    pub fn value_dim_total(&self) -> usize {
        self.num_attention_heads * self.value_head_dim()
    }

    /// How many of a head's K key dimensions are rotated: always an even number, 0 without rotary
    /// embeddings.
    pub fn rotary_dim(&self) -> usize {
        if !self.use_rotary_embeddings {
            return 0;
        }
        let pairs = (self.rotary_fraction * self.head_dim() as f64 / 2.0).round() as usize;
        2 * pairs.min(self.head_dim() / 2)
    }

    /// Half-life at the start, in tokens, of the slowest state.
    pub fn max_half_life(&self) -> f64 {
        self.max_half_life
            .unwrap_or(16.0 * self.max_position_embeddings as f64)
    }

    /// The same model with every size written out, so that no later default can change it.
    pub fn resolved(&self) -> Self {
        Self {
            head_dim: Some(self.head_dim()),
            value_head_dim: Some(self.value_head_dim()),
            intermediate_size: Some(self.intermediate_size()),
            max_half_life: Some(self.max_half_life()),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_serialized_keys() {
        let json = serde_json::to_value(ModelConfig::default()).unwrap();
        let keys: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, ModelConfig::KEYS);
        for (legacy, _) in ModelConfig::LEGACY_KEYS {
            assert!(!ModelConfig::KEYS.contains(legacy));
        }
    }

    #[test]
    fn any_subset_of_keys_is_enough() {
        let config: ModelConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config, ModelConfig::default());
        let config: ModelConfig =
            serde_json::from_str(r#"{"hidden_size": 64, "qk_norm": "denominator"}"#).unwrap();
        assert_eq!(
            (config.hidden_size, config.qk_norm),
            (64, QkNorm::Denominator)
        );
    }

    #[test]
    fn derived_sizes() {
        let config = ModelConfig::default();
        assert_eq!((config.head_dim(), config.value_head_dim()), (32, 32));
        assert_eq!(
            config.intermediate_size(),
            704,
            "682.67 rounded up to a multiple of 64"
        );
        assert_eq!((config.num_states(), config.rotary_dim()), (4, 16));
        assert_eq!(config.max_half_life(), 32_768.0);
        let alone = ModelConfig {
            use_multi_scale_memory: false,
            ..config
        };
        assert_eq!((alone.num_states(), alone.has_memory_gate()), (1, false));
    }

    #[test]
    fn the_rotated_part_is_even_and_fits() {
        for (head_dim, fraction, expected) in [
            (32, 0.5, 16),
            (10, 0.5, 6),
            (6, 0.5, 4),
            (7, 1.0, 6),
            (8, 0.0, 0),
            (1, 1.0, 0),
        ] {
            let config = ModelConfig {
                head_dim: Some(head_dim),
                rotary_fraction: fraction,
                ..ModelConfig::default()
            };
            assert_eq!(
                config.rotary_dim(),
                expected,
                "K = {head_dim}, fraction = {fraction}"
            );
        }
    }
}
