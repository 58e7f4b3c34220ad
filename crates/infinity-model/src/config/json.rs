//! `config.json` of a model directory, in the way Hugging Face's tools write theirs.
//!
//! It carries the version of its format and every key of its time. A key that it lacks is newer than the
//! file, and means there what it meant before it existed: [`ModelConfig::first`], which never changes,
//! whatever [`Default`] becomes.

use serde_json::{Map, Value, json};

use super::{ModelConfig, did_you_mean};
use crate::error::ConfigError;

const MODEL_TYPE: &str = "infinityformer";
const ARCHITECTURE: &str = "InfinityFormerForCausalLM";

/// The key of the version.
const FORMAT_VERSION: &str = "format_version";

/// The version that is written. Files from before have none.
const VERSION: u64 = 1;

/// Keys that Hugging Face's tools write into every `config.json` and that build nothing.
const TOLERATED_KEYS: &[&str] = &[
    "model_type",
    "architectures",
    FORMAT_VERSION,
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation_autoset",
    "auto_map",
    "use_cache",
    "tokenizer_class",
];

impl ModelConfig {
    /// The text of `config.json`, every size written out.
    pub fn to_json(&self) -> String {
        self.to_json_of("float32")
    }

    /// [`to_json`](Self::to_json) for weights of the format that PyTorch calls `dtype`.
    pub(crate) fn to_json_of(&self, dtype: &str) -> String {
        let mut object = Map::from_iter([
            ("model_type".into(), json!(MODEL_TYPE)),
            ("architectures".into(), json!([ARCHITECTURE])),
            ("torch_dtype".into(), json!(dtype)),
            (FORMAT_VERSION.into(), json!(VERSION)),
        ]);
        object.extend(self.resolved().to_object());
        format!("{:#}\n", Value::Object(object))
    }

    /// Every key with its value.
    pub(crate) fn to_object(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(keys)) => keys,
            _ => unreachable!("a struct with named fields, all of which have a JSON form"),
        }
    }

    /// Reads the text of a `config.json` and checks it.
    ///
    /// # Errors
    /// Not a JSON object, another model's configuration, an unknown key, a value of the wrong
    /// type, or anything that [`validate`](Self::validate) finds.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let object: Map<String, Value> = serde_json::from_str(text)?;
        check_model_type(&object)?;
        check_version(&object)?;
        for key in object.keys() {
            check_key(key)?;
        }
        // From the text first, because only so does the message have a line and a column.
        serde_json::from_str::<Self>(text)?;
        let mut config: Self = serde_json::from_value(completed(object).into())?;
        // Files of earlier versions may have it beside a mixer in which it never did anything.
        if !config.has_attention_layers() && config.attention_probs_dropout_prob < 1.0 {
            config.attention_probs_dropout_prob = config.attention_probs_dropout_prob.min(0.0);
        }
        config.validate()?;
        Ok(config)
    }
}

fn check_model_type(object: &Map<String, Value>) -> Result<(), ConfigError> {
    match object.get("model_type").filter(|name| **name != MODEL_TYPE) {
        None => Ok(()),
        Some(other) => {
            let shown = other.to_string();
            let word = other.as_str().unwrap_or(&shown);
            let limit = format!("\"{MODEL_TYPE}\"");
            Err(ConfigError::unknown("model_type", word, limit))
        }
    }
}

fn check_key(key: &str) -> Result<(), ConfigError> {
    if ModelConfig::KEYS.contains(&key) || TOLERATED_KEYS.contains(&key) {
        return Ok(());
    }
    let mut legacy = ModelConfig::LEGACY_KEYS.iter();
    let hint = match legacy.find(|(legacy, _)| *legacy == key) {
        Some((_, why)) => format!(": {why}"),
        None => did_you_mean(key, ModelConfig::KEYS),
    };
    Err(ConfigError::unknown_key(format!("model.{key}"), hint))
}

/// Refuses a file of a later version.
fn check_version(object: &Map<String, Value>) -> Result<(), ConfigError> {
    let new = |found: &&Value| found.as_u64().is_none_or(|version| version > VERSION);
    let Some(found) = object.get(FORMAT_VERSION).filter(new) else {
        return Ok(());
    };
    let limit = format!("a whole number of at most {VERSION}, which this program reads");
    let wrong = format!("is too large: it must be {limit}");
    Err(ConfigError::value(FORMAT_VERSION, found, wrong))
}

/// The keys of `object` over what the others meant before they existed.
fn completed(object: Map<String, Value>) -> Map<String, Value> {
    let mut all = ModelConfig::first().to_object();
    all.extend(object);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KernelType, Mixer};

    #[test]
    fn writing_and_reading_gives_the_same_model() {
        let config = ModelConfig {
            vocab_size: 300,
            kernel_type: KernelType::Learnable,
            mixer: Mixer::Softmax,
            eos_token_id: Some(256),
            ..ModelConfig::default()
        };
        let read = ModelConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(read, config.resolved());
        assert_eq!(read.to_json(), config.to_json());
        assert!(config.to_json().contains("\"intermediate_size\": 704"));
    }

    #[test]
    fn what_other_tools_add_is_tolerated_and_nothing_else() {
        let text = r#"{"vocab_size": 9, "transformers_version": "4.50.0", "use_cache": true}"#;
        assert_eq!(ModelConfig::from_json(text).unwrap().vocab_size, 9);
        let error = ModelConfig::from_json(r#"{"vocab_size": 9, "hiden_size": 64}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "model.hiden_size is not a known key; did you mean \"hidden_size\"?"
        );
        let error = ModelConfig::from_json(r#"{"kernel_epsilon": 0.1}"#).unwrap_err();
        assert!(error.to_string().contains("need no epsilon"), "{error}");
    }

    #[test]
    fn another_models_configuration_is_refused() {
        let error = ModelConfig::from_json(r#"{"model_type": "llama"}"#).unwrap_err();
        assert!(error.to_string().contains("\"llama\""), "{error}");
        for text in [
            "",
            "[1]",
            "{",
            r#"{"vocab_size": "many"}"#,
            r#"{"vocab_size": -1}"#,
        ] {
            let error = ModelConfig::from_json(text).unwrap_err();
            assert!(matches!(error, ConfigError::Json { .. }), "{text}: {error}");
        }
        let error = ModelConfig::from_json(r#"{"vocab_size": 0}"#).unwrap_err();
        assert!(error.to_string().contains("too small"), "{error}");
    }

    #[test]
    fn an_old_file_with_a_dropout_that_did_nothing_is_read_without_it() {
        let text = r#"{"vocab_size": 9, "attention_probs_dropout_prob": 0.1}"#;
        let read = ModelConfig::from_json(text).unwrap();
        assert_eq!(read, ModelConfig::first().with_vocab_size(9));
        let text = text.replace('}', r#", "mixer": "softmax"}"#);
        let read = ModelConfig::from_json(&text).unwrap();
        assert_eq!(read.attention_probs_dropout_prob, 0.1);
        for wrong in ["1.0", "-0.1"] {
            let text = format!(r#"{{"vocab_size": 9, "attention_probs_dropout_prob": {wrong}}}"#);
            assert!(ModelConfig::from_json(&text).is_err(), "{wrong}");
        }
    }

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
        assert!(check_version(&Map::from_iter([(FORMAT_VERSION.into(), json!(0))])).is_ok());
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

    /// What a file means that lacks keys. A new key is added; nothing that is here is ever changed.
    const FIRST: &str = r#"{
        "vocab_size": 0, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8,
        "head_dim": null, "value_head_dim": null, "intermediate_size": null, "mixer": "infinity",
        "layer_types": null, "sliding_window": null, "linear_num_key_heads": null,
        "linear_num_value_heads": null, "linear_key_head_dim": null,
        "linear_value_head_dim": null, "num_key_value_heads": null, "attn_qk_norm": "none",
        "attn_output_gate": false, "attn_norm_order": "pre", "attention_bias": false,
        "qkv_bias": false, "mlp_bias": false, "rope_parameters": {}, "conv_kernel_size": 4,
        "kernel_type": "elu", "qk_norm": "l2", "use_rotary_embeddings": true,
        "rotary_fraction": 0.5, "rotary_embedding_base": 10000.0, "memory_update": "delta",
        "allow_neg_eigval": false, "use_multi_scale_memory": true, "num_memory_scales": 3,
        "memory_routing": "input", "decay": "adaptive", "max_half_life": null,
        "memory_compression": false, "memory_compression_frequency": 128,
        "memory_compression_ratio": 0.3, "use_gating": true, "gate_init_bias": 0.0,
        "use_output_gate": true, "output_gate_act": "sigmoid", "o_norm_eps": null,
        "qk_l2_eps": 1e-12, "value_residual": false, "input_residual": false,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 2048, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": null, "eos_token_id": null,
        "pad_token_id": null
    }"#;

    #[test]
    fn the_first_values_never_change() {
        let first: Value = serde_json::from_str(FIRST).unwrap();
        assert_eq!(Value::Object(ModelConfig::first().to_object()), first);
    }
}
