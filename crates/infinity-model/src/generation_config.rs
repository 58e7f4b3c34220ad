//! How text is generated: `generation_config.json`, with Hugging Face's names, read as its other
//! readers do.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::config::{Check, did_you_mean};
use crate::error::ConfigError;

const CHECK: Check = Check("generation");

/// New tokens when neither `max_new_tokens` nor `max_length` is given.
pub const DEFAULT_MAX_NEW_TOKENS: usize = 256;

const MAX_REPEAT_LAST_N: usize = 1 << 20;
const MAX_PENALTY: f64 = 100.0;
const MAX_TEMPERATURE: f64 = 1000.0;

/// Keys that `transformers` writes and that nothing here reads: those of its `GenerationConfig`
/// (4.57 and 5.23) that have no counterpart, and what it notes about the file.
#[rustfmt::skip]
const IGNORED_KEYS: &[&str] = &[
    "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id",
    "decoder_start_token_id", "use_cache", "cache_implementation", "cache_config",
    "return_legacy_cache", "prefill_chunk_size", "min_length", "min_new_tokens", "early_stopping",
    "max_time", "num_beams", "num_beam_groups", "penalty_alpha", "dola_layers", "top_h",
    "typical_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty",
    "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "force_words_ids", "constraints",
    "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "forced_decoder_ids", "sequence_bias", "token_healing", "guidance_scale", "low_memory",
    "watermarking_config", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "is_assistant",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit",
    "assistant_lookbehind", "target_lookbehind", "compile_config", "disable_compile",
    "generation_kwargs", "max_cache_len", "use_mtp", "speculation_type",
    "assistant_ensemble_weight", "continuous_batching_config",
];

/// Settings of generation. The order in which they act is documented in [`crate::sampler`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Most tokens to generate; [`DEFAULT_MAX_NEW_TOKENS`] if `max_length` is not given either.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of prompt and new text together. Not together with `max_new_tokens`.
    pub max_length: Option<usize>,
    /// Draw tokens; `false` always takes the most likely one.
    pub do_sample: bool,
    /// Below 1 sharpens the distribution, above 1 flattens it, 0 is the same as not sampling.
    pub temperature: f64,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together have this probability; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens with at least this part of the most likely one's probability; 0 keeps all.
    pub min_p: f64,
    /// Divides the logits of recent tokens, above 1 makes them less likely; 1 changes nothing.
    pub repetition_penalty: f64,
    /// How many tokens, of prompt and new text, the three penalties look back on; 0 is none.
    pub repeat_last_n: usize,
    /// Taken from the logit of every recent token.
    pub presence_penalty: f64,
    /// Taken from the logit of a recent token once for each time it is there.
    pub frequency_penalty: f64,
    /// Seed of the draws; a random one, which is reported, if not given.
    pub seed: Option<u64>,
    /// Texts that end generation and are not part of the result.
    #[serde(rename = "stop_strings", with = "one_or_many")]
    pub stop: Vec<String>,
    /// Tokens that end generation; the model's and the tokenizer's own if empty.
    #[serde(with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    /// Go on after a token that ends a text.
    pub ignore_eos: bool,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: None,
            max_length: None,
            do_sample: true,
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            stop: Vec::new(),
            eos_token_id: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl GenerationConfig {
    /// Every key of `generation_config.json`.
#[rustfmt::skip]
    pub const KEYS: &'static [&'static str] = &[
        "max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p",
        "repetition_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty", "seed",
        "stop_strings", "eos_token_id", "ignore_eos",
    ];

    /// The same settings, always taking the most likely token.
    pub fn greedy(self) -> Self {
        Self {
            do_sample: false,
            ..self
        }
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        !self.do_sample || self.temperature == 0.0
    }

    /// Finds the first value that is out of range, or two that exclude each other.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let (Some(new), Some(length)) = (self.max_new_tokens, self.max_length) {
            return Err(ConfigError::conflict(
                format!("generation.max_new_tokens = {new}"),
                format!("generation.max_length = {length}"),
                "both limit the length, one without and one with the prompt; give one",
            ));
        }
        for (name, most) in [
            ("max_new_tokens", self.max_new_tokens),
            ("max_length", self.max_length),
        ] {
            CHECK.within(name, most.unwrap_or(1), 1..)?;
        }
        CHECK.within("temperature", self.temperature, 0.0..=MAX_TEMPERATURE)?;
        CHECK.positive("top_p", self.top_p, 1.0)?;
        CHECK.within("min_p", self.min_p, 0.0..1.0)?;
        CHECK.positive("repetition_penalty", self.repetition_penalty, MAX_PENALTY)?;
        CHECK.within("repeat_last_n", self.repeat_last_n, ..=MAX_REPEAT_LAST_N)?;
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        CHECK.within("presence_penalty", presence, -MAX_PENALTY..=MAX_PENALTY)?;
        CHECK.within("frequency_penalty", frequency, -MAX_PENALTY..=MAX_PENALTY)?;
        match self.stop.iter().any(String::is_empty) {
            true => {
                let wrong = "is too small: it must be at least one character";
                Err(CHECK.wrong("stop_strings", "\"\"", wrong))
            }
            false => Ok(()),
        }
    }

    /// How many tokens may follow a prompt of `prompt_tokens` tokens.
    ///
    /// # Errors
    /// `max_length` leaves no room after the prompt.
    pub fn new_token_limit(&self, prompt_tokens: usize) -> Result<usize, ConfigError> {
        match self.max_length {
            None => Ok(self.max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS)),
            Some(length) if length > prompt_tokens => Ok(length - prompt_tokens),
            Some(length) => {
                let wrong = format!(
                    "is too small: it must be above the prompt's {prompt_tokens} tokens \
                     (max_new_tokens counts without it)"
                );
                Err(CHECK.wrong("max_length", length, wrong))
            }
        }
    }

    /// The text of `generation_config.json`.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }

    /// Reads the text of a `generation_config.json` and checks it. As in other readers, `null` is a
    /// setting that is not given, a negative end token is none, a negative `top_k` keeps all, and
    /// `max_new_tokens` goes before `max_length`.
    ///
    /// # Errors
    /// Not a JSON object, an unknown key, or anything that [`validate`](Self::validate) finds.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let (config, unknown) = Self::over(Self::default(), text)?;
        match unknown.first() {
            None => Ok(config),
            Some(key) => {
                let hint = did_you_mean(key, Self::KEYS);
                Err(ConfigError::unknown_key(CHECK.key(key), hint))
            }
        }
    }

    /// What a file of a model that others trained says, and the keys in it that nothing reads. What it does
    /// not say is as in `transformers`: greedy, and a repetition penalty over the whole text.
    ///
    /// # Errors
    /// Not a JSON object, or anything that [`validate`](Self::validate) finds.
    pub fn from_json_of_others(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let (mut config, unknown) = Self::over(Self::of_others(), text)?;
        if config.repetition_penalty != 1.0 && !text.contains("\"repeat_last_n\"") {
            config.repeat_last_n = MAX_REPEAT_LAST_N;
        }
        Ok((config, unknown))
    }

    /// How `transformers` generates with a model that does not say how.
    pub(crate) fn of_others() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            ..Self::default()
        }
    }

    /// What a file says over `defaults`, and the keys in it that nothing reads.
    fn over(defaults: Self, text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        // Some programs begin a file with a mark that is no part of its text.
        let text = text.trim_start_matches('\u{feff}');
        let mut object: Map<String, Value> = serde_json::from_str(text)?;
        let known = |key: &str| Self::KEYS.contains(&key) || IGNORED_KEYS.contains(&key);
        let unknown = object.keys().filter(|key| !known(key)).cloned().collect();
        object.retain(|_, value| !value.is_null());
        let is_negative = |value: &Value| value.as_i64().is_some_and(|number| number < 0);
        match object.get_mut("eos_token_id") {
            Some(Value::Array(ids)) => ids.retain(|id| !is_negative(id)),
            Some(id) if is_negative(id) => *id = Value::Array(Vec::new()),
            _ => {}
        }
        if let Some(all) = object.get_mut("top_k").filter(|k| is_negative(k)) {
            *all = 0.into();
        }
        let mut all: Map<String, Value> = serde_json::from_value(serde_json::to_value(defaults)?)?;
        all.extend(object);
        let mut config: Self = serde_json::from_value(all.into())?;
        if config.max_new_tokens.is_some() {
            config.max_length = None;
        }
        config.validate()?;
        Ok((config, unknown))
    }
}

/// A list that files may write as one value, or as `null` when it is empty.
mod one_or_many {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }

    pub(super) fn serialize<S: Serializer, T: Serialize>(
        list: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match list {
            [] => serializer.serialize_none(),
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(match Option::<OneOrMany<T>>::deserialize(deserializer)? {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![one],
            Some(OneOrMany::Many(many)) => many,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_both_read_and_ignored() {
        for key in IGNORED_KEYS {
            assert!(!GenerationConfig::KEYS.contains(key), "{key}");
        }
    }

    #[test]
    fn keys_are_the_serialized_keys() {
        let value = serde_json::to_value(GenerationConfig::default()).unwrap();
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, GenerationConfig::KEYS);
    }

    #[test]
    fn writing_and_reading_gives_the_same_settings() {
        let config = GenerationConfig {
            stop: vec!["\n\n".into()],
            eos_token_id: vec![3, 4],
            seed: Some(u64::MAX),
            ..GenerationConfig::default()
        };
        assert_eq!(
            GenerationConfig::from_json(&config.to_json()).unwrap(),
            config
        );
        let config = GenerationConfig::default();
        assert_eq!(
            GenerationConfig::from_json(&config.to_json()).unwrap(),
            config
        );
    }

    #[test]
    fn the_file_of_another_tool_is_read() {
        let text = r#"{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2,
            "max_length": 100, "temperature": 0.9, "top_k": 50, "do_sample": true,
            "stop_strings": ["a", "b"], "transformers_version": "4.50.0", "num_beams": 1,
            "pad_token_id": 0, "no_repeat_ngram_size": 0, "output_scores": false}"#;
        let config = GenerationConfig::from_json(text).unwrap();
        assert_eq!(
            (config.eos_token_id.as_slice(), config.temperature),
            (&[2][..], 0.9)
        );
        assert_eq!(config.stop, ["a", "b"]);
        assert_eq!(config.new_token_limit(40), Ok(60));
        let error = GenerationConfig::from_json(r#"{"temprature": 1.0}"#).unwrap_err();
        assert!(
            error.to_string().contains("did you mean \"temperature\"?"),
            "{error}"
        );
    }

    #[test]
    fn a_model_of_others_is_read_with_their_defaults() {
        let read = |text: &str| GenerationConfig::from_json_of_others(text).unwrap();
        let (config, unknown) = read(r#"{"eos_token_id": [7, 9], "use_mtp": true, "new_key": 1}"#);
        assert!(config.is_greedy());
        assert_eq!(
            (config.temperature, config.top_k, config.top_p),
            (1.0, 50, 1.0)
        );
        assert_eq!(
            (config.eos_token_id, config.repeat_last_n),
            (vec![7, 9], 64)
        );
        assert_eq!(unknown, ["new_key"]);
        let (config, _) =
            read(r#"{"do_sample": true, "temperature": 0.6, "repetition_penalty": 1.1}"#);
        assert!(!config.is_greedy() && config.top_p == 1.0);
        assert_eq!(
            config.repeat_last_n, MAX_REPEAT_LAST_N,
            "theirs looks back on everything"
        );
        assert!(GenerationConfig::from_json_of_others(r#"{"top_p": 7}"#).is_err());
    }

    #[test]
    fn null_and_minus_one_and_a_mark_are_read_as_elsewhere() {
        let read = |text: &str| GenerationConfig::from_json(text).unwrap();
        let default = GenerationConfig::default();
        let nulls: Map<String, Value> = GenerationConfig::KEYS
            .iter()
            .map(|key| ((*key).to_owned(), Value::Null))
            .collect();
        assert_eq!(read(&Value::from(nulls).to_string()), default);
        assert_eq!(read(r#"{"eos_token_id": -1}"#), default);
        assert_eq!(read(r#"{"eos_token_id": [-1]}"#), default);
        assert_eq!(read(r#"{"eos_token_id": [-1, 7]}"#).eos_token_id, [7]);
        assert_eq!(read(r#"{"top_k": -1}"#).top_k, 0);
        assert_eq!(read("\u{feff}{\"top_k\": 7}").top_k, 7);
        let both = read(r#"{"max_length": 20, "max_new_tokens": 5}"#);
        assert_eq!((both.max_new_tokens, both.max_length), (Some(5), None));
        for wrong in [
            r#"{"temperature": -1}"#,
            r#"{"max_length": -1}"#,
            r#"{"eos_token_id": 0.5}"#,
        ] {
            assert!(GenerationConfig::from_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let message = |change: fn(&mut GenerationConfig)| {
            let mut config = GenerationConfig::default();
            change(&mut config);
            config.validate().expect_err("wrong on purpose").to_string()
        };
        assert_eq!(
            message(|c| c.top_p = 1.5),
            "generation.top_p = 1.5 is too large: it must be at most 1"
        );
        assert_eq!(
            message(|c| c.temperature = -1.0),
            "generation.temperature = -1 is too small: it must be at least 0"
        );
        assert!(message(|c| c.temperature = f64::NAN).contains("not a finite number"));
        assert!(message(|c| c.top_p = 0.0).contains("above 0"));
        assert!(message(|c| c.min_p = 1.0).contains("below 1"));
        assert!(message(|c| c.repetition_penalty = 0.0).contains("above 0"));
        assert!(message(|c| c.max_new_tokens = Some(0)).contains("at least 1"));
        assert!(message(|c| c.stop = vec![String::new()]).contains("stop_strings"));
        let both = message(|c| (c.max_new_tokens, c.max_length) = (Some(5), Some(9)));
        assert!(
            both.contains("max_new_tokens = 5") && both.contains("max_length = 9"),
            "{both}"
        );
    }

    #[test]
    fn a_length_without_room_after_the_prompt_is_an_error() {
        let config = GenerationConfig {
            max_length: Some(10),
            ..GenerationConfig::default()
        };
        assert_eq!(config.new_token_limit(9), Ok(1));
        assert!(config.new_token_limit(10).is_err());
        assert_eq!(
            GenerationConfig::default().new_token_limit(10),
            Ok(DEFAULT_MAX_NEW_TOKENS)
        );
    }
}
