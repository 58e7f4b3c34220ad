//! `infinity config check|show|schema|reference`: is a configuration right, what does it amount to, and
//! what can stand in one.
//!
//! Files, environment and flags become one configuration here for `train` too, so that `config show`
//! answers what a training line would do.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use infinity_model::ModelConfig;
use infinity_model::config::LayerType;
use infinity_train::config::{
    ConfigError, ConfigLayers, LoadedConfig, RunConfig, reference, schema,
};

use super::flags::{EVAL_SAMPLES, Given, TOKENIZER, over};
use crate::args::{Global, variable, variables};
use crate::device;
use crate::terminal::{self, refuse};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether keys and values are right, and what is wrong if not; data files, devices and the
    /// output directory are not looked at
    Check(Box<ConfigFlags>),
    /// Print every key with the value a training run would use
    Show(Box<ConfigFlags>),
    /// Print the JSON Schema of a configuration file, for editors
    Schema,
    /// Print the reference page: every key with its type, default and meaning
    Reference,
}

pub(crate) fn run(verb: ConfigVerb, global: &Global) -> anyhow::Result<()> {
    match verb {
        ConfigVerb::Check(flags) => {
            let config = flags.load(global)?.config;
            device::named(&config.run.device)?;
            terminal::line(format!(
                "ok: keys and values are right: {}\n\
                 not looked at: data files, the output directory, whether the device works",
                summary(&config)
            ))
        }
        ConfigVerb::Show(flags) => terminal::piece(&flags.load(global)?.config.to_toml()),
        ConfigVerb::Schema => terminal::line(format!("{:#}", schema())),
        ConfigVerb::Reference => terminal::piece(&reference()),
    }
}

/// One line about a configuration, for the eye to check.
fn summary(config: &RunConfig) -> String {
    let (model, window) = (&config.model, config.data.max_seq_length);
    let (n, width) = (model.num_hidden_layers, model.hidden_size);
    let heads = model.num_attention_heads;
    let tokens = terminal::grouped(config.tokens_per_step());
    let (layers, output) = (layers(model), config.output_dir());
    format!(
        "{layers}, {n} layers × width {width} × {heads} heads, window {window}, {tokens} tokens a step, writes {}",
        output.display()
    )
}

fn layers(model: &ModelConfig) -> String {
    if model.layer_types.is_none() {
        return format!("{} mixer", model.mixer);
    }
    let kinds = LayerType::ALL.iter();
    let kinds = kinds.map(|kind| (model.num_layers_of(*kind), kind));
    let kinds = kinds.filter(|(n, _)| *n > 0);
    let kinds: Vec<String> = kinds.map(|(n, kind)| format!("{n} {kind}")).collect();
    kinds.join(" and ")
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct ConfigFlags {
    /// Configuration file (TOML)
    #[arg(value_name = "CONFIG")]
    file: Option<PathBuf>,
    /// More configuration files, each above the one before
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    config: Vec<PathBuf>,
    /// Start [model] from a known layer: infinity, gated-deltanet, retnet, linear-transformer,
    /// mamba2, softmax
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    preset: Option<String>,
    /// Set any key, above everything else: --set model.hidden_size=128
    #[arg(long, value_name = "SECTION.KEY=VALUE", help_heading = HEADING)]
    set: Vec<String>,
    #[command(flatten)]
    given: Given,
    /// Train (what this verb does)
    #[arg(long, hide = true)]
    do_train: bool,
    /// The original's flag for a CUDA library; changes nothing
    #[arg(long, hide = true, value_name = "LEVEL")]
    fp16_opt_level: Option<String>,
}

const HEADING: &str = "Configuration";

impl ConfigFlags {
    /// Layers files, environment and flags, and checks the result. Warnings are printed.
    pub(crate) fn load(&self, global: &Global) -> anyhow::Result<LoadedConfig> {
        let mut layers = self.layers(global)?;
        if let Some(rows) = self.given.get("max-eval-samples") {
            let typed = format!("--max-eval-samples {rows}");
            let Ok(rows) = rows.parse::<u64>() else {
                refuse!("{typed}: expected a number of rows");
            };
            // Rows become batches, whose size only the merged configuration knows.
            let config = self.layers(global)?.resolve()?.config;
            let batch = config.training.per_device_eval_batch_size;
            let batches = rows.div_ceil(batch as u64).to_string();
            layers = layers.flag_as(&typed, "eval.max_batches", &batches)?;
        }
        let loaded = layers.resolve()?;
        for warning in &loaded.warnings {
            terminal::warning(warning);
        }
        if self.fp16_opt_level.is_some() {
            terminal::warning("--fp16-opt-level changes nothing: it belonged to a CUDA library");
        }
        Ok(loaded)
    }

    /// Whether the line asks, in the original project's way, to measure and not to train.
    pub(crate) fn only_evaluates(&self) -> bool {
        self.given.get("do-eval").is_some() && !self.do_train
    }

    fn layers(&self, global: &Global) -> anyhow::Result<ConfigLayers> {
        let mut layers = ConfigLayers::new();
        if let Some(name) = &self.preset {
            layers = layers.preset(name)?;
        }
        for file in self.file.iter().chain(&self.config) {
            layers = layers.file(file)?;
        }
        let seed = global.seed.map(|seed| seed.to_string());
        let of_all_verbs = [
            ("--device", "run.device", &global.device),
            ("--seed", "run.seed", &seed),
            ("--progress", "logging.progress", &global.progress),
        ];
        layers = over(environment(layers)?, of_all_verbs)?;
        for (flag, value) in &self.given.0 {
            layers = match flag.key {
                TOKENIZER => tokenizer(layers, value)?,
                EVAL_SAMPLES => layers,
                key => layers.flag(&flag.typed(), key, value)?,
            };
        }
        for assignment in &self.set {
            layers = layers.set(assignment)?;
        }
        Ok(layers)
    }
}

/// The device variables, then `INFINITY__SECTION__KEY`, which is more exact.
fn environment(mut layers: ConfigLayers) -> Result<ConfigLayers, ConfigError> {
    for name in ["BURN_DEVICE", "INFINITY_DEVICE"] {
        if let Some(value) = variable(name) {
            layers = layers.variable(name, "run.device", &value.to_string_lossy())?;
        }
    }
    layers.environment(variables())
}

/// `--tokenizer`: `byte`, `char`, `bpe:ENTRIES`, or a path.
pub(crate) fn tokenizer(layers: ConfigLayers, given: &str) -> Result<ConfigLayers, ConfigError> {
    let typed = format!("--tokenizer {given}");
    let (kind, key, value) = match (given, given.strip_prefix("bpe:")) {
        (_, Some(entries)) => ("bpe", "tokenizer.train_bpe", entries),
        ("byte" | "char", _) => return layers.flag_as(&typed, "tokenizer.kind", given),
        _ => ("file", "tokenizer.path", given),
    };
    let layers = layers.flag_as(&typed, "tokenizer.kind", kind)?;
    layers.flag_as(&typed, key, value)
}
