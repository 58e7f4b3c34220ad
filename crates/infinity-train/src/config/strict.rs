//! One layer of TOML, read strictly: unknown keys and wrong types, with file and line.
//!
//! Layers are checked one by one, before they are merged, because a merged table no longer knows
//! which line a value came from.

use std::ops::Range;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::de::{DeTable, DeValue};

use super::{
    CheckpointConfig, DataConfig, DistributedConfig, EvalConfig, LoggingConfig, LrSchedulerConfig,
    ModelConfig, OptimizerConfig, RunSection, TokenizerConfig, TrainingConfig,
};
use super::{ConfigError, RunConfig, legacy, suggest};

/// A layer that parsed, has known keys only, and whose values have the right types.
pub(super) struct Checked {
    /// The values, without legacy keys.
    pub(super) table: toml::Table,
    /// Dotted keys that were set, each with its line.
    pub(super) keys: Vec<(String, usize)>,
    /// What the reader should know about legacy keys.
    pub(super) warnings: Vec<String>,
}

/// Parses and checks `text`; `origin` names the file in messages.
pub(super) fn check(origin: &str, text: &str) -> Result<Checked, ConfigError> {
    let mut root = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        message: error.to_string(),
    })?;
    let line = |at: &Range<usize>| line_of(text, at.start);
    let mut warnings = Vec::new();
    for (key, at, reason) in legacy::take(root.get_mut()) {
        warnings.push(format!(
            "{origin}:{}: `{key}` changes nothing: {reason}",
            line(&at)
        ));
    }
    let mut keys = Vec::new();
    walk(root.get_ref(), "", &mut |key, at| {
        keys.push((key.to_owned(), line(at)));
    });
    for (key, line) in &keys {
        refuse_unknown(&format!("{origin}:{line}"), key)?;
    }
    let spans = root.clone();
    if let Err(error) = RunConfig::deserialize(toml::de::Deserializer::from(root)) {
        return Err(wrong_value(origin, text, spans.get_ref(), &error));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        message: error.to_string(),
    })?;
    legacy::drop_from(&mut table);
    Ok(Checked {
        table,
        keys,
        warnings,
    })
}

/// Errors when the dotted `key` is not one that is read.
pub(super) fn refuse_unknown(origin: &str, key: &str) -> Result<(), ConfigError> {
    let known = known_keys();
    let is_known = known.iter().any(|k| k == key)
        || key
            .rmatch_indices('.')
            .any(|(dot, _)| key.matches('.').count() > 1 && known.iter().any(|k| *k == key[..dot]));
    if is_known {
        return Ok(());
    }
    let hint = match suggest::nearest(key, known) {
        Some(near) => format!(", did you mean `{near}`?"),
        None => match section_keys(key) {
            Some(keys) => format!("; the section has: {keys}"),
            None => format!("; there are: {}", SECTIONS.map(|(name, _)| name).join(", ")),
        },
    };
    Err(ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: key.to_owned(),
        hint,
    })
}

type Fields = fn() -> &'static [&'static str];

const SECTIONS: [(&str, Fields); 11] = [
    ("run", field_names::<RunSection>),
    ("model", field_names::<ModelConfig>),
    ("tokenizer", field_names::<TokenizerConfig>),
    ("data", field_names::<DataConfig>),
    ("training", field_names::<TrainingConfig>),
    ("optimizer", field_names::<OptimizerConfig>),
    ("lr_scheduler", field_names::<LrSchedulerConfig>),
    ("eval", field_names::<EvalConfig>),
    ("checkpoint", field_names::<CheckpointConfig>),
    ("logging", field_names::<LoggingConfig>),
    ("distributed", field_names::<DistributedConfig>),
];

/// Every key that is read, dotted, sections included, in the order of the file format.
pub(super) fn known_keys() -> &'static [String] {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = vec!["schema".to_owned()];
        for (section, fields) in SECTIONS {
            keys.push(section.to_owned());
            keys.extend(fields().iter().map(|field| format!("{section}.{field}")));
        }
        keys
    })
}

/// The keys of the section that the dotted `key` lies in, as a list for a message.
fn section_keys(key: &str) -> Option<String> {
    let section = key.split_once('.')?.0;
    let (_, fields) = SECTIONS.iter().find(|(name, _)| *name == section)?;
    Some(fields().join(", "))
}

/// Calls `visit` with every key below `table`, dotted, tables before what is in them.
fn walk(table: &DeTable<'_>, prefix: &str, visit: &mut dyn FnMut(&str, &Range<usize>)) {
    for (key, value) in table {
        let dotted = match prefix {
            "" => key.get_ref().to_string(),
            _ => format!("{prefix}.{}", key.get_ref()),
        };
        visit(&dotted, &key.span());
        if let DeValue::Table(inner) = value.get_ref() {
            walk(inner, &dotted, visit);
        }
    }
}

/// Turns serde's error into one that names the key and the line.
fn wrong_value(
    origin: &str,
    text: &str,
    root: &DeTable<'_>,
    error: &toml::de::Error,
) -> ConfigError {
    let at = error.span().unwrap_or(0..0);
    let key = key_at(root, &at).unwrap_or_else(|| "schema".to_owned());
    ConfigError::Value {
        origin: format!("{origin}:{}", line_of(text, at.start)),
        key,
        message: in_words(error.message()),
    }
}

/// Serde's message without Rust's names for numbers.
pub(super) fn in_words(message: &str) -> String {
    let message = message.trim_end().replace(", expected ", ", expected: ");
    let mut words = message.split(", expected: ");
    let found = words.next().unwrap_or_default().to_owned();
    match words.next() {
        None => found,
        Some(expected) => {
            let expected = match expected {
                "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
                "i32" | "i64" => "a whole number",
                "f32" | "f64" => "a number",
                "a boolean" => "true or false",
                "a sequence" => "a list, as in [\"a\", \"b\"]",
                "a string" => "text in quotes",
                other => other,
            };
            format!("{found}, expected {expected}")
        }
    }
}

/// The innermost dotted key whose value (or name) lies at `at`.
fn key_at(root: &DeTable<'_>, at: &Range<usize>) -> Option<String> {
    fn search(table: &DeTable<'_>, prefix: &str, at: &Range<usize>, found: &mut Option<String>) {
        for (key, value) in table {
            let dotted = match prefix {
                "" => key.get_ref().to_string(),
                _ => format!("{prefix}.{}", key.get_ref()),
            };
            if contains(&value.span(), at) || contains(&key.span(), at) {
                *found = Some(dotted.clone());
            }
            if let DeValue::Table(inner) = value.get_ref() {
                search(inner, &dotted, at, found);
            }
        }
    }
    let mut found = None;
    search(root, "", at, &mut found);
    found
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// One-based line of the byte `at`.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// The keys that `T` reads, as its derived `Deserialize` announces them.
///
/// Asking the type keeps the list of known keys from ever differing from the struct.
fn field_names<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

/// A deserializer without data: notes the field names it is asked for, then gives up.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        match check("a.toml", text) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn known_keys_come_from_the_structs() {
        let known = known_keys();
        for key in [
            "schema",
            "run.output_dir",
            "model.hidden_size",
            "model.head_dim",
            "tokenizer.kind",
            "data.train_file",
            "training.loss_watchdog",
            "lr_scheduler.type",
            "distributed.strategy",
        ] {
            assert!(known.iter().any(|k| k == key), "{key} is missing");
        }
        assert!(!known.iter().any(|k| k == "model.nonsense"));
    }

    #[test]
    fn an_unknown_key_names_file_line_key_and_suggestion() {
        assert_eq!(
            message("[model]\nhidden_size = 64\nnum_hiden_layers = 2\n"),
            "a.toml:3: unknown key `model.num_hiden_layers`, did you mean `model.num_hidden_layers`?"
        );
        assert_eq!(
            message("[optimiser]\n"),
            "a.toml:1: unknown key `optimiser`, did you mean `optimizer`?"
        );
        assert!(message("[training.loss_watchdog]\npatient = 2\n").contains("patient"));
        assert!(message("[run]\nzzz = 1\n").contains("the section has: name, output_dir"));
    }

    #[test]
    fn a_wrong_type_names_line_key_and_both_types() {
        assert_eq!(
            message("[model]\n\nhidden_size = \"wide\"\n"),
            "a.toml:3: `model.hidden_size`: invalid type: string \"wide\", expected a whole number \
             that is not negative"
        );
        assert!(message("[model]\nhidden_size = -3\n").contains("`model.hidden_size`"));
        let words = message("[optimizer]\nname = \"lion\"\n");
        assert!(words.starts_with("a.toml:2: `optimizer.name`: unknown variant `lion`"));
        assert!(words.contains("`adamw`") && words.contains("`muon`"));
    }

    #[test]
    fn broken_toml_shows_the_place() {
        let shown = message("[model\nhidden_size = 3");
        assert!(shown.starts_with("a.toml is not valid TOML"), "{shown}");
        assert!(shown.contains("line 1"), "{shown}");
    }
}
