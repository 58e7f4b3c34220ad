//! Where values come from, and who wins: defaults < preset < files < environment < flags < `--set`.
//!
//! Each layer is a TOML table of what it sets and nothing else; merging is a deep merge of tables.
//! The order of the calls does not matter between kinds of layers, and matters within one kind.
//!
//! Files are checked one by one, before they are merged, because a merged table no longer knows which
//! line a value came from. Keys of the original project that mean nothing here are accepted, with the
//! reason: [`ModelConfig::LEGACY_KEYS`].

use super::{ConfigError, ModelConfig, RunConfig, keys};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Beginning of the environment variables that set keys: `INFINITY__TRAINING__MAX_STEPS=100`.
const ENVIRONMENT_PREFIX: &str = "INFINITY__";

/// A configuration being put together. See the module's head for who wins.
#[derive(Debug, Default)]
pub struct ConfigLayers {
    layers: Vec<Layer>,
    warnings: Vec<String>,
    source: String,
}

/// The kinds of layers, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Preset,
    File,
    Environment,
    Flag,
    Set,
}

#[derive(Debug)]
struct Layer {
    rank: Rank,
    table: Table,
    /// Dotted key to where it was set, for messages.
    origins: Vec<(String, String)>,
}

/// A configuration that has been merged and checked.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The result.
    pub config: RunConfig,
    /// What the reader should know; printed by the program, not by the library.
    pub warnings: Vec<String>,
    /// The text of the files, as they were written.
    pub source: String,
}

impl RunConfig {
    /// Reads one file over the defaults and checks it. Warnings are dropped; callers who show
    /// them use [`ConfigLayers`].
    ///
    /// # Errors
    /// An unreadable file, TOML that does not parse, an unknown key, a wrong type, or a value
    /// that [`RunConfig::validate`] refuses.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Ok(ConfigLayers::new().file(path)?.resolve()?.config)
    }

    /// Reads TOML text over the defaults and checks it, as [`RunConfig::load`] does.
    ///
    /// # Errors
    /// As [`RunConfig::load`], without the reading.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Ok(ConfigLayers::new().text("text", text)?.resolve()?.config)
    }

    /// A record that [`to_toml`](Self::to_toml) made, in this version or an earlier one: keys of `[model]`
    /// that it lacks mean what they meant before they existed ([`ModelConfig::first`]).
    ///
    /// # Errors
    /// As [`RunConfig::load`], without the reading.
    pub fn from_record(text: &str) -> Result<Self, ConfigError> {
        let first = toml::Table::try_from(ModelConfig::first()).unwrap_or_default();
        let first = toml::Table::from_iter([("model".to_owned(), toml::Value::Table(first))]);
        let layers = ConfigLayers::new().text("the first version", &first.to_string())?;
        Ok(layers.text("text", text)?.resolve()?.config)
    }
}

impl ConfigLayers {
    /// No layers: the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A named network; sets `[model]` below every file.
    ///
    /// # Errors
    /// No preset of this name.
    pub fn preset(self, name: &str) -> Result<Self, ConfigError> {
        let Some(model) = ModelConfig::preset(name) else {
            return Err(ConfigError::Preset {
                name: name.to_owned(),
                hint: keys::among(name, infinity_model::config::PRESETS),
            });
        };
        let model = Value::try_from(model).expect("a model configuration has a TOML form");
        Ok(self.push(
            Rank::Preset,
            Table::from_iter([("model".into(), model)]),
            vec![],
        ))
    }

    /// A TOML file, above the files before it.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key or a value of the wrong type.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = std::fs::read(path).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::Syntax {
            origin: path.display().to_string(),
            message: format!(
                "the file is not UTF-8 text (byte {})",
                error.utf8_error().valid_up_to()
            ),
        })?;
        self.text(&path.display().to_string(), &text)
    }

    /// TOML text, ranked like a file; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`ConfigLayers::file`], without the reading.
    pub fn text(mut self, origin: &str, text: &str) -> Result<Self, ConfigError> {
        let checked = check(origin, text)?;
        self.warnings.extend(checked.warnings);
        if !self.source.is_empty() {
            self.source.push_str(&format!("\n# ---- {origin}\n"));
        }
        self.source.push_str(text);
        let placed = |(key, line)| (key, format!("{origin}:{line}"));
        let origins = checked.keys.into_iter().map(placed).collect();
        Ok(self.push(Rank::File, checked.table, origins))
    }

    /// The variables `INFINITY__SECTION__KEY=value` among `variables`; others are not looked at.
    ///
    /// # Errors
    /// A variable of that form with an unknown key or a value of the wrong type.
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut ours: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        ours.sort();
        for (name, value) in ours {
            let key = name[ENVIRONMENT_PREFIX.len()..]
                .to_lowercase()
                .replace("__", ".");
            let origin = format!("environment variable {name}");
            self = self.word(Rank::Environment, &key, &value, &origin)?;
        }
        Ok(self)
    }

    /// One key from an environment variable that is not of the form `INFINITY__SECTION__KEY`.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong type.
    pub fn variable(self, name: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        let origin = format!("environment variable {name}");
        self.word(Rank::Environment, key, value, &origin)
    }

    /// One key from a flag that has a name of its own.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong type.
    pub fn flag(self, flag: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.word(Rank::Flag, key, value, &format!("{flag} {value}"))
    }

    /// One key from a flag whose words are more than its value; messages quote `typed`.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong type.
    pub fn flag_as(self, typed: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.word(Rank::Flag, key, value, typed)
    }

    /// `section.key=value`, the strongest layer; the value is TOML, or text without quotes.
    ///
    /// # Errors
    /// Not of that form, an unknown key, or a value of the wrong type.
    pub fn set(self, assignment: &str) -> Result<Self, ConfigError> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(ConfigError::Assignment {
                argument: assignment.to_owned(),
            });
        };
        let key = key.trim();
        if key.is_empty() {
            return Err(ConfigError::Assignment {
                argument: assignment.to_owned(),
            });
        }
        self.word(Rank::Set, key, value.trim(), &format!("--set {assignment}"))
    }

    /// Merges the layers over the defaults and checks the result.
    ///
    /// # Errors
    /// The first value that [`RunConfig::validate`] refuses, with the place that set it.
    pub fn resolve(mut self) -> Result<LoadedConfig, ConfigError> {
        self.layers.sort_by_key(|layer| layer.rank);
        let mut merged = Table::new();
        let mut origins = BTreeMap::new();
        for layer in self.layers {
            merge(&mut merged, layer.table);
            origins.extend(layer.origins);
        }
        let mut config = RunConfig::deserialize(merged).map_err(|error| ConfigError::Syntax {
            origin: "the merged configuration".to_owned(),
            message: error.to_string(),
        })?;
        // The key means "training window", and the slowest half-life follows from it.
        if !origins.contains_key("model.max_position_embeddings") {
            config.model.max_position_embeddings = config.data.max_seq_length;
        }
        config.validate().map_err(|error| error.placed(&origins))?;
        Ok(LoadedConfig {
            config,
            warnings: self.warnings,
            source: self.source,
        })
    }

    /// A key with a value that arrived as text. Text that is TOML of the right type is taken as
    /// such, everything else as a string, so that quotes are needed only where they matter.
    fn word(self, rank: Rank, key: &str, text: &str, origin: &str) -> Result<Self, ConfigError> {
        strict_key(origin, key)?;
        let string = Value::String(text.to_owned());
        let typed = format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"));
        let value = match typed {
            Some(typed) if check_type(key, &typed).is_err() && check_type(key, &string).is_ok() => {
                string
            }
            Some(typed) => typed,
            None => string,
        };
        self.value(rank, key, value, origin)
    }

    fn value(
        mut self,
        rank: Rank,
        key: &str,
        value: Value,
        origin: &str,
    ) -> Result<Self, ConfigError> {
        strict_key(origin, key)?;
        if let Some(reason) = legacy_reason(key) {
            self.warnings
                .push(format!("{origin}: `{key}` changes nothing: {reason}"));
            return Ok(self);
        }
        check_type(key, &value).map_err(|message| ConfigError::Value {
            origin: origin.to_owned(),
            key: key.to_owned(),
            message,
        })?;
        self.warnings.extend(idle(origin, key, &value));
        Ok(self.push(
            rank,
            nested(key, value),
            vec![(key.to_owned(), origin.to_owned())],
        ))
    }

    fn push(mut self, rank: Rank, table: Table, origins: Vec<(String, String)>) -> Self {
        self.layers.push(Layer {
            rank,
            table,
            origins,
        });
        self
    }
}

/// Known, or a legacy key.
fn strict_key(origin: &str, key: &str) -> Result<(), ConfigError> {
    match legacy_reason(key) {
        Some(_) => Ok(()),
        None => refuse_unknown(origin, key),
    }
}

/// Errors when the dotted `key` is not one that is read.
fn refuse_unknown(origin: &str, key: &str) -> Result<(), ConfigError> {
    match keys::unknown(key) {
        None => Ok(()),
        Some(hint) => Err(ConfigError::UnknownKey {
            origin: origin.to_owned(),
            key: key.to_owned(),
            hint,
        }),
    }
}

/// Whether `value` can be the value of the dotted `key`; what is wrong otherwise.
fn check_type(key: &str, value: &Value) -> Result<(), String> {
    match RunConfig::deserialize(nested(key, value.clone())) {
        Ok(_) => Ok(()),
        Err(error) => Err(in_words(error.message())),
    }
}

/// `a.b.c` and a value as nested tables.
fn nested(key: &str, value: Value) -> Table {
    match key.split_once('.') {
        None => Table::from_iter([(key.to_owned(), value)]),
        Some((head, rest)) => {
            Table::from_iter([(head.to_owned(), Value::Table(nested(rest, value)))])
        }
    }
}

/// Lays `over` on `base`: tables are merged, everything else is replaced.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// A layer that parsed, has known keys only, and whose values have the right types.
struct Checked {
    /// The values, without legacy keys.
    table: toml::Table,
    /// Dotted keys that were set, each with its line.
    keys: Vec<(String, usize)>,
    /// What the reader should know about legacy keys.
    warnings: Vec<String>,
}

/// Parses and checks `text`; `origin` names the file in messages.
fn check(origin: &str, text: &str) -> Result<Checked, ConfigError> {
    let mut root = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        message: error.to_string(),
    })?;
    let line = |at: &Range<usize>| line_of(text, at.start);
    let mut warnings = Vec::new();
    for (key, at, reason) in take_legacy(root.get_mut()) {
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
    drop_legacy(&mut table);
    for (key, line) in &keys {
        let name = key.strip_prefix("model.").unwrap_or_default();
        let value = table.get("model").and_then(|model| model.get(name));
        warnings.extend(value.and_then(|value| idle(&format!("{origin}:{line}"), key, value)));
    }
    Ok(Checked {
        table,
        keys,
        warnings,
    })
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
fn in_words(message: &str) -> String {
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

/// The section of all legacy keys.
const LEGACY_SECTION: &str = "model";

/// Why `dotted` changes nothing; `None` for every key that does something or does not exist.
fn legacy_reason(dotted: &str) -> Option<&'static str> {
    let key = dotted.strip_prefix(LEGACY_SECTION)?.strip_prefix('.')?;
    let legacy = ModelConfig::LEGACY_KEYS.iter().find(|(k, _)| *k == key)?;
    Some(legacy.1)
}

/// What to say of a key that only says how the memory is compressed: training never does. At its
/// default it says nothing, as in a run's own record.
fn idle(origin: &str, key: &str, value: &Value) -> Option<String> {
    let name = key.strip_prefix("model.")?;
    let known = ModelConfig::COMPRESSION_KEYS.contains(&name);
    let default = Table::try_from(ModelConfig::default()).ok()?;
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|x| x as f64));
    let changed = known && default.get(name).and_then(number) != number(value);
    changed.then(|| {
        format!(
            "{origin}: `{key}` changes nothing: the memory is compressed by `model.memory_compression` \
             alone, when a model reads and not when it learns"
        )
    })
}

/// Removes legacy keys from a parsed file: dotted key, place, reason.
fn take_legacy(root: &mut DeTable<'_>) -> Vec<(String, Range<usize>, &'static str)> {
    let Some(section) = root.get_mut(LEGACY_SECTION) else {
        return Vec::new();
    };
    let DeValue::Table(section) = section.get_mut() else {
        return Vec::new();
    };
    ModelConfig::LEGACY_KEYS
        .iter()
        .filter_map(|(key, reason)| {
            let (name, _) = section.remove_entry(*key)?;
            Some((format!("{LEGACY_SECTION}.{key}"), name.span(), *reason))
        })
        .collect()
}

/// Removes legacy keys from a plain table.
fn drop_legacy(root: &mut toml::Table) {
    if let Some(toml::Value::Table(section)) = root.get_mut(LEGACY_SECTION) {
        for (key, _) in ModelConfig::LEGACY_KEYS {
            section.remove(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerName;

    fn env(name: &str, value: &str) -> Vec<(String, String)> {
        vec![
            ("PATH".to_owned(), "/bin".to_owned()),
            (name.to_owned(), value.to_owned()),
        ]
    }

    #[test]
    fn an_old_record_means_what_it_meant() {
        let mut config = RunConfig::default();
        config.model.num_memory_scales = 2;
        let mut table: toml::Table = config.to_toml().parse().unwrap();
        let model = table["model"].as_table_mut().unwrap();
        for newer in ["value_residual", "input_residual", "allow_neg_eigval"] {
            model.remove(newer).expect("a key");
        }
        assert_eq!(RunConfig::from_record(&table.to_string()).unwrap(), config);
        // What the record says is above what it lacks.
        let said = RunConfig::from_record("[model]\nvalue_residual = true").unwrap();
        assert!(said.model.value_residual && !said.model.input_residual);
        assert!(RunConfig::from_record("[model]\nvalue_residul = true").is_err());
    }

    #[test]
    fn each_layer_beats_the_one_below_it() {
        let steps = |layers: ConfigLayers| layers.resolve().unwrap().config.training.max_steps;
        let mut layers = ConfigLayers::new();
        assert_eq!(steps(ConfigLayers::new()), 0);
        // Strongest first: rank decides, not the order of the calls.
        let calls: [fn(ConfigLayers) -> ConfigLayers; 5] = [
            |l| l.text("a", "[training]\nmax_steps = 1").unwrap(),
            |l| l.text("b", "[training]\nmax_steps = 2").unwrap(),
            |l| {
                l.environment(env("INFINITY__TRAINING__MAX_STEPS", "3"))
                    .unwrap()
            },
            |l| l.flag("--max-steps", "training.max_steps", "4").unwrap(),
            |l| l.set("training.max_steps=5").unwrap(),
        ];
        for (i, call) in calls.iter().enumerate() {
            layers = call(layers);
            let again = calls[..=i]
                .iter()
                .fold(ConfigLayers::new(), |l, call| call(l));
            assert_eq!(steps(again), i as u64 + 1);
        }
        let reversed = ConfigLayers::new()
            .set("training.max_steps=5")
            .and_then(|l| l.flag("--max-steps", "training.max_steps", "4"))
            .and_then(|l| l.text("a", "[training]\nmax_steps = 1"))
            .unwrap();
        assert_eq!(steps(reversed), 5);
    }

    #[test]
    fn files_keep_what_later_files_do_not_set() {
        let config = ConfigLayers::new()
            .text(
                "a",
                "[model]\nhidden_size = 64\n[optimizer]\nname = \"muon\"\nbeta2 = 0.95",
            )
            .and_then(|l| l.text("b", "[optimizer]\nbeta2 = 0.9"))
            .and_then(ConfigLayers::resolve)
            .unwrap()
            .config;
        assert_eq!(config.optimizer.name, OptimizerName::Muon);
        assert_eq!(
            (config.optimizer.beta2, config.model.hidden_size),
            (0.9, 64)
        );
    }

    #[test]
    fn a_preset_lies_below_files() {
        let config = ConfigLayers::new()
            .text("a", "[model]\nconv_kernel_size = 3")
            .and_then(|l| l.preset("retnet"))
            .and_then(ConfigLayers::resolve)
            .unwrap()
            .config;
        let retnet = ModelConfig::preset("retnet").unwrap();
        assert_eq!(config.model.conv_kernel_size, 3);
        assert_eq!(config.model.memory_update, retnet.memory_update);
        let error = ConfigLayers::new()
            .preset("retnett")
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `retnet`?"), "{error}");
    }

    #[test]
    fn words_become_the_type_the_key_has() {
        let config = ConfigLayers::new()
            .set("run.name=123")
            .and_then(|l| l.set("optimizer.learning_rate=1"))
            .and_then(|l| l.set("eval.sample_prompts=[\"a = b\"]"))
            .and_then(|l| l.set("optimizer.name=muon"))
            .and_then(|l| l.set("run.output_dir=a=b"))
            .and_then(ConfigLayers::resolve)
            .unwrap()
            .config;
        assert_eq!((&*config.run.name, &*config.run.output_dir), ("123", "a=b"));
        assert_eq!(config.optimizer.learning_rate, 1.0);
        assert_eq!(config.eval.sample_prompts, ["a = b"]);
    }

    #[test]
    fn wrong_words_name_the_place() {
        let message = |result: Result<ConfigLayers, ConfigError>| result.unwrap_err().to_string();
        assert_eq!(
            message(ConfigLayers::new().set("training.max_steps=many")),
            "--set training.max_steps=many: `training.max_steps`: invalid type: string \"many\", \
             expected a whole number that is not negative"
        );
        assert!(
            message(ConfigLayers::new().set("training.max_step=1"))
                .contains("did you mean `training.max_steps`?")
        );
        assert!(message(ConfigLayers::new().set("nonsense")).contains("section.key=value"));
        let variable = env("INFINITY__TRAINING__MAX_STEP", "1");
        assert!(
            message(ConfigLayers::new().environment(variable))
                .starts_with("environment variable INFINITY__TRAINING__MAX_STEP: unknown key")
        );
    }

    #[test]
    fn legacy_keys_warn_and_change_nothing() {
        let text = "[model]\nhidden_size = 64\nkernel_epsilon = 0.1\n";
        let loaded = ConfigLayers::new()
            .text("old.toml", text)
            .and_then(|l| l.set("model.memory_compression_ratio=0.5"))
            .and_then(ConfigLayers::resolve)
            .unwrap();
        assert_eq!(loaded.warnings.len(), 2);
        assert!(loaded.warnings[0].starts_with("old.toml:3: `model.kernel_epsilon`"));
        assert_eq!(
            loaded.config,
            RunConfig::from_toml("[model]\nhidden_size = 64\nmemory_compression_ratio = 0.5")
                .unwrap()
        );
        assert_eq!(loaded.config.model.compression(), None);
        assert_eq!(loaded.source, text);
    }

    #[test]
    fn the_training_window_is_the_models_window_unless_it_is_given() {
        let resolve = |layers: ConfigLayers| layers.resolve().unwrap().config.model;
        let short = || ConfigLayers::new().set("data.max_seq_length=96").unwrap();
        assert_eq!(resolve(short()).max_position_embeddings, 96);
        assert_eq!(
            resolve(short().preset("softmax").unwrap()).max_position_embeddings,
            96
        );
        let given = short().set("model.max_position_embeddings=512").unwrap();
        assert_eq!(resolve(given).max_position_embeddings, 512);
    }

    #[test]
    fn a_refused_value_names_who_set_it() {
        let error = ConfigLayers::new()
            .text(
                "a.toml",
                "[training]\nper_device_train_batch_size = 4\n\nmax_grad_norm = -1.0",
            )
            .and_then(ConfigLayers::resolve)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`training.max_grad_norm` is -1"), "{error}");
        assert!(error.ends_with("(set in a.toml:4)"), "{error}");
    }

    fn message(text: &str) -> String {
        match check("a.toml", text) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
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
