//! Where values come from, and who wins ([`config`](super)).
//!
//! Each layer holds what it sets and nothing else; merging is a deep merge of tables.
//! The order of the calls does not matter between kinds of layers, and matters within one kind.
//!
//! Keys are checked one by one, before they are merged, because a merged table no longer knows which
//! line a value came from. Keys of the original project that mean nothing here are accepted, with the
//! reason: [`ModelConfig::LEGACY_KEYS`].

use super::{ConfigError, ModelConfig, RunConfig, keys};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Table, Value};

/// Beginning of the environment variables that set keys: `INFINITY__TRAINING__MAX_STEPS=100`.
const ENVIRONMENT_PREFIX: &str = "INFINITY__";

/// A configuration being put together; [`config`](super) says who wins. Every layer refuses an unknown key and a value
/// of the wrong type.
#[derive(Debug, Default)]
pub struct ConfigLayers {
    settings: Vec<Setting>,
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
struct Setting {
    rank: Rank,
    key: String,
    value: Value,
    origin: String,
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
        let first = Value::try_from(ModelConfig::first()).expect("a model has a TOML form");
        let first = nested("model", first).to_string();
        let layers = ConfigLayers::new().text("the first version", &first)?;
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
            let hint = keys::among(name, infinity_model::config::PRESETS);
            return Err(ConfigError(format!("unknown preset `{name}`{hint}")));
        };
        let model = Value::try_from(model).expect("a model has a TOML form");
        self.value(Rank::Preset, "model", model, "the preset")
    }

    /// A TOML file, above the files before it.
    ///
    /// # Errors
    /// The file cannot be read, or is not TOML.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            ConfigError(format!("cannot read the configuration {shown}: {error}"))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            not_toml(&shown, format!("the file is not UTF-8 text (byte {at})"))
        })?;
        self.text(&shown, &text)
    }

    /// TOML text, ranked like a file; `origin` names it in messages.
    pub fn text(mut self, origin: &str, text: &str) -> Result<Self, ConfigError> {
        let root = DeTable::parse(text).map_err(|error| not_toml(origin, error))?;
        if !self.source.is_empty() {
            self.source.push_str(&format!("\n# ---- {origin}\n"));
        }
        self.source.push_str(text);
        let place = |at: usize| {
            let lines = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n');
            format!("{origin}:{}", lines.count() + 1)
        };
        self.table(root.get_ref(), "", &place)
    }

    /// Every key of `table`, whose names begin with `prefix`; `place` names the place of a byte.
    fn table(
        mut self,
        table: &DeTable<'_>,
        prefix: &str,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Self, ConfigError> {
        for (name, value) in table {
            let origin = place(name.span().start);
            let key = format!("{prefix}{}", name.get_ref());
            // A key in quotes may hold a point, and would pass for one of a section.
            if name.get_ref().contains('.') {
                return Err(ConfigError(format!("{origin}: unknown key `{key}`")));
            }
            if let DeValue::Table(inner) = value.get_ref() {
                // The section's own line: some messages are about all of it.
                let empty = Value::Table(Table::new());
                self = self.value(Rank::File, &key, empty, &origin)?;
                self = self.table(inner, &format!("{key}."), place)?;
            } else {
                let read = Value::deserialize(ValueDeserializer::from(value.clone()))
                    .map_err(|error| wrong_value(&origin, &key, error.message()))?;
                let origin = match (&read, value.get_ref()) {
                    (Value::Array(list), DeValue::Array(places)) => wrong_element(&key, list)
                        .map_or(origin, |element| place(places[element].span().start)),
                    _ => origin,
                };
                self = self.value(Rank::File, &key, read, &origin)?;
            }
        }
        Ok(self)
    }

    /// The variables `INFINITY__SECTION__KEY=value` among `variables`; others are not looked at.
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut sorted: Vec<_> = variables.into_iter().collect();
        sorted.sort();
        for (name, value) in sorted {
            if let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) {
                let key = key.to_lowercase().replace("__", ".");
                self = self.variable(&name, &key, &value)?;
            }
        }
        Ok(self)
    }

    /// One key from an environment variable that is not of the form `INFINITY__SECTION__KEY`.
    pub fn variable(self, name: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        let origin = format!("environment variable {name}");
        self.word(Rank::Environment, key, value, &origin)
    }

    /// One key from a flag that has a name of its own.
    pub fn flag(self, flag: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.flag_as(&format!("{flag} {value}"), key, value)
    }

    /// One key from a flag whose words are more than its value; messages quote `typed`.
    pub fn flag_as(self, typed: &str, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.word(Rank::Flag, key, value, typed)
    }

    /// `section.key=value`, the strongest layer; the value is TOML, or text without quotes.
    ///
    /// # Errors
    /// Not of that form.
    pub fn set(self, assignment: &str) -> Result<Self, ConfigError> {
        let (key, value) = assignment.split_once('=').unwrap_or_default();
        if key.trim().is_empty() {
            return Err(ConfigError(format!(
                "`--set {assignment}`: expected section.key=value, as in `--set training.max_steps=100`"
            )));
        }
        let origin = format!("--set {assignment}");
        self.word(Rank::Set, key.trim(), value.trim(), &origin)
    }

    /// Merges the layers over the defaults and checks the result.
    ///
    /// # Errors
    /// The first value that [`RunConfig::validate`] refuses, with the place that set it.
    pub fn resolve(mut self) -> Result<LoadedConfig, ConfigError> {
        self.settings.sort_by_key(|setting| setting.rank);
        let mut merged = Table::new();
        let mut origins = BTreeMap::new();
        for setting in self.settings {
            merge(&mut merged, nested(&setting.key, setting.value));
            origins.insert(setting.key, setting.origin);
        }
        let mut config = RunConfig::deserialize(merged)
            .map_err(|error| not_toml("the merged configuration", error))?;
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
        let string = Value::String(text.to_owned());
        let table = format!("v = {text}").parse::<Table>();
        let typed = table.ok().and_then(|mut table| table.remove("v"));
        let fits = |value: &Value| check_type(key, value).is_ok();
        let value = match typed {
            Some(typed) if fits(&typed) || !fits(&string) => typed,
            _ => string,
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
        if let Some(reason) = legacy_reason(key) {
            let warning = format!("{origin}: `{key}` changes nothing: {reason}");
            self.warnings.push(warning);
            return Ok(self);
        }
        if let Some(hint) = keys::unknown(key) {
            return Err(ConfigError(format!("{origin}: unknown key `{key}`{hint}")));
        }
        check_type(key, &value).map_err(|message| wrong_value(origin, key, &message))?;
        self.warnings.extend(idle(origin, key, &value));
        self.settings.push(Setting {
            rank,
            key: key.to_owned(),
            value,
            origin: origin.to_owned(),
        });
        Ok(self)
    }
}

fn not_toml(origin: &str, message: impl std::fmt::Display) -> ConfigError {
    ConfigError(format!("{origin} is not valid TOML\n{message}"))
}

/// A value of the wrong type, or outside the words that its key allows; `message` is serde's.
fn wrong_value(origin: &str, key: &str, message: &str) -> ConfigError {
    ConfigError(format!("{origin}: `{key}`: {}", in_words(message)))
}

/// Whether `value` can be the value of the dotted `key`; what is wrong otherwise.
fn check_type(key: &str, value: &Value) -> Result<(), String> {
    RunConfig::deserialize(nested(key, value.clone()))
        .map(drop)
        .map_err(|error| match error.message().strip_prefix("expected ") {
            // Of a key of several types no word is said about what was given.
            Some(expected) => format!("invalid value: {value}, expected {expected}"),
            None => error.message().to_owned(),
        })
}

/// The first element of a list that its key cannot have, where it could have those before.
fn wrong_element(key: &str, list: &[Value]) -> Option<usize> {
    let right = |first: &[Value]| check_type(key, &Value::Array(first.to_vec())).is_ok();
    if right(list) {
        return None;
    }
    (0..list.len()).find(|&i| !right(&list[..=i]) && right(&list[..i]))
}

/// `a.b.c` and a value as nested tables.
fn nested(key: &str, value: Value) -> Table {
    let (key, value) = match key.split_once('.') {
        None => (key, value),
        Some((head, rest)) => (head, Value::Table(nested(rest, value))),
    };
    Table::from_iter([(key.to_owned(), value)])
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

/// Serde's message without Rust's names for numbers.
fn in_words(message: &str) -> String {
    let message = message.trim_end();
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
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

/// Why `dotted` changes nothing; `None` for every key that does something or does not exist.
fn legacy_reason(dotted: &str) -> Option<&'static str> {
    let key = dotted.strip_prefix("model.")?.split('.').next()?;
    let legacy = ModelConfig::LEGACY_KEYS.iter().find(|(k, _)| *k == key)?;
    Some(legacy.1)
}

/// What to say of a key that only says how the memory is compressed: training never does. At its
/// default it says nothing, as in a run's own record.
fn idle(origin: &str, key: &str, value: &Value) -> Option<String> {
    let name = key.strip_prefix("model.")?;
    if !ModelConfig::COMPRESSION_KEYS.contains(&name) {
        return None;
    }
    let config = RunConfig::deserialize(nested(key, value.clone())).ok()?;
    let why = "the memory is compressed by `model.memory_compression` alone, when a model reads and \
               not when it learns";
    (config.model != ModelConfig::default())
        .then(|| format!("{origin}: `{key}` changes nothing: {why}"))
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
        match ConfigLayers::new().text("a.toml", text) {
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
        assert_eq!(
            message("\"model.hidden_size\" = 3\n"),
            "a.toml:1: unknown key `model.hidden_size`",
            "a point in quotes is part of the key"
        );
    }

    #[test]
    fn a_wrong_type_names_line_key_and_both_types() {
        assert_eq!(
            message("[model]\n\nhidden_size = \"wide\"\n"),
            "a.toml:3: `model.hidden_size`: invalid type: string \"wide\", expected a whole number \
             that is not negative"
        );
        assert!(message("[model]\nhidden_size = -3\n").contains("`model.hidden_size`"));
        let list = "[eval]\nsample_prompts = [\n  \"One\",\n  2,\n]\n";
        assert!(message(list).starts_with("a.toml:4: `eval.sample_prompts`: invalid type"));
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
