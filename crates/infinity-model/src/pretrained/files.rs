//! The files of a model directory by name, and what is said of one that fails.

/// No part of a model of ours: how a conversation is written.
pub(super) use crate::chat_template::TEMPLATE;
use crate::error::{ConfigError, PretrainedError};
use std::io;
use std::path::{Path, PathBuf};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const GENERATION: &str = "generation_config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// Beside an adapter, the fingerprint of its model.
pub(super) const BASE: &str = "base.json";

pub(super) fn shard_name(number: usize, of: usize) -> String {
    format!("model-{number:05}-of-{of:05}.safetensors")
}

/// Whether a file of this name holds a part of the weights.
pub(super) fn is_shard(name: &str) -> bool {
    let numbers = name
        .strip_prefix("model-")
        .and_then(|name| name.strip_suffix(".safetensors"));
    let number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (numbers.and_then(|numbers| numbers.split_once("-of-")))
        .is_some_and(|(at, of)| number(at) && number(of))
}

/// Whether a file of this name is part of a model directory.
pub fn is_part(name: &str) -> bool {
    [
        CONFIG,
        WEIGHTS,
        INDEX,
        GENERATION,
        TOKENIZER,
        TOKENIZER_CONFIG,
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        BASE,
    ]
    .contains(&name)
        || is_shard(name)
}

pub(super) fn read_error(path: &Path, source: io::Error) -> PretrainedError {
    PretrainedError::Read {
        path: path.into(),
        source,
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> PretrainedError {
    PretrainedError::Write {
        path: path.into(),
        source,
    }
}

pub(super) fn config_error(path: PathBuf) -> impl FnOnce(ConfigError) -> PretrainedError {
    |source| PretrainedError::Config { path, source }
}

pub(super) fn damaged(path: &Path, reason: impl ToString) -> PretrainedError {
    PretrainedError::Weights {
        path: path.into(),
        reason: reason.to_string(),
    }
}

pub(super) fn missing(dir: &Path, name: &str, why: &str) -> PretrainedError {
    PretrainedError::MissingFile {
        path: dir.join(name),
        why: why.into(),
    }
}
