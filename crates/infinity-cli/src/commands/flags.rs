//! Flags that set keys of the configuration: one table, from which parser, help and layers follow.
//!
//! A flag is a name for one key; its type, limits, help and error messages are the key's.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use infinity_train::config::{ConfigError, ConfigLayers, key};

/// One flag. Flags of the same key override each other, the last on the line wins.
#[derive(Debug)]
pub(super) struct Flag {
    /// Long name, without the hyphens.
    pub(super) name: &'static str,
    /// Dotted key that it sets.
    pub(super) key: &'static str,
    short: Option<char>,
    aliases: &'static [&'static str],
    takes: Takes,
    /// What the help says of it instead of what the table of keys says of its key.
    help: Option<&'static str>,
}

/// What follows a flag.
#[derive(Debug)]
enum Takes {
    /// A value, called so in the help.
    Value(&'static str),
    /// A value after `=`, or none, which means the second.
    Optional(&'static str, &'static str),
    /// Nothing; the flag itself stands for this value.
    Is(&'static str),
}

const fn flag(name: &'static str, key: &'static str, value: &'static str) -> Flag {
    Flag {
        name,
        key,
        short: None,
        aliases: &[],
        takes: Takes::Value(value),
        help: None,
    }
}

const fn switch(name: &'static str, key: &'static str, value: &'static str) -> Flag {
    Flag {
        takes: Takes::Is(value),
        ..flag(name, key, value)
    }
}

impl Flag {
    const fn said(self, help: &'static str) -> Self {
        let help = Some(help);
        Self { help, ..self }
    }

    const fn or(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// The flag as it is typed.
    pub(super) fn typed(&self) -> String {
        format!("--{}", self.name)
    }
}

/// `--tokenizer` sets several keys; the layering knows this word for them.
pub(super) const TOKENIZER: &str = "tokenizer";
/// `--max-eval-samples` counts rows; the layering makes batches of them.
pub(super) const EVAL_SAMPLES: &str = "eval.max_batches (in rows)";

/// The flags, by the title they stand under in the help. Those without one are not shown there: they exist for the
/// original project's command lines alone.
#[rustfmt::skip]
const FLAGS: &[(Option<&str>, &[Flag])] = &[
    (Some("Data and output"), &[
        flag("train-file", "data.train_file", "PATH"),
        flag("validation-file", "data.validation_file", "PATH"),
        Flag { short: Some('o'), ..flag("output-dir", "run.output_dir", "DIR") },
        flag("run-name", "run.name", "NAME"),
        switch("overwrite", "run.overwrite", "true").or(&["overwrite-output-dir"]),
        flag("tokenizer", TOKENIZER, "KIND|PATH").said("Tokenizer: byte, char, bpe:ENTRIES, or a tokenizer.json").or(&["tokenizer-name"]),
        flag("text-column", "data.text_column", "NAME"),
        flag("val-fraction", "data.val_fraction", "FRACTION"),
        flag("packing", "data.packing", "HOW"),
        flag("max-seq-length", "data.max_seq_length", "N").or(&["block-size"]),
        flag("cache-dir", "data.cache_dir", "DIR"),
    ]),
    (Some("Training"), &[
        flag("max-steps", "training.max_steps", "N").or(&["max-train-steps"]),
        flag("max-tokens", "training.max_tokens", "N"),
        flag("num-train-epochs", "training.num_train_epochs", "N").or(&["epochs"]),
        Flag { short: Some('b'), ..flag("per-device-train-batch-size", "training.per_device_train_batch_size", "N").or(&["batch-size"]) },
        flag("per-device-eval-batch-size", "training.per_device_eval_batch_size", "N"),
        flag("gradient-accumulation-steps", "training.gradient_accumulation_steps", "N"),
        flag("max-grad-norm", "training.max_grad_norm", "NORM"),
        Flag { takes: Takes::Optional("WHAT", "blocks"), ..flag("gradient-checkpointing", "training.gradient_checkpointing", "") },
        flag("init-from", "training.init_from", "DIR"),
        flag("optimizer", "optimizer.name", "NAME"),
        flag("learning-rate", "optimizer.learning_rate", "RATE").or(&["lr"]),
        flag("muon-learning-rate", "optimizer.muon_learning_rate", "RATE"),
        flag("weight-decay", "optimizer.weight_decay", "X"),
        flag("lr-scheduler-type", "lr_scheduler.type", "TYPE"),
        flag("warmup-steps", "lr_scheduler.warmup_steps", "N").or(&["num-warmup-steps"]),
        flag("precision", "run.precision", "FORMAT"),
        flag("strategy", "distributed.strategy", "HOW"),
        flag("devices", "distributed.devices", "N|LIST"),
    ]),
    (Some("Validation, checkpoints, log"), &[
        flag("eval-steps", "eval.every", "N"),
        flag("max-eval-batches", "eval.max_batches", "N"),
        flag("max-eval-samples", EVAL_SAMPLES, "N").said("Rows of a validation, rounded up to whole batches"),
        flag("save-steps", "checkpoint.every", "N").or(&["checkpointing-steps"]),
        flag("save-total-limit", "checkpoint.keep_last", "N"),
        flag("logging-steps", "logging.every", "N"),
    ]),
    (Some("Model"), &[
        flag("hidden-size", "model.hidden_size", "N"),
        flag("num-hidden-layers", "model.num_hidden_layers", "N"),
        flag("num-attention-heads", "model.num_attention_heads", "N"),
        flag("mixer", "model.mixer", "NAME"),
        flag("kernel-type", "model.kernel_type", "NAME"),
        flag("num-memory-scales", "model.num_memory_scales", "N"),
        switch("rotary-embeddings", "model.use_rotary_embeddings", "true").said("Rotate positions into queries and keys").or(&["use-rotary-embeddings"]),
        switch("no-rotary-embeddings", "model.use_rotary_embeddings", "false").said("Do not").or(&["no-use-rotary-embeddings"]),
        switch("multi-scale-memory", "model.use_multi_scale_memory", "true").said("Keep memory states of several time scales").or(&["use-multi-scale-memory"]),
        switch("no-multi-scale-memory", "model.use_multi_scale_memory", "false").said("Keep the context state alone").or(&["no-use-multi-scale-memory"]),
    ]),
    (None, &[
        switch("fp16", "run.precision", "f16-mixed"),
        switch("bf16", "run.precision", "bf16-mixed"),
        switch("do-eval", "eval.do_eval", "true"),
    ]),
];

fn all() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().flat_map(|(_, flags)| *flags)
}

/// The flags that were given, each with its value.
#[derive(Debug, Default)]
pub(super) struct Given(pub(super) Vec<(&'static Flag, String)>);

/// `layers` with those of `flags` that have a value, each with its key.
pub(super) fn over<const N: usize>(
    layers: ConfigLayers,
    flags: [(&str, &str, &Option<String>); N],
) -> Result<ConfigLayers, ConfigError> {
    let given = |layers, (flag, key, value): (_, _, &Option<String>)| match value {
        Some(value) => ConfigLayers::flag(layers, flag, key, value),
        None => Ok(layers),
    };
    flags.into_iter().try_fold(layers, given)
}

impl Given {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut given = self.0.iter();
        given.find_map(|(flag, value)| (flag.name == name).then_some(&**value))
    }
}

impl Flag {
    /// What its key means, the words it allows, and its default.
    fn help(&self) -> String {
        if let Some(help) = self.help {
            return help.to_owned();
        }
        let key = key(self.key).expect("a test holds every flag's key to exist");
        let mut help = key.summary();
        let words: Vec<&str> = key.words.iter().map(|(word, _)| word.as_str()).collect();
        if !words.is_empty() {
            help = format!("{help}: {}", words.join(", "));
        }
        match key.default.trim_matches('"') {
            "" => help,
            default => format!("{help} [default: {default}]"),
        }
    }

    fn arg(&self, title: Option<&'static str>) -> Arg {
        let rivals = all().filter(|other| other.key == self.key && other.name != self.name);
        let arg = Arg::new(self.name)
            .long(self.name)
            .aliases(self.aliases)
            .help(self.help())
            .help_heading(title)
            .hide(title.is_none())
            .short(self.short)
            .overrides_with_all(rivals.map(|other| other.name));
        match self.takes {
            Takes::Value(name) => arg.value_name(name),
            Takes::Optional(name, without) => arg
                .value_name(name)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value(without),
            Takes::Is(_) => arg.action(ArgAction::SetTrue),
        }
    }

    fn value(&self, matches: &ArgMatches) -> Option<String> {
        match self.takes {
            Takes::Is(value) => matches.get_flag(self.name).then(|| value.to_owned()),
            _ => matches.get_one::<String>(self.name).cloned(),
        }
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        let titled = FLAGS.iter();
        command.args(titled.flat_map(|(title, flags)| flags.iter().map(|flag| flag.arg(*title))))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let values = all().filter_map(|flag| Some((flag, flag.value(matches)?)));
        Ok(Self(values.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_sets_a_key_that_exists() {
        for flag in all().filter(|flag| ![TOKENIZER, EVAL_SAMPLES].contains(&flag.key)) {
            let value = match flag.takes {
                Takes::Is(value) => value,
                _ => continue,
            };
            ConfigLayers::new()
                .flag(&flag.typed(), flag.key, value)
                .unwrap();
        }
        for flag in all().filter(|flag| ![TOKENIZER, EVAL_SAMPLES].contains(&flag.key)) {
            // A wrong value is fine here, an unknown key is not.
            let error = ConfigLayers::new()
                .flag(&flag.typed(), flag.key, "[[")
                .err();
            let error = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!error.contains("unknown key"), "{error}");
        }
        let error = ConfigLayers::new()
            .flag("--x", "run.nonsense", "1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("unknown key"),
            "the check above must be able to fail: {error}"
        );
    }

    #[test]
    fn the_last_of_two_flags_for_one_key_wins() {
        let given = |line: &str| {
            let command = Given::augment_args(Command::new("x").no_binary_name(true));
            Given::from_arg_matches(&command.try_get_matches_from(line.split(' ')).unwrap())
                .unwrap()
        };
        let rotary = given("--rotary-embeddings --no-rotary-embeddings");
        assert_eq!(rotary.0.len(), 1);
        assert_eq!(rotary.0[0].1, "false");
        assert_eq!(given("--fp16 --precision f32").0[0].1, "f32");
        assert_eq!(given("--gradient-checkpointing").0[0].1, "blocks");
        assert_eq!(given("--gradient-checkpointing=none -b 3").0.len(), 2);
        assert!(given("--do-eval").get("do-eval").is_some());
    }
}
