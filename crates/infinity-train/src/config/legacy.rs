//! Keys of the original project that mean nothing here. They are accepted, with the reason.
//!
//! Which they are, and why they change nothing, the model says: [`ModelConfig::LEGACY_KEYS`].

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::ModelConfig;

/// The section of all legacy keys.
const SECTION: &str = "model";

/// Why `dotted` changes nothing; `None` for every key that does something or does not exist.
pub(super) fn reason(dotted: &str) -> Option<&'static str> {
    let key = dotted.strip_prefix(SECTION)?.strip_prefix('.')?;
    let legacy = ModelConfig::LEGACY_KEYS.iter().find(|(k, _)| *k == key)?;
    Some(legacy.1)
}

/// Removes legacy keys from a parsed file: dotted key, place, reason.
pub(super) fn take(root: &mut DeTable<'_>) -> Vec<(String, Range<usize>, &'static str)> {
    let Some(section) = root.get_mut(SECTION) else {
        return Vec::new();
    };
    let DeValue::Table(section) = section.get_mut() else {
        return Vec::new();
    };
    ModelConfig::LEGACY_KEYS
        .iter()
        .filter_map(|(key, reason)| {
            let (name, _) = section.remove_entry(*key)?;
            Some((format!("{SECTION}.{key}"), name.span(), *reason))
        })
        .collect()
}

/// Removes legacy keys from a plain table.
pub(super) fn drop_from(root: &mut toml::Table) {
    if let Some(toml::Value::Table(section)) = root.get_mut(SECTION) {
        for (key, _) in ModelConfig::LEGACY_KEYS {
            section.remove(*key);
        }
    }
}
