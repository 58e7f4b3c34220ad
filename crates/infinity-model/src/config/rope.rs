//! Rotary positions of full layers, in the words of Hugging Face's `rope_parameters`.

use super::choices::RopeType;
use super::limits::CHECK;
use crate::error::ConfigError;
use infinity_kernels::rotary::Scaling;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// How positions are rotated into queries and keys of full layers.
///
/// Without any of these they are as the rotary keys of the linear layers say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RopeParameters {
    /// What becomes of the frequencies; "none" is no rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<RopeType>,
    /// Base of the frequencies; 10,000 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Which part of `head_dim` is rotated; all of it if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_rotary_factor: Option<f64>,
    /// What frequencies are divided by; "linear" and "llama3".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Turns within the original length up to which a frequency is divided; "llama3".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// Turns within the original length from which on a frequency is left; "llama3".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// Length of the texts before frequencies were changed; "llama3".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<f64>,
}

/// `null` is no rotation.
pub(super) fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<RopeParameters, D::Error> {
    let given = Option::<RopeParameters>::deserialize(from)?;
    Ok(given.unwrap_or_else(RopeParameters::none))
}

impl RopeParameters {
    /// No rotation.
    pub fn none() -> Self {
        Self {
            rope_type: Some(RopeType::None),
            ..Self::default()
        }
    }

    /// The values by name, with those that the type needs.
    fn given(&self) -> [(&'static str, Option<f64>, bool); 4] {
        let llama3 = self.rope_type == Some(RopeType::Llama3);
        let scaled = llama3 || self.rope_type == Some(RopeType::Linear);
        let original = self.original_max_position_embeddings;
        [
            ("factor", self.factor, scaled),
            ("low_freq_factor", self.low_freq_factor, llama3),
            ("high_freq_factor", self.high_freq_factor, llama3),
            ("original_max_position_embeddings", original, llama3),
        ]
    }

    pub(super) fn scaling(&self) -> Scaling {
        let [factor, low, high, original] = self.given().map(|(_, value, _)| value.unwrap_or(1.0));
        match self.rope_type {
            Some(RopeType::Linear) => Scaling::Linear(factor),
            Some(RopeType::Llama3) => Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            },
            _ => Scaling::None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let key = |name: &str| format!("rope_parameters.{name}");
        if let Some(theta) = self.rope_theta {
            CHECK.within(&key("rope_theta"), theta, 1.0..=1e12)?;
        }
        if let Some(fraction) = self.partial_rotary_factor {
            CHECK.within(&key("partial_rotary_factor"), fraction, 0.0..=1.0)?;
        }
        let named = self.rope_type.unwrap_or(RopeType::Default);
        for (name, value, needed) in self.given() {
            let (key, named) = (key(name), format!("rope_type = \"{named}\""));
            match (value, needed) {
                (Some(value), true) => CHECK.positive(&key, value, 1e12)?,
                (None, true) => {
                    let why = format!("{named} needs it");
                    return Err(ConfigError::missing(CHECK.key(&key), why));
                }
                (Some(value), false) => {
                    let setting = format!("{} = {value}", CHECK.key(&key));
                    let why = "that type has no such number; leave it out";
                    return Err(ConfigError::conflict(setting, named, why));
                }
                (None, false) => {}
            }
        }
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        if let (Some(low), Some(high)) = (low, high)
            && low >= high
        {
            let wrong = format!("is too large: it must be below high_freq_factor = {high}");
            return Err(CHECK.wrong(&key("low_freq_factor"), low, wrong));
        }
        Ok(())
    }
}

/// A fraction of `head_dim` as an even number.
pub(super) fn even_part(fraction: f64, head_dim: usize) -> usize {
    let pairs = (fraction * head_dim as f64 / 2.0).round() as usize;
    2 * pairs.min(head_dim / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use infinity_kernels::rotary::RotaryDims;

    fn read(rope: &str) -> Result<ModelConfig, ConfigError> {
        let text = format!(r#"{{"vocab_size": 9, "head_dim": 64, "mixer": "softmax"{rope}}}"#);
        ModelConfig::from_json(&text)
    }

    fn dims(rope: &str) -> RotaryDims {
        let config = read(&format!(r#", "rope_parameters": {rope}"#)).unwrap();
        let again = ModelConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(again, config.resolved(), "written and read");
        config.attention_rotary_dims()
    }

    #[test]
    fn what_is_not_given_is_as_it_was_and_null_is_none() {
        let old = read("").unwrap();
        let found = old.attention_rotary_dims();
        assert_eq!(
            (found.rotated, found.base),
            (32, 10_000.0),
            "rotary_fraction"
        );
        assert_eq!(dims("{}"), found);
        assert_eq!(dims("null").rotated, 0);
        assert_eq!(dims(r#"{"rope_type": "none"}"#).rotated, 0);
        let found = dims(r#"{"rope_theta": 5e5}"#);
        assert_eq!((found.rotated, found.base), (64, 5e5), "all of a head");
        let found = dims(r#"{"rope_type": "default", "partial_rotary_factor": 0.25}"#);
        assert_eq!((found.rotated, found.base), (16, 10_000.0));
        let found = dims(r#"{"rope_type": "linear", "factor": 4.0}"#);
        assert_eq!(found.scaling, Scaling::Linear(4.0));
        let found = dims(
            r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 8192}"#,
        );
        let llama = Scaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        assert_eq!(found.scaling, llama);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rope, words) in [
            (r#"{"rope_type": "yarn", "factor": 4.0}"#, "yarn"),
            (
                r#"{"rope_type": "linear"}"#,
                "rope_parameters.factor is missing",
            ),
            (r#"{"factor": 2.0}"#, "rope_parameters.factor = 2"),
            (
                r#"{"rope_type": "linear", "factor": 0}"#,
                "factor = 0 is too small",
            ),
            (r#"{"rope_theta": 0.5}"#, "rope_theta = 0.5 is too small"),
            (
                r#"{"partial_rotary_factor": 2}"#,
                "partial_rotary_factor = 2 is too large",
            ),
            (r#"{"mrope_section": [1]}"#, "mrope_section"),
            (
                r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                    "original_max_position_embeddings": 8192}"#,
                "low_freq_factor = 4 is too large",
            ),
        ] {
            let error = read(&format!(r#", "rope_parameters": {rope}"#)).unwrap_err();
            assert!(error.to_string().contains(words), "{rope}: {error}");
        }
    }
}
