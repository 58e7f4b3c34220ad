//! The command line: verbs, global flags, and the original project's spellings.
//!
//! Flags are written with hyphens. Every flag also takes its spelling with underscores, so that a
//! command line of the original project works as it is; [`command`] adds those in one place.

use std::ops::RangeInclusive;

use clap::{Args, ColorChoice, Command, CommandFactory, Parser, Subcommand};

use crate::commands::{completions, config, devices, eval, generate, plot, tokenize, train};

/// Train, evaluate and run linear-time language models.
#[derive(Debug, Parser)]
#[command(name = "infinity", version, about, propagate_version = true)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Verb,
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 training diverged,
130 stopped by Ctrl-C after writing a checkpoint.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Train a model, from a TOML file, from flags, or from both
    Train(Box<train::TrainArgs>),
    /// Measure loss, perplexity and bits per byte of a model
    Eval(eval::EvalArgs),
    /// Continue a prompt
    Generate(generate::GenerateArgs),
    /// Draw what runs logged: loss, learning rate, gradient norm, speed, memory
    Plot(plot::PlotArgs),
    /// Turn text into token files once, for many runs
    #[command(alias = "prepare")]
    Tokenize(tokenize::TokenizeArgs),
    /// List the devices this build can compute on
    Devices(devices::DevicesArgs),
    /// Check a configuration, or show what it amounts to
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Flags of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Device: auto, flex, cpu, ndarray, wgpu[:i], vulkan[:i], metal[:i], cuda[:i], rocm[:i]
    /// [env: INFINITY_DEVICE, then BURN_DEVICE]
    #[arg(long, global = true, value_name = "DEVICE", help_heading = GLOBAL)]
    pub(crate) device: Option<String>,
    /// Threads on the CPU (default: all cores)
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL)]
    #[arg(value_parser = whole::<u16>(1..=u64::from(u16::MAX)), allow_negative_numbers = true)]
    pub(crate) threads: Option<u16>,
    /// Seed of everything random
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL)]
    #[arg(value_parser = whole::<u64>(0..=i64::MAX as u64), allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// How progress is shown: auto, plain, tui, json, none
    #[arg(long, global = true, value_name = "HOW", help_heading = GLOBAL)]
    pub(crate) progress: Option<String>,
    /// Say more: twice for the panic messages of libraries too
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub(crate) verbose: u8,
    /// Say less: results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Colours in messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = GLOBAL)]
    pub(crate) color: ColorChoice,
}

/// Title of the global flags in the help.
const GLOBAL: &str = "Global options";

/// The parser, with the underscore spelling of every flag as a hidden alias.
pub(crate) fn command() -> Command {
    with_underscores(Cli::command())
}

fn with_underscores(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let spellings: Vec<&'static str> = arg
                .get_long()
                .into_iter()
                .chain(arg.get_all_aliases().unwrap_or_default())
                .filter(|name| name.contains('-'))
                // Leaked once per process: Clap wants names that live as long as the program.
                .map(|name| &*name.replace('-', "_").leak())
                .collect();
            arg.aliases(spellings)
        })
        .mut_subcommands(with_underscores)
}

/// A reader of whole numbers within `limits`, for Clap: a wrong one, a negative one too, is answered
/// with its limits. Flags that set a key of the configuration leave that to the key.
pub(crate) fn whole<T: TryFrom<u64> + 'static>(
    limits: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| limits.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| match (limits.start(), limits.end()) {
            (least, &u64::MAX) => format!("it must be a whole number of at least {least}"),
            (least, most) => format!("it must be a whole number from {least} to {most}"),
        })
    }
}

/// Any number of things.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    whole(0..=u64::MAX)(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn both_spellings_are_the_same_flag() {
        for line in [
            "infinity train --train-file a.txt --num-train-epochs 3 --lr 1e-3",
            "infinity train --train_file a.txt --num_train_epochs 3 --learning_rate 1e-3",
        ] {
            let matches = command().try_get_matches_from(line.split(' ')).unwrap();
            let train = matches.subcommand_matches("train").unwrap();
            let value = |name| train.get_one::<String>(name).map(String::as_str);
            assert_eq!(value("num-train-epochs"), Some("3"), "{line}");
            assert_eq!(value("learning-rate"), Some("1e-3"), "{line}");
        }
    }

    #[test]
    fn limits_are_said() {
        assert_eq!(count("0"), Ok(0));
        for wrong in ["-1", "1.5", "many", "99999999999999999999"] {
            assert!(count(wrong).unwrap_err().contains("at least 0"), "{wrong}");
        }
        let threads = whole::<u16>(1..=u64::from(u16::MAX));
        assert_eq!(threads("65535"), Ok(65535));
        for wrong in ["0", "-1", "65536"] {
            assert!(threads(wrong).unwrap_err().contains("from 1 to 65535"));
        }
    }
}
