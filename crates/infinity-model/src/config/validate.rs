//! Which settings make a model: the first problem, named.

use super::limits::CHECK;
use super::{KernelType, MemoryRouting, MemoryUpdate, ModelConfig, QkNorm};
use crate::error::ConfigError;
use serde_json::Value;

/// Tokens that the distance of two folds of the memory is a multiple of.
pub(crate) const FOLD_MULTIPLE: usize = 64;

/// Token ids travel as i32.
const MAX_VOCAB_SIZE: usize = i32::MAX as usize;
const MAX_MEMORY_SCALES: usize = 31;

impl ModelConfig {
    /// Finds the first problem, if there is one.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        CHECK.within("vocab_size", self.vocab_size, 1..=MAX_VOCAB_SIZE)?;
        for (name, id) in [
            ("bos_token_id", self.bos_token_id),
            ("eos_token_id", self.eos_token_id),
            ("pad_token_id", self.pad_token_id),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= self.vocab_size) {
                let limit = format!("below model.vocab_size = {}", self.vocab_size);
                return Err(CHECK.wrong(name, id, format!("is too large: it must be {limit}")));
            }
        }
        self.validate_without_vocab()
    }

    /// [`validate`](Self::validate) for a configuration whose `vocab_size` is not known yet,
    /// because the tokenizer is still to be made.
    ///
    /// # Errors
    /// [`ConfigError`], as `validate` does.
    pub fn validate_without_vocab(&self) -> Result<(), ConfigError> {
        self.validate_numbers()?;
        self.validate_combinations()
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        // Sizes that follow from others have the same limits as those that are given.
        self.resolved().check_limits()?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        if self.head_dim.is_none() {
            let by = ("model.num_attention_heads", heads.1);
            CHECK.divisible(("hidden_size", self.hidden_size), by, "head_dim")?;
        }
        if self.use_multi_scale_memory {
            let scales = self.num_memory_scales;
            CHECK.within("num_memory_scales", scales, 1..=MAX_MEMORY_SCALES)?;
        }
        let (hidden, attention) = (self.hidden_dropout_prob, self.attention_probs_dropout_prob);
        CHECK.within("hidden_dropout_prob", hidden, 0.0..1.0)?;
        CHECK.within("attention_probs_dropout_prob", attention, 0.0..1.0)?;
        let groups = ("model.num_key_value_heads", self.num_key_value_heads());
        CHECK.divisible(heads, groups, "num_key_value_heads")?;
        self.rope_parameters.validate()?;
        self.validate_layers()?;
        CHECK.positive("initializer_range", self.initializer_range, 1.0)?;
        CHECK.positive("layer_norm_eps", self.layer_norm_eps, 0.1)?;
        if let Some(eps) = self.o_norm_eps {
            // Of a model that scales its queries it is larger by their width.
            CHECK.positive("o_norm_eps", eps, 100.0)?;
        }
        CHECK.positive("qk_l2_eps", self.qk_l2_eps, 0.1)
    }

    /// A memory that is not compressed may have any settings for it: they change nothing.
    fn validate_compression(&self) -> Result<(), ConfigError> {
        if !self.memory_compression {
            return Ok(());
        }
        let every = self.memory_compression_frequency;
        if every == 0 || !every.is_multiple_of(FOLD_MULTIPLE) {
            let wrong = format!("is not a multiple of {FOLD_MULTIPLE}, and at least that");
            return Err(CHECK.wrong("memory_compression_frequency", every, wrong));
        }
        let ratio = self.memory_compression_ratio;
        CHECK.positive("memory_compression_ratio", ratio, 0.5)
    }

    /// Two keys whose settings cannot stand together.
    pub(super) fn conflict(&self, one: &str, other: &str, why: &str) -> ConfigError {
        let all = self.to_object();
        let [one, other] = [one, other].map(|key| match &all[key] {
            Value::Array(_) => CHECK.key(key),
            value => format!("{} = {value}", CHECK.key(key)),
        });
        ConfigError::conflict(one, other, why)
    }

    fn validate_combinations(&self) -> Result<(), ConfigError> {
        let (attention, compressed) = (self.has_attention_layers(), self.memory_compression);
        let additive = self.memory_update == MemoryUpdate::Additive;
        let divided = self.qk_norm == QkNorm::Denominator;
        let layers = match self.layer_types {
            None => "mixer",
            Some(_) => "layer_types",
        };
        let conflicts = [
            (
                compressed && attention,
                ["memory_compression", layers],
                "its cache of keys and values is no memory of constant size",
            ),
            (
                compressed && self.qk_norm != QkNorm::L2,
                ["memory_compression", "qk_norm"],
                "the error is bounded for keys and queries of unit length; use \"l2\"",
            ),
            (
                !attention && self.attention_probs_dropout_prob > 0.0,
                ["attention_probs_dropout_prob", "mixer"],
                "the infinity mixer has no attention weights to drop; use model.hidden_dropout_prob",
            ),
            (
                self.allow_neg_eigval && additive,
                ["allow_neg_eigval", "memory_update"],
                "only a write that corrects can turn around what is there; use \"delta\"",
            ),
            (
                divided && self.kernel_type == KernelType::Identity,
                ["qk_norm", "kernel_type"],
                "a sum of weights is a denominator only if no weight is negative; \
                 use \"elu\", \"relu\" or \"learnable\"",
            ),
            (
                divided && self.memory_routing != MemoryRouting::Input,
                ["qk_norm", "memory_routing"],
                "states are chosen by keys and queries of unit length; use \"input\"",
            ),
            (
                divided && !additive,
                ["qk_norm", "memory_update"],
                "only additive writes have a sum of weights to divide by; use \"additive\"",
            ),
        ];
        match conflicts.into_iter().find(|(conflict, ..)| *conflict) {
            Some((_, [one, other], why)) => Err(self.conflict(one, other, why)),
            None => self.validate_compression(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LayerType, Mixer};

    fn good() -> ModelConfig {
        ModelConfig {
            vocab_size: 257,
            ..ModelConfig::first()
        }
    }

    fn message(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut config = good();
        change(&mut config);
        config
            .validate()
            .expect_err("this configuration is wrong on purpose")
            .to_string()
    }

    #[test]
    fn the_default_with_a_vocabulary_is_valid() {
        assert_eq!(ModelConfig::new(257).validate(), Ok(()));
        assert_eq!(good().validate(), Ok(()));
        assert_eq!(ModelConfig::default().validate_without_vocab(), Ok(()));
    }

    #[test]
    fn messages_name_key_value_and_limit() {
        assert_eq!(
            message(|c| c.vocab_size = 0),
            "model.vocab_size = 0 is too small: it must be at least 1"
        );
        assert_eq!(
            message(|c| c.num_attention_heads = 7),
            "model.hidden_size = 256 is not divisible by model.num_attention_heads = 7; \
             change one of them, or set model.head_dim"
        );
        assert_eq!(
            message(|c| c.eos_token_id = Some(257)),
            "model.eos_token_id = 257 is too large: it must be below model.vocab_size = 257"
        );
        assert_eq!(
            message(|c| c.rotary_fraction = f64::NAN),
            "model.rotary_fraction = NaN is not a finite number"
        );
        assert_eq!(
            message(|c| c.hidden_dropout_prob = 1.0),
            "model.hidden_dropout_prob = 1 is too large: it must be below 1"
        );
        assert_eq!(
            message(|c| c.hidden_dropout_prob = f64::INFINITY),
            "model.hidden_dropout_prob = inf is too large: it must be below 1"
        );
        assert_eq!(
            message(|c| c.layer_norm_eps = f64::NEG_INFINITY),
            "model.layer_norm_eps = -inf is too small: it must be above 0"
        );
        assert_eq!(
            message(|c| c.layer_norm_eps = 0.0),
            "model.layer_norm_eps = 0 is too small: it must be above 0"
        );
        assert_eq!(
            message(|c| c.num_key_value_heads = Some(3)),
            "model.num_attention_heads = 8 is not divisible by model.num_key_value_heads = 3; \
             change one of them, or set model.num_key_value_heads"
        );
        assert_eq!(
            message(|c| c.layer_types = Some(vec![LayerType::Sliding; 3])),
            "model.sliding_window is missing: model.layer_types has \"sliding_attention\""
        );
        assert_eq!(
            message(|c| c.layer_types = Some(vec![LayerType::Linear; 4])),
            "model.num_hidden_layers = 6 is not divisible by the length of model.layer_types = 4; \
             change one of them, or set model.layer_types"
        );
        assert_eq!(
            message(|c| {
                c.mixer = Mixer::Softmax;
                c.layer_types = Some(vec![LayerType::Linear]);
            }),
            "model.mixer = \"softmax\" does not go together with model.layer_types with \
             \"linear_attention\": the first is for models whose layers are all of one type; \
             leave it out"
        );
        let text = message(|c| {
            c.layer_types = Some(vec![LayerType::Linear, LayerType::Full]);
            (c.value_residual, c.num_key_value_heads) = (true, Some(2));
        });
        assert!(
            text.contains("256 channels of values and the others 64"),
            "{text}"
        );
        let text = message(|c| {
            (c.linear_num_key_heads, c.memory_routing) = (Some(2), MemoryRouting::Content);
        });
        assert!(text.contains("linear_num_value_heads = 8"), "{text}");
        let text = message(|c| c.linear_num_key_heads = Some(3));
        assert!(text.contains("linear_num_key_heads = 3"), "{text}");
    }

    #[test]
    fn every_size_has_limits() {
        let breaks: [fn(&mut ModelConfig); 14] = [
            |c| c.hidden_size = 0,
            |c| c.num_hidden_layers = 0,
            |c| c.num_attention_heads = 0,
            |c| c.head_dim = Some(0),
            |c| c.value_head_dim = Some(0),
            |c| c.intermediate_size = Some(0),
            |c| c.conv_kernel_size = 65,
            |c| c.num_memory_scales = 0,
            |c| c.num_memory_scales = 32,
            |c| c.max_position_embeddings = 0,
            |c| c.max_half_life = Some(1.0),
            |c| c.gate_init_bias = f64::INFINITY,
            |c| c.initializer_range = -0.02,
            |c| c.attention_probs_dropout_prob = -0.1,
        ];
        for (i, change) in breaks.into_iter().enumerate() {
            let text = message(change);
            assert!(text.starts_with("model."), "case {i}: {text}");
        }
    }

    #[test]
    fn the_denominator_needs_non_negative_features_and_additive_writes() {
        let text = message(|c| c.qk_norm = QkNorm::Denominator);
        assert!(text.contains("model.memory_update = \"delta\""), "{text}");
        let text = message(|c| {
            c.qk_norm = QkNorm::Denominator;
            c.memory_update = MemoryUpdate::Additive;
            c.kernel_type = KernelType::Identity;
        });
        assert!(text.contains("model.kernel_type = \"identity\""), "{text}");
        let text = message(|c| {
            c.qk_norm = QkNorm::Denominator;
            c.memory_update = MemoryUpdate::Additive;
            c.memory_routing = MemoryRouting::Content;
        });
        assert!(
            text.contains("model.memory_routing = \"content\""),
            "{text}"
        );
        for kernel_type in [KernelType::Elu, KernelType::Relu, KernelType::Learnable] {
            let config = ModelConfig {
                qk_norm: QkNorm::Denominator,
                memory_update: MemoryUpdate::Additive,
                kernel_type,
                ..good()
            };
            assert_eq!(config.validate(), Ok(()));
        }
    }

    #[test]
    fn only_delta_writes_can_turn_around() {
        let turning = ModelConfig {
            allow_neg_eigval: true,
            ..good()
        };
        assert_eq!(turning.validate(), Ok(()));
        let text = message(|c| {
            c.allow_neg_eigval = true;
            c.memory_update = MemoryUpdate::Additive;
        });
        assert!(
            text.contains("model.allow_neg_eigval = true")
                && text.contains("model.memory_update = \"additive\""),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_compressed_is_named() {
        let compressed = |change: fn(&mut ModelConfig)| {
            message(|c| {
                c.memory_compression = true;
                change(c);
            })
        };
        for (text, words) in [
            (compressed(|c| c.mixer = Mixer::Softmax), "softmax"),
            (
                compressed(|c| c.layer_types = Some(vec![LayerType::Linear, LayerType::Full])),
                "layer_types",
            ),
            (
                compressed(|c| {
                    c.qk_norm = QkNorm::Denominator;
                    c.memory_update = MemoryUpdate::Additive;
                }),
                "denominator",
            ),
            (
                compressed(|c| c.memory_compression_frequency = 100),
                "memory_compression_frequency = 100 is not a multiple of 64",
            ),
            (
                compressed(|c| c.memory_compression_frequency = 0),
                "memory_compression_frequency = 0",
            ),
            (
                compressed(|c| c.memory_compression_ratio = 0.6),
                "memory_compression_ratio = 0.6 is too large",
            ),
            (
                compressed(|c| c.memory_compression_ratio = 0.0),
                "memory_compression_ratio = 0 is too small",
            ),
        ] {
            assert!(text.contains(words), "{text}");
        }
        let mut off = good();
        (
            off.memory_compression_frequency,
            off.memory_compression_ratio,
        ) = (100, 0.9);
        assert_eq!(off.validate(), Ok(()), "alone they do nothing");
    }

    #[test]
    fn a_head_dim_of_its_own_needs_no_divisibility() {
        let config = ModelConfig {
            num_attention_heads: 7,
            head_dim: Some(32),
            ..good()
        };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn dropout_that_the_mixer_does_not_have_is_refused() {
        let text = message(|c| c.attention_probs_dropout_prob = 0.1);
        assert!(
            text.contains("model.attention_probs_dropout_prob = 0.1")
                && text.contains("model.mixer = \"infinity\""),
            "{text}"
        );
        let softmax = ModelConfig {
            mixer: Mixer::Softmax,
            attention_probs_dropout_prob: 0.1,
            ..good()
        };
        assert_eq!(softmax.validate(), Ok(()));
    }
}
