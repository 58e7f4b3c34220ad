//! `infinity config check|show|schema|reference`: is a configuration right, what does it amount to, and
//! what can stand in one.

use clap::{Args, Subcommand};
use infinity_train::config::{RunConfig, reference, schema};

use super::layering::ConfigFlags;
use crate::args::Global;
use crate::device;
use crate::terminal::{self, errors};

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether keys and values are right, and what is wrong if not; data files, devices and the
    /// output directory are not looked at
    Check(Box<ShowArgs>),
    /// Print every key with the value a training run would use
    Show(Box<ShowArgs>),
    /// Print the JSON Schema of a configuration file, for editors
    Schema,
    /// Print the reference page: every key with its type, default and meaning
    Reference,
}

/// The same files and flags that `infinity train` takes.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    config: ConfigFlags,
}

/// Checks or shows.
pub(crate) fn run(verb: ConfigVerb, global: &Global) -> anyhow::Result<u8> {
    match verb {
        ConfigVerb::Check(args) => {
            let config = args.config.load(global)?.config;
            device::named(&config.run.device)?;
            terminal::line(&format!(
                "ok: keys and values are right: {}",
                summary(&config)
            ))?;
            terminal::line(
                "not looked at: data files, the output directory, whether the device works",
            )?;
        }
        ConfigVerb::Show(args) => {
            let config = args.config.load(global)?.config;
            terminal::piece(&config.to_toml())?;
        }
        ConfigVerb::Schema => terminal::piece(&format!("{:#}\n", schema()))?,
        ConfigVerb::Reference => terminal::piece(&reference())?,
    }
    Ok(errors::OK)
}

/// One line about a configuration, for the eye to check.
fn summary(config: &RunConfig) -> String {
    let model = &config.model;
    format!(
        "{} mixer, {} layers × width {} × {} heads, window {}, {} tokens a step, writes {}",
        model.mixer,
        model.num_hidden_layers,
        model.hidden_size,
        model.num_attention_heads,
        config.data.max_seq_length,
        terminal::grouped(config.tokens_per_step()),
        config.output_dir().display()
    )
}
