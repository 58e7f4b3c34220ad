//! The table of keys: names, types, defaults and meanings, as the sections declare them.
//!
//! Strict reading, suggestions, the flags' help, `infinity config schema` and docs/configuration.md all
//! follow from the one JSON schema that `schemars` makes of [`RunConfig`].

use super::RunConfig;
use infinity_files::{ALIKE, nearest, similarity};
use serde_json::Value;
use std::fmt::Write;
use std::sync::OnceLock;

/// One key of the configuration, or a section of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted name, as in `training.max_steps`.
    pub name: String,
    /// What a value is, in words; empty for a section.
    pub kind: String,
    /// The default as TOML; empty for a section, and for a key that is unset by default.
    pub default: String,
    /// What it means.
    pub meaning: String,
    /// The words that the key allows and what they mean, if it allows words only.
    pub words: Vec<(String, String)>,
}

impl Key {
    /// The first sentence of the meaning, without its full stop and marks for code.
    pub fn summary(&self) -> String {
        let sentence = self.meaning.split(". ").next().unwrap_or_default();
        sentence.trim_end_matches('.').replace('`', "")
    }
}

/// The JSON Schema of a configuration file, for editors.
pub fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schemars::schema_for!(RunConfig).to_value())
}

/// Every key and section, in the order of the file format.
pub fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let defaults = toml::Value::try_from(RunConfig::default());
        let mut keys = Vec::new();
        collect(schema(), "", defaults.ok().as_ref(), &mut keys);
        keys
    })
}

/// The key of this dotted name.
pub fn key(name: &str) -> Option<&'static Key> {
    keys().iter().find(|key| key.name == name)
}

fn collect(object: &Value, prefix: &str, defaults: Option<&toml::Value>, keys: &mut Vec<Key>) {
    let properties = object["properties"].as_object().into_iter().flatten();
    for (name, property) in properties {
        let node = followed(property);
        let described = property.get("description").or(node.get("description"));
        let default = defaults.and_then(|table| table.get(name));
        let section = node.get("properties").is_some();
        let shown = default.filter(|_| !section).map(ToString::to_string);
        keys.push(Key {
            name: format!("{prefix}{name}"),
            kind: if section { String::new() } else { kind(node) },
            default: shown.unwrap_or_default(),
            meaning: described.map_or_else(String::new, text),
            words: words(node),
        });
        collect(node, &format!("{prefix}{name}."), default, keys);
    }
}

/// What a reference in the schema stands for; of something that may be null, the rest.
fn followed(node: &Value) -> &Value {
    let reference = node["$ref"].as_str();
    if let Some(name) = reference.and_then(|path| path.strip_prefix("#/$defs/")) {
        return followed(&schema()["$defs"][name]);
    }
    match node["anyOf"].as_array().map(Vec::as_slice) {
        Some([one, null]) if null["type"] == "null" => followed(one),
        _ => node,
    }
}

fn text(node: &Value) -> String {
    node.as_str().unwrap_or_default().replace('\n', " ")
}

/// The words that a value may be, each with its meaning.
fn words(node: &Value) -> Vec<(String, String)> {
    let list = |key: &str| node[key].as_array().into_iter().flatten();
    let own = node["const"].as_str().into_iter();
    let own = own.map(|word| (word.to_owned(), text(&node["description"])));
    let plain = list("enum").filter_map(Value::as_str);
    let plain = plain.map(|word| (word.to_owned(), String::new()));
    let others = list("oneOf").flat_map(words);
    own.chain(plain).chain(others).collect()
}

fn kind(node: &Value) -> String {
    if !words(node).is_empty() {
        return "a word".to_owned();
    }
    if let Some(ways) = node["anyOf"].as_array() {
        return ways.iter().map(kind).collect::<Vec<_>>().join(", or ");
    }
    let types = match &node["type"] {
        Value::Array(types) => types.first().and_then(Value::as_str),
        one => one.as_str(),
    };
    let range = match (node["minimum"].as_f64(), node["maximum"].as_f64()) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) if low > 0.0 => format!(" from {low}"),
        _ => String::new(),
    };
    match types {
        Some("integer") => format!("whole number{range}"),
        Some("number") => format!("number{range}"),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => format!("list of {}", kind(followed(&node["items"]))),
        _ => "text".to_owned(),
    }
}

/// The reference page, docs/configuration.md.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\nEvery key of a run's TOML, as `infinity config reference` prints it; \
         `infinity config schema` prints the same as\na JSON Schema for editors. Every key has a default, \
         and a key that nobody reads is an error. Later layers win:\ndefaults, preset, files in order, \
         environment (`INFINITY__SECTION__KEY=value`), flags, `--set section.key=value`.\n",
    );
    let mut allowed = String::new();
    for key in keys() {
        if key.kind.is_empty() && !key.name.contains('.') {
            page.push_str(&std::mem::take(&mut allowed));
            let meaning = key.meaning.replace(&format!("`[{}]`: ", key.name), "");
            let _ = write!(page, "\n## `[{}]`\n\n{meaning}\n\n", key.name);
            page.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        } else if !key.kind.is_empty() && key.name.contains('.') {
            let (_, leaf) = key.name.split_once('.').unwrap_or_default();
            let default = match key.default.as_str() {
                "" => "unset".to_owned(),
                given => format!("`{given}`"),
            };
            let row = format!("| `{leaf}` | {} | {default} | {} |", key.kind, key.meaning);
            let _ = writeln!(page, "{row}");
            if !key.words.is_empty() {
                let _ = writeln!(allowed, "\n`{leaf}`:\n");
            }
            for (word, meaning) in &key.words {
                let colon = if meaning.is_empty() { "" } else { ": " };
                let _ = writeln!(allowed, "- `\"{word}\"`{colon}{meaning}");
            }
        }
    }
    page + &allowed
}

/// Keys, and words for the same thing in trainers that people come from.
const SYNONYMS: &[(&str, &str)] = &[
    ("optimizer.learning_rate", "lr max_lr"),
    ("optimizer.weight_decay", "wd"),
    ("optimizer.beta1", "betas"),
    ("optimizer.muon_learning_rate", "muon_lr"),
    ("training.max_grad_norm", "grad_clip clip"),
    (
        "training.per_device_train_batch_size",
        "batch_size device_batch_size",
    ),
    ("training.gradient_accumulation_steps", "grad_accum"),
    ("training.max_steps", "max_iters max_train_steps steps"),
    ("training.num_train_epochs", "epochs num_epochs"),
    ("data.max_seq_length", "block_size seq_len context_length"),
    ("lr_scheduler.warmup_steps", "warmup num_warmup_steps"),
    ("lr_scheduler.type", "lr_scheduler_type scheduler"),
    ("model.hidden_size", "n_embd d_model dim"),
    ("model.num_hidden_layers", "n_layer n_layers"),
    ("model.num_attention_heads", "n_head n_heads"),
    ("model.hidden_dropout_prob", "dropout"),
    ("eval.every", "eval_steps eval_interval"),
    ("eval.max_batches", "eval_iters"),
    ("checkpoint.every", "save_steps"),
    ("checkpoint.keep_last", "save_total_limit"),
    ("logging.every", "logging_steps log_interval"),
    ("run.output_dir", "out_dir"),
];

/// What an unknown key was probably meant to be, as the end of the message about it; nothing for a key
/// that is known.
pub(super) fn unknown(name: &str) -> Option<String> {
    if key(name).is_some() {
        return None;
    }
    let names: Vec<&str> = keys().iter().map(|key| key.name.as_str()).collect();
    if let Some(near) = meant(name, &names) {
        return Some(format!(", did you mean `{near}`?"));
    }
    let section = name.split_once('.').map_or("", |(section, _)| section);
    let (inside, what) = match key(section) {
        Some(_) => (format!("{section}."), "the section has"),
        None => (String::new(), "there are"),
    };
    let leaves = names.iter().filter_map(|name| name.strip_prefix(&inside));
    let leaves: Vec<&str> = leaves
        .filter(|leaf| !leaf.contains('.') && *leaf != "schema")
        .collect();
    Some(format!("; {what}: {}", leaves.join(", ")))
}

/// The known key most likely meant by `name` (both dotted), if any is near: one of the same name in
/// another section, a word of other trainers, or the most similar.
fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let mut all = known.iter().copied();
    let same_name = all.find(|known| known.rsplit('.').next() == Some(leaf));
    let synonym = || {
        let same = |(_, words): &&(&str, &str)| words.split(' ').any(|word| word == leaf);
        let (target, _) = SYNONYMS.iter().find(same)?;
        known.iter().copied().find(|known| known == target)
    };
    let other = || most_similar(name, leaf, known);
    same_name.or_else(synonym).or_else(other)
}

/// The most similar key, the same section first: a typo rarely changes the section.
fn most_similar<'a>(name: &str, leaf: &str, known: &[&'a str]) -> Option<&'a str> {
    let section = name.rsplit_once('.').map(|(section, _)| section);
    let section_exists = section.is_some_and(|section| known.contains(&section));
    let score = |candidate: &str| match candidate.rsplit_once('.') {
        Some((s, l)) if Some(s) == section => similarity(leaf, l) + 0.05,
        Some((_, l)) if section_exists => similarity(leaf, l),
        None if section_exists => 0.0,
        _ => similarity(name, candidate),
    };
    let scored = known.iter().map(|candidate| (score(candidate), *candidate));
    let (score, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= ALIKE).then_some(best)
}

/// The end of a message about an unknown word: the nearest of `words`, then all of them.
pub(super) fn among(word: &str, words: &[&str]) -> String {
    let list = words.join(", ");
    match nearest(word, words.iter().copied()) {
        Some(best) => format!(" (did you mean `{best}`? there are: {list})"),
        None => format!(" (there are: {list})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] = [
        "model",
        "training",
        "optimizer",
        "model.hidden_size",
        "training.max_steps",
        "training.max_grad_norm",
        "optimizer.learning_rate",
    ];

    #[test]
    fn typos_wrong_sections_and_foreign_words() {
        let nearest = |key| meant(key, &KNOWN);
        assert_eq!(nearest("model.hiden_size").unwrap(), "model.hidden_size");
        assert_eq!(
            nearest("model.learning_rate").unwrap(),
            "optimizer.learning_rate"
        );
        assert_eq!(nearest("training.lr").unwrap(), "optimizer.learning_rate");
        assert_eq!(nearest("trainig").unwrap(), "training");
        assert_eq!(nearest("trainig.max_steps").unwrap(), "training.max_steps");
        assert_eq!(nearest("trainig.max_stepz").unwrap(), "training.max_steps");
        assert_eq!(nearest("model.zzz"), None);
    }

    #[test]
    fn words_are_listed() {
        let hint = among("softmaks", &["softmax", "infinity"]);
        assert_eq!(
            hint,
            " (did you mean `softmax`? there are: softmax, infinity)"
        );
        assert_eq!(among("qqq", &["a", "b"]), " (there are: a, b)");
    }

    #[test]
    fn the_keys_are_those_of_the_sections_with_their_defaults() {
        for (name, kind, default) in [
            ("schema", "whole number", "1"),
            ("run.output_dir", "text", "\"\""),
            ("model.hidden_size", "whole number from 1 to 131072", "256"),
            ("model.head_dim", "whole number from 1 to 1024", ""),
            ("tokenizer.kind", "a word", "\"byte\""),
            ("data.train_file", "text", "\"\""),
            ("data.val_fraction", "number", ""),
            ("data.initial_state.other", "number", "0.0"),
            ("training.loss_watchdog.patience", "whole number", "3"),
            ("lr_scheduler.type", "a word", "\"linear\""),
            (
                "eval.sample_prompts",
                "list of text",
                "[\"Once upon a time\"]",
            ),
            (
                "distributed.devices",
                "text, or whole number from 1, or list of text",
                "\"auto\"",
            ),
        ] {
            let key = key(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(
                (key.kind.as_str(), key.default.as_str()),
                (kind, default),
                "{name}"
            );
            assert!(!key.meaning.is_empty(), "{name} is not described");
        }
        assert!(
            key("training.loss_watchdog").unwrap().kind.is_empty(),
            "a section"
        );
        assert_eq!(key("model.nonsense"), None);
        let decay = key("data.packing").unwrap();
        assert!(
            decay
                .words
                .iter()
                .any(|(word, meaning)| word == "shuffled" && !meaning.is_empty())
        );
    }

    /// With `INFINITY_WRITE=1` in the environment it writes the page instead.
    #[test]
    fn the_reference_page_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("INFINITY_WRITE").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == reference(),
            "write docs/configuration.md anew: infinity config reference"
        );
    }
}
