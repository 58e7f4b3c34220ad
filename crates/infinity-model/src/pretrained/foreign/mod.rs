//! Models that others trained, in the files that their own programs write: a family's configuration as one
//! of ours, and where each of our weights is among theirs.

mod families;
mod keys;
mod names;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::error::ConfigError;
use families::MOE;
use keys::Keys;
pub(super) use names::Names;

/// Another family's `config.json`, understood.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    /// The same network as a configuration of ours.
    pub(super) config: ModelConfig,
    /// The tokens that end a text, as far as `config.json` says.
    pub(super) ends: Vec<u32>,
    /// What was in the file and changes nothing here.
    pub(super) notes: Vec<String>,
    /// Where the weights are.
    pub(super) names: Names,
}

/// What is read, in words.
const READ: &str = "infinityformer, llama, qwen3, qwen3_5, qwen3_5_text, qwen3_next (without experts), \
                    olmo_hybrid or gated_deltanet";

/// Model types that are no family of ours, by a part of their names, each with what is missing.
const REFUSED: &[(&str, &str)] = &[
    (
        "qwen4_exp",
        "it is another network than Qwen3.5, whose layers this program does not have",
    ),
    ("moe", MOE),
    ("mixtral", MOE),
    ("mamba", MAMBA),
    ("bamba", MAMBA),
];
const MAMBA: &str = "Mamba-2's layers (unnormalised keys, a skip, a norm by groups) are not there";

impl Foreign {
    /// The text of a `config.json`; `None` if it is one of ours.
    ///
    /// # Errors
    /// A family that is not read, a value that it cannot be run with, or what
    /// [`ModelConfig::validate`] finds.
    pub(super) fn read(text: &str) -> Result<Option<Self>, ConfigError> {
        let parsed: Result<Map<String, Value>, _> = serde_json::from_str(text);
        // What is no JSON at all is told by the reader of our own files.
        let Ok(object) = parsed else { return Ok(None) };
        let model_type = match object.get("model_type") {
            None => return Ok(None),
            Some(Value::String(name)) if name == "infinityformer" => return Ok(None),
            Some(Value::String(name)) => name.as_str(),
            Some(other) => {
                let shown = other.to_string();
                return Err(ConfigError::unknown("model_type", &shown, READ));
            }
        };
        let top = Keys::new(&object);
        let why = "weights are read as f32, bf16 or f16, not quantised";
        top.only("quantization_config", &[], why)?;
        let settings = match model_type {
            "llama" => families::llama(&top)?,
            "qwen3" => families::qwen3(&top)?,
            "qwen3_5_text" | "qwen3_next" => families::qwen_hybrid(&top, model_type)?,
            "qwen3_5" => return Self::multimodal(&top).map(Some),
            "olmo_hybrid" => families::olmo(&top)?,
            "gated_deltanet" => families::fla(&top)?,
            other => return Err(refused(other)),
        };
        Self::of(&top, settings, Vec::new()).map(Some)
    }

    /// The language model in a model that also sees.
    fn multimodal(top: &Keys<'_>) -> Result<Self, ConfigError> {
        let text = top.section("text_config")?;
        let missing = || ConfigError::missing("text_config", "it is the language model's part");
        let text = text.ok_or_else(missing)?;
        let tied = [
            top.value("tie_word_embeddings"),
            text.value("tie_word_embeddings"),
        ];
        let mut settings = families::qwen_hybrid(&text, "qwen3_5_text")?;
        if let [Some(outer), inner] = tied {
            if inner.is_some_and(|inner| inner != outer) {
                let why = "text_config.tie_word_embeddings says the opposite";
                return Err(top.unsupported("tie_word_embeddings", outer, why));
            }
            settings.names.tied = top.flag("tie_word_embeddings", false)?;
        }
        if text.value("eos_token_id").is_none() {
            settings.ends = top.tokens("eos_token_id")?;
        }
        let seen = [
            "eos_token_id",
            "vision_config",
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
            "audio_config",
            "bos_token_id",
            "pad_token_id",
            "language_model_only",
        ];
        Self::of(&text, settings, top.notes(&seen))
    }

    fn of(
        keys: &Keys<'_>,
        settings: families::Settings,
        mut notes: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let vocab_size = settings.vocab_size;
        let known = |ids: Vec<u32>| -> Vec<u32> {
            let ids = ids.into_iter();
            ids.filter(|&id| (id as usize) < vocab_size).collect()
        };
        let ends = known(settings.ends);
        let mut ours = settings.ours;
        for key in ["bos_token_id", "pad_token_id"] {
            let id = known(keys.tokens(key)?).first().copied();
            ours.insert(key.into(), json!(id));
        }
        ours.insert("eos_token_id".into(), json!(ends.first()));
        ours.insert("vocab_size".into(), json!(vocab_size));
        ours.insert("tie_word_embeddings".into(), json!(settings.names.tied));
        notes.extend(keys.notes(settings.ignored));
        let config = ModelConfig::from_json(&Value::Object(ours).to_string())?;
        Ok(Self {
            names: settings.names,
            config,
            ends,
            notes,
        })
    }
}

fn refused(model_type: &str) -> ConfigError {
    match REFUSED.iter().find(|(part, _)| model_type.contains(part)) {
        Some((_, why)) => ConfigError::unsupported("model_type", json!(model_type), why),
        None => ConfigError::unknown("model_type", model_type, READ),
    }
}
