//! `[model]`: everything that decides which network is built.
//!
//! The same keys stand in a run's TOML and in a model directory's `config.json`. They are Hugging
//! Face's and the original project's words, so a configuration reads like others do.
//! [`ModelConfig`] takes any subset of the keys and ignores others: the reader of a file decides how
//! strict to be, with [`ModelConfig::KEYS`] or the schema.

mod choices;
mod json;
mod layer_types;
mod limits;
mod rope;
mod validate;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use choices::{
    AttnNormOrder, AttnQkNorm, Decay, KernelType, LayerType, MemoryRouting, MemoryUpdate, Mixer,
    OutputGateAct, QkNorm, RopeType,
};
pub(crate) use choices::{choice, did_you_mean};
pub use layer_types::LinearHeads;
pub(crate) use limits::Check;
pub use rope::RopeParameters;

/// Declares [`ModelConfig`]: the one place where a key has its name, description, default and limits.
/// Serde, the JSON schema, the setters and the checks follow from it.
macro_rules! model_config {
    ($(
        $(#[doc = $doc:literal])+
        $(#[serde($($serde:tt)+)])?
        $key:ident: $type:ty = $default:expr $(, first $first:expr)? $(, $low:literal..=$high:literal)?;
    )+) => {
        /// The shape of a model and the rules of its layers.
        ///
        /// Sizes that are `Option` follow from others when they are not given; read them through
        /// the methods of the same name ([`head_dim`](Self::head_dim) and so on).
        ///
        /// ```
        /// use infinity_model::ModelConfig;
        ///
        /// let config = ModelConfig::new(257).with_hidden_size(64).with_num_hidden_layers(2);
        /// assert_eq!((config.head_dim(), config.num_states()), (16, 1));
        /// assert_eq!(config.validate(), Ok(()));
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        pub struct ModelConfig {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)+)])?
                $(#[schemars(range(min = $low, max = $high))])?
                pub $key: $type,
            )+
        }

        impl Default for ModelConfig {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl ModelConfig {
            /// Every key, in the order of the documentation.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];

            /// What every key means in a file that lacks it: how models were before there was the key.
            ///
            /// A new key's default is the value that changes nothing. A row whose default becomes another
            /// one keeps the old as its `first`, which is never changed.
            pub fn first() -> Self {
                Self {
                    $($($key: $first,)?)+
                    ..Self::default()
                }
            }

            pastey::paste! {$(
                #[doc = "Sets [`" $key "`](Self::" $key ")."]
                pub fn [<with_ $key>](mut self, $key: $type) -> Self {
                    self.$key = $key;
                    self
                }
            )+}

            /// Compares every key that has limits with them.
            fn check_limits(&self) -> Result<(), crate::error::ConfigError> {
                $($(
                    if let Some(value) = limits::Number::number(&self.$key) {
                        limits::CHECK.within(stringify!($key), value, $low as f64..=$high as f64)?;
                    }
                )?)+
                Ok(())
            }
        }
    };
}

model_config! {
    /// How many tokens there are. 0 in a run's file means: as many as the tokenizer has.
    vocab_size: usize = 0;
    /// Width D of the residual stream.
    hidden_size: usize = 256, 1..=131_072;
    /// Number of blocks.
    num_hidden_layers: usize = 6, 1..=1024;
    /// Number of heads H.
    num_attention_heads: usize = 4, first 8, 1..=1024;
    /// Key dimension K of a head; `hidden_size / num_attention_heads` if not given.
    head_dim: Option<usize> = None, 1..=1024;
    /// Value dimension V of a head; `head_dim` if not given.
    value_head_dim: Option<usize> = None, 1..=1024;
    /// Width of the feed-forward; 8/3 of `hidden_size`, rounded up to a multiple of 64, if not given.
    intermediate_size: Option<usize> = None, 1..=1_048_576;
    /// What mixes positions.
    mixer: Mixer = Mixer::Infinity;
    /// What each layer is, from the first on: "linear_attention", "full_attention" or "sliding_attention"; a
    /// shorter list is repeated. All are what `mixer` says if not given. Below, full layers are those of
    /// softmax attention, sliding ones included.
    layer_types: Option<Vec<LayerType>> = None;
    /// How many tokens a sliding layer looks at, the present one included.
    sliding_window: Option<usize> = None, 1..=1_073_741_824;
    /// Heads of queries and keys in linear layers; `num_attention_heads` if not given.
    linear_num_key_heads: Option<usize> = None, 1..=1024;
    /// Heads of values in linear layers, as many for each head of keys; `num_attention_heads` if not given.
    linear_num_value_heads: Option<usize> = None, 1..=1024;
    /// Key dimension of a head in linear layers; `head_dim` if not given.
    linear_key_head_dim: Option<usize> = None, 1..=1024;
    /// Value dimension of a head in linear layers; `value_head_dim` if not given.
    linear_value_head_dim: Option<usize> = None, 1..=1024;
    /// Heads of keys and values in full layers, of which each serves as many heads of queries;
    /// `num_attention_heads` if not given.
    num_key_value_heads: Option<usize> = None, 1..=1024;
    /// RMS norm of queries and keys in full layers.
    attn_qk_norm: AttnQkNorm = AttnQkNorm::None;
    /// Whether the output of full layers is gated by their input.
    attn_output_gate: bool = false;
    /// Where the norms of blocks with full layers stand.
    attn_norm_order: AttnNormOrder = AttnNormOrder::Pre;
    /// Whether all projections of full layers have biases.
    attention_bias: bool = false;
    /// Whether the projections to queries, keys and values of full layers have biases.
    qkv_bias: bool = false;
    /// Whether the projections of the feed-forward have biases.
    mlp_bias: bool = false;
    /// Rotary positions of full layers; as the rotary keys below if nothing of it is given.
    #[serde(deserialize_with = "rope::or_none")]
    rope_parameters: RopeParameters = RopeParameters::default();
    /// Length of the causal convolution on q, k and v; 0 is none.
    conv_kernel_size: usize = 4, 0..=64;
    /// Feature map on q and k.
    kernel_type: KernelType = KernelType::Elu;
    /// Normalisation of q and k.
    qk_norm: QkNorm = QkNorm::L2;
    /// Whether positions are rotated into q and k.
    use_rotary_embeddings: bool = true;
    /// Which part of `head_dim` is rotated.
    rotary_fraction: f64 = 0.5, 0.0..=1.0;
    /// Base of the rotary frequencies.
    rotary_embedding_base: f64 = 10_000.0, 1.0..=1e12;
    /// What a token does to the memory.
    memory_update: MemoryUpdate = MemoryUpdate::Delta;
    /// Whether the write strength reaches 2 instead of 1, so that a write may turn what the memory says
    /// of its key around; delta writes only.
    allow_neg_eigval: bool = false;
    /// Whether memory states stand beside the context state. One state whose heads have more numbers in a key
    /// holds more in as many bytes.
    use_multi_scale_memory: bool = false, first true;
    /// How many memory states stand beside the context state.
    num_memory_scales: usize = 3;
    /// What decides to which of several states a token writes and from which it reads; "content" needs
    /// `qk_norm` = "l2".
    memory_routing: MemoryRouting = MemoryRouting::Input;
    /// How the memory forgets.
    decay: Decay = Decay::Adaptive;
    /// Half-life at the start, in tokens, of the slowest state; 16 × `max_position_embeddings` if
    /// not given.
    max_half_life: Option<f64> = None, 4.0..=1e12;
    /// Whether the memory is compressed every so often while a text is read; for inference only, and
    /// `qk_norm = "l2"`.
    memory_compression: bool = false;
    /// Tokens of a row between two compressions, a multiple of 64.
    memory_compression_frequency: usize = 128;
    /// Size of the compressed memory as a part of the exact one: up to 0.15 is 4 bits a number, up to
    /// 0.3 is 8, up to 0.5 is bf16.
    memory_compression_ratio: f64 = 0.3;
    /// Whether a gate weighs the memory against the context.
    use_gating: bool = true;
    /// Where that gate starts: above 0 prefers the memory, below 0 the context.
    gate_init_bias: f64 = 0.0, -15.0..=15.0;
    /// Whether a head's output is gated by its input.
    use_output_gate: bool = true;
    /// What becomes of that gate before it multiplies.
    output_gate_act: OutputGateAct = OutputGateAct::Sigmoid;
    /// Epsilon of the RMS norm of a head's output in linear layers; `layer_norm_eps` if not given.
    o_norm_eps: Option<f64> = None;
    /// What is added to the square of the length of a query or key before it gets unit length.
    qk_l2_eps: f64 = 1e-12;
    /// Whether layers after the first add the first layer's values to theirs, by two learned scalars.
    value_residual: bool = false;
    /// Whether layers after the first read the embedding beside the layer before, by two learned
    /// scalars.
    input_residual: bool = false;
    /// Dropout after the embedding and after each sublayer.
    hidden_dropout_prob: f64 = 0.0;
    /// Dropout on the attention weights of the softmax mixer; the infinity mixer has none to drop.
    attention_probs_dropout_prob: f64 = 0.0;
    /// Length of a training window. No limit at inference.
    max_position_embeddings: usize = 2048, 1..=1_073_741_824;
    /// Standard deviation that weights start with.
    initializer_range: f64 = 0.02;
    /// Epsilon of every RMS norm.
    layer_norm_eps: f64 = 1e-5;
    /// Whether the output projection is the embedding, transposed.
    tie_word_embeddings: bool = true;
    /// Token that opens a text.
    bos_token_id: Option<u32> = None;
    /// Token that ends a text.
    eos_token_id: Option<u32> = None;
    /// Token that fills a batch.
    pad_token_id: Option<u32> = None;
}

/// The names that [`ModelConfig::preset`] knows.
pub const PRESETS: &[&str] = &[
    "infinity",
    "gated-deltanet",
    "retnet",
    "linear-transformer",
    "mamba2",
    "softmax",
];

impl ModelConfig {
    /// Keys of the original project that mean nothing here, each with the reason.
    pub const LEGACY_KEYS: &'static [(&'static str, &'static str)] = &[
        (
            "kernel_epsilon",
            "the feature maps need no epsilon: q and k are normalised, or the denominator has a floor of 1",
        ),
        (
            "linear_allow_neg_eigval",
            "here it is called allow_neg_eigval",
        ),
    ];

    /// Keys that change nothing unless `memory_compression` is on.
    pub const COMPRESSION_KEYS: &'static [&'static str] =
        &["memory_compression_frequency", "memory_compression_ratio"];

    /// The default model for a vocabulary of `vocab_size` tokens.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            ..Self::default()
        }
    }

    /// The settings of a known layer, or `None` if the name is not one of [`PRESETS`].
    ///
    /// A preset fixes the rules of the mixer, whatever the defaults are, and no sizes. The layers are the
    /// published recurrences inside this project's block (SwiGLU, RMS norms), not copies of the
    /// published networks: Mamba-2 and RetNet, for example, use unnormalised keys.
    pub fn preset(name: &str) -> Option<Self> {
        // From the first values, not the defaults: a known layer does not change with these.
        let one_state = Self {
            use_multi_scale_memory: false,
            use_gating: false,
            kernel_type: KernelType::Identity,
            use_rotary_embeddings: false,
            ..Self::first()
        };
        Some(match name {
            "infinity" => Self::default(),
            "gated-deltanet" => one_state,
            "retnet" => Self {
                memory_update: MemoryUpdate::Additive,
                decay: Decay::Fixed,
                use_rotary_embeddings: true,
                rotary_fraction: 1.0,
                conv_kernel_size: 0,
                ..one_state
            },
            "linear-transformer" => Self {
                memory_update: MemoryUpdate::Additive,
                decay: Decay::None,
                qk_norm: QkNorm::Denominator,
                kernel_type: KernelType::Elu,
                conv_kernel_size: 0,
                use_output_gate: false,
                ..one_state
            },
            "mamba2" => Self {
                memory_update: MemoryUpdate::Additive,
                ..one_state
            },
            "softmax" => Self {
                mixer: Mixer::Softmax,
                use_rotary_embeddings: true,
                rotary_fraction: 1.0,
                conv_kernel_size: 0,
                use_output_gate: false,
                ..one_state
            },
            _ => return None,
        })
    }

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
        match self.use_multi_scale_memory {
            true => 1 + self.num_memory_scales,
            false => 1,
        }
    }

    /// Whether what a token says decides about states: there must be several.
    pub fn routes_by_content(&self) -> bool {
        self.memory_routing == MemoryRouting::Content && self.num_states() > 1
    }

    /// Whether the gate between memory and context exists: it needs a memory to weigh.
    pub fn has_memory_gate(&self) -> bool {
        self.use_gating && self.num_states() > 1
    }

    /// Channels of queries of all heads of a full layer, H·K.
    pub fn key_dim_total(&self) -> usize {
        self.num_attention_heads * self.head_dim()
    }

    /// Channels of outputs of all heads of a full layer, H·V.
    pub fn value_dim_total(&self) -> usize {
        self.num_attention_heads * self.value_head_dim()
    }

    /// Heads of keys and values in full layers.
    pub fn num_key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
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
        // The schema tells the same keys, each with its description and its default.
        let schema = serde_json::to_value(schemars::schema_for!(ModelConfig)).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.len(), keys.len());
        for key in keys {
            let property = &properties[key];
            assert!(property["description"].is_string(), "{key}");
            assert_eq!(property["default"], json[key], "{key}");
        }
        assert_eq!(properties["conv_kernel_size"]["maximum"], 64);
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
        assert_eq!((config.head_dim(), config.value_head_dim()), (64, 64));
        assert_eq!(
            config.intermediate_size(),
            704,
            "682.67 rounded up to a multiple of 64"
        );
        assert_eq!((config.num_states(), config.rotary_dims().rotated), (1, 32));
        assert_eq!(config.max_half_life(), 32_768.0);
        assert!(!config.has_memory_gate());
        let several = ModelConfig {
            use_multi_scale_memory: true,
            ..config
        };
        assert_eq!((several.num_states(), several.has_memory_gate()), (4, true));
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
                config.rotary_dims().rotated,
                expected,
                "K = {head_dim}, fraction = {fraction}"
            );
        }
    }

    #[test]
    fn every_preset_is_valid_and_different() {
        let mut seen = Vec::new();
        for name in PRESETS {
            let config = ModelConfig::preset(name).expect(name);
            assert_eq!(config.validate_without_vocab(), Ok(()), "{name}");
            assert!(!seen.contains(&config), "{name} is another preset again");
            seen.push(config);
        }
        assert_eq!(ModelConfig::preset("gated_deltanet"), None);
    }

    #[test]
    fn gated_deltanet_is_one_delta_state_with_adaptive_decay() {
        let config = ModelConfig::preset("gated-deltanet").unwrap();
        assert_eq!(config.num_states(), 1);
        assert_eq!(config.memory_update, MemoryUpdate::Delta);
        assert_eq!(config.decay, Decay::Adaptive);
        assert!(!config.has_memory_gate());
    }
}
