//! The command line: verbs, global flags, and the original project's spellings.
//!
//! Flags are written with hyphens. Every flag also takes its spelling with underscores, so that a
//! command line of the original project works as it is; [`command`] adds those in one place.

use clap::{Args, ColorChoice, Command, CommandFactory, Parser, Subcommand};

use crate::commands::{completions, config, devices, eval, generate, plot, tokenize, train};
use crate::numbers::whole;

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
}
