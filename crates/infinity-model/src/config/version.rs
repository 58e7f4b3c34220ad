//! What a file means that does not say everything.
//!
//! A `config.json` carries the version of its format and every key of its time. A key that it lacks is
//! newer than the file, and means there what it meant before it existed: [`ModelConfig::first`], which
//! never changes, whatever [`Default`] becomes.

use serde_json::{Map, Value};

use super::ModelConfig;
use crate::error::ConfigError;

/// The key of the version in `config.json`.
pub(super) const FORMAT_VERSION: &str = "format_version";

/// The version that is written. Files from before have none.
pub(super) const VERSION: u64 = 1;

/// Refuses a file of a later version.
pub(super) fn check(object: &Map<String, Value>) -> Result<(), ConfigError> {
    let new = |found: &&Value| found.as_u64().is_none_or(|version| version > VERSION);
    let Some(found) = object.get(FORMAT_VERSION).filter(new) else {
        return Ok(());
    };
    let limit = format!("a whole number of at most {VERSION}, which this program reads");
    let wrong = format!("is too large: it must be {limit}");
    Err(ConfigError::value(FORMAT_VERSION, found, wrong))
}

/// The keys of `object` over what the others meant before they existed.
pub(super) fn completed(object: Map<String, Value>) -> Map<String, Value> {
    let mut all = ModelConfig::first().to_object();
    all.extend(object);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The keys of a file that was written before there were versions, its sizes written out.
    const OLD: &str = r#"{
        "model_type": "infinityformer", "architectures": ["InfinityFormerForCausalLM"],
        "torch_dtype": "float32", "vocab_size": 65, "hidden_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "head_dim": 32, "value_head_dim": 32, "intermediate_size": 256,
        "mixer": "infinity", "conv_kernel_size": 4, "kernel_type": "identity", "qk_norm": "l2",
        "use_rotary_embeddings": true, "rotary_fraction": 0.5, "rotary_embedding_base": 10000.0,
        "memory_update": "delta", "use_multi_scale_memory": true, "num_memory_scales": 3,
        "decay": "adaptive", "max_half_life": 2048.0, "use_gating": true, "gate_init_bias": 0.0,
        "use_output_gate": true, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 128, "initializer_range": 0.02, "layer_norm_eps": 1e-05,
        "tie_word_embeddings": true, "bos_token_id": null, "eos_token_id": null,
        "pad_token_id": null
    }"#;

    /// What a program makes of a file whose defaults are other ones by then.
    fn read_by_another(text: &str) -> ModelConfig {
        let object: Map<String, Value> = serde_json::from_str(text).unwrap();
        let moved = ModelConfig {
            value_residual: true,
            allow_neg_eigval: true,
            use_multi_scale_memory: false,
            num_memory_scales: 1,
            ..ModelConfig::default()
        };
        let Ok(Value::Object(mut all)) = serde_json::to_value(moved) else {
            unreachable!()
        };
        all.extend(completed(object));
        serde_json::from_value(Value::Object(all)).unwrap()
    }

    #[test]
    fn an_old_file_means_what_it_meant() {
        let read = ModelConfig::from_json(OLD).unwrap();
        assert!(!read.value_residual && !read.input_residual && !read.allow_neg_eigval);
        assert_eq!((read.hidden_size, read.num_memory_scales), (128, 3));
        assert_eq!(read_by_another(OLD), read, "whatever the defaults are");
        // Every key that it does not have is the first one.
        let few = ModelConfig::from_json(r#"{"vocab_size": 9}"#).unwrap();
        let first = ModelConfig {
            vocab_size: 9,
            ..ModelConfig::first()
        };
        assert_eq!(
            (few, read_by_another(r#"{"vocab_size": 9}"#)),
            (first.clone(), first)
        );
    }

    #[test]
    fn files_carry_their_version_and_later_ones_are_refused() {
        let config = ModelConfig {
            value_residual: true,
            ..ModelConfig::new(9)
        };
        let text = config.to_json();
        assert!(text.contains("\"format_version\": 1"), "{text}");
        assert_eq!(ModelConfig::from_json(&text).unwrap(), config.resolved());
        for wrong in ["2", "\"1\"", "-1", "1.5"] {
            let text = format!(r#"{{"vocab_size": 9, "format_version": {wrong}}}"#);
            let error = ModelConfig::from_json(&text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("format_version = {wrong}")),
                "{error}"
            );
        }
        assert!(check(&Map::from_iter([(FORMAT_VERSION.into(), json!(0))])).is_ok());
    }

    /// Controls are what they were, whatever the defaults become: they start from the first values.
    #[test]
    fn controls_do_not_follow_the_defaults() {
        for name in super::super::PRESETS
            .iter()
            .filter(|name| **name != "infinity")
        {
            let preset = ModelConfig::preset(name).unwrap();
            assert!(!preset.value_residual && !preset.input_residual && !preset.allow_neg_eigval);
            assert!(
                !preset.use_multi_scale_memory && !preset.memory_compression,
                "{name}"
            );
            assert_eq!(preset.hidden_size, ModelConfig::first().hidden_size);
        }
    }
}
