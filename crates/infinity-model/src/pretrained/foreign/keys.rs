//! The keys of another family's `config.json`. Each is read by its name, so that what nobody asked for is
//! known at the end.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::ConfigError;

/// No size, and no number of heads or layers, is larger.
const LARGEST: u64 = 1 << 31;

/// Keys that say how a file was made, or what a program does beside the network.
const ABOUT: &[&str] = &[
    "model_type",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "auto_map",
    "tokenizer_class",
    "use_cache",
    "attention_dropout",
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation_autoset",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
];

/// An object of a `config.json`, and which of its keys were asked for.
pub(super) struct Keys<'a> {
    object: &'a Map<String, Value>,
    /// What stands before a key in messages: `text_config.`.
    under: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            under: String::new(),
            asked: RefCell::default(),
        }
    }

    /// What a key says; `null` says nothing.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.given(key).filter(|value| !value.is_null())
    }

    /// What a key says, `null` included.
    pub(super) fn given(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.object.get(key)
    }

    /// What `of` makes of a key's value, or that it is no `instead`.
    fn read<T>(
        &self,
        key: &'static str,
        instead: &str,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let read = |value| of(value).ok_or_else(|| self.wrong(key, value, instead));
        self.value(key).map(read).transpose()
    }

    /// An object in this one.
    pub(super) fn section(&self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        let found = self.read(key, "an object", Value::as_object)?;
        Ok(found.map(|object| Self {
            under: format!("{}{key}.", self.under),
            ..Self::new(object)
        }))
    }

    pub(super) fn size(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        self.read(key, "a whole number from 1 on", |value| {
            let size = value.as_u64().filter(|size| (1..=LARGEST).contains(size));
            usize::try_from(size?).ok()
        })
    }

    /// A size that every file of the family has.
    pub(super) fn needed(&self, key: &'static str) -> Result<usize, ConfigError> {
        let why = "the network cannot be built without it";
        let missing = || ConfigError::missing(format!("{}{key}", self.under), why);
        self.size(key)?.ok_or_else(missing)
    }

    pub(super) fn number(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        let finite = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        self.read(key, "a number", finite)
    }

    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let found = self.read(key, "true or false", Value::as_bool)?;
        Ok(found.unwrap_or(default))
    }

    pub(super) fn word(&self, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.read(key, "a word", Value::as_str)
    }

    /// Token ids, of one or of a list; negative ones are none.
    pub(super) fn tokens(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let one = std::slice::from_ref(value);
        let all = value.as_array().map_or(one, Vec::as_slice);
        let known = all.iter().filter(|id| id.as_i64().is_none_or(|id| id >= 0));
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        known
            .map(|value| id(value).ok_or_else(|| self.wrong(key, value, "a token's number")))
            .collect()
    }

    /// Refuses a key that is anything but `expected`; one that is not there is.
    pub(super) fn only(
        &self,
        key: &'static str,
        expected: &[Value],
        why: &str,
    ) -> Result<(), ConfigError> {
        match self.value(key) {
            Some(found) if !expected.contains(found) => Err(self.unsupported(key, found, why)),
            _ => Ok(()),
        }
    }

    pub(super) fn unsupported(&self, key: &str, value: &Value, why: &str) -> ConfigError {
        ConfigError::unsupported(format!("{}{key}", self.under), value, why)
    }

    pub(super) fn wrong(&self, key: &str, value: &Value, instead: &str) -> ConfigError {
        let under = &self.under;
        ConfigError::Json(format!("{under}{key} is {value} instead of {instead}"))
    }

    /// A note on every key that nobody asked for and that is not `ignored`.
    pub(super) fn notes(&self, ignored: &[&str]) -> Vec<String> {
        let asked = self.asked.borrow();
        let unknown =
            self.object.keys().map(String::as_str).filter(|key| {
                !asked.contains(key) && !ABOUT.contains(key) && !ignored.contains(key)
            });
        let note =
            |key: &str| format!("config.json: {}{key} is not known and not used", self.under);
        unknown.map(note).collect()
    }
}
