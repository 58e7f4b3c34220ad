//! The command line: one file a verb, with its flags and what it does.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod eval;
mod eval_task;
pub(crate) mod export;
mod flags;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod plot;
mod sampling;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod tokenize;
pub(crate) mod train;

use clap::{Command, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::{self, Global, JsonArgs};
use crate::terminal;

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

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a folder with a run that trains from this program alone
    Init(init::InitArgs),
    /// Train a model, from a TOML file, from flags, or from both
    Train(Box<train::TrainArgs>),
    /// Measure loss, perplexity and bits per byte of a model
    Eval(eval::EvalArgs),
    /// Continue a prompt
    Generate(generate::GenerateArgs),
    /// Write a model as a directory of its own, in f32, bf16 or f16
    Export(export::ExportArgs),
    /// Talk with a model
    Chat(chat::ChatArgs),
    /// Read a text without end, keep what is remembered, and say how surprising it is
    Stream(stream::StreamArgs),
    /// Serve a model over HTTP: OpenAI's interface, sessions that are kept, and a page
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    /// Look into what `generate --state-out` kept
    #[command(subcommand)]
    State(state::StateVerb),
    /// Draw what runs logged: loss, learning rate, gradient norm, speed, memory
    Plot(plot::PlotArgs),
    /// Turn text into token files once, for many runs
    #[command(alias = "prepare")]
    Tokenize(tokenize::TokenizeArgs),
    /// List the devices this build can compute on
    Devices(JsonArgs),
    /// Try out what this build can do on this machine, and say what to do about what is missing
    Doctor(JsonArgs),
    /// Measure how fast a model reads and writes, at any depth of a text
    Bench(bench::BenchArgs),
    /// Check a configuration, or show what it amounts to
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The parser, with the underscore spelling of every flag as a hidden alias.
pub(crate) fn command() -> Command {
    args::with_underscores(Cli::command())
}

/// `infinity completions SHELL`: prints the script a shell needs to complete our flags.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    // Into memory first: Clap panics when the pipe it writes to is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "infinity", &mut script);
    terminal::piece(&String::from_utf8_lossy(&script))
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
