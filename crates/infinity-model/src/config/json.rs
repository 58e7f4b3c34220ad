//! `config.json` of a model directory, in the way Hugging Face's tools write theirs.

use serde_json::{Map, Value, json};

use super::{ModelConfig, did_you_mean, version};
use crate::error::ConfigError;

const MODEL_TYPE: &str = "infinityformer";
const ARCHITECTURE: &str = "InfinityFormerForCausalLM";

/// Keys that Hugging Face's tools write into every `config.json` and that build nothing.
const TOLERATED_KEYS: &[&str] = &[
    "model_type",
    "architectures",
    version::FORMAT_VERSION,
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
            (version::FORMAT_VERSION.into(), json!(version::VERSION)),
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
        version::check(&object)?;
        for key in object.keys() {
            check_key(key)?;
        }
        // From the text first, because only so does the message have a line and a column.
        serde_json::from_str::<Self>(text)?;
        let mut config: Self = serde_json::from_value(version::completed(object).into())?;
        // Files of earlier versions may have it beside a mixer in which it never did anything.
        if !config.has_attention_layers() && config.attention_probs_dropout_prob < 1.0 {
            config.attention_probs_dropout_prob = config.attention_probs_dropout_prob.min(0.0);
        }
        config.validate()?;
        Ok(config)
    }
}

fn check_model_type(object: &Map<String, Value>) -> Result<(), ConfigError> {
    match object.get("model_type") {
        None => Ok(()),
        Some(Value::String(name)) if name == MODEL_TYPE => Ok(()),
        Some(other) => {
            let shown = other.to_string();
            let word = other.as_str().unwrap_or(&shown);
            Err(ConfigError::unknown(
                "model_type",
                word,
                format!("\"{MODEL_TYPE}\""),
            ))
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
    Err(ConfigError::UnknownKey {
        key: format!("model.{key}"),
        hint,
    })
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
}
