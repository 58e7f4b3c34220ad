//! `infinity`: train, evaluate and run linear-time language models from TOML files.
//!
//! Words to calls and back. Everything that computes lives in the libraries; this program reads
//! the command line ([`args`]), picks the device ([`device`]), calls, and prints. Errors are
//! printed once, here, and decide the exit code ([`errors`]).

#![deny(unsafe_code)]

mod allocator;
mod args;
mod commands;
mod device;
mod model_dir;
mod terminal;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::commands::{Cli, Verb};
use crate::terminal::{errors, signals};

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let mut words = commands::command().get_matches();
    let cli = Cli::from_arg_matches_mut(&mut words).unwrap_or_else(|error| error.exit());
    errors::note_panics(cli.global.verbose >= 2);
    terminal::choose_color(cli.global.color);
    let outcome = errors::caught(|| run(cli));
    // A dashboard that was left by an error or a panic could not do so itself.
    signals::restore();
    ExitCode::from(match outcome {
        Ok(Ok(())) => errors::OK,
        Ok(Err(error)) => {
            let code = errors::exit_code(&error);
            if code != errors::OK && !error.is::<errors::Ended>() {
                terminal::error(&errors::message(&error));
            }
            code
        }
        Err(panic) => {
            terminal::error(&format!(
                "a part of the program gave up: {panic}\n  this should have been a better message; \
                 run again with -vv to see where it comes from"
            ));
            errors::FAILED
        }
    })
}

fn run(Cli { command, global }: Cli) -> anyhow::Result<()> {
    if let Some(threads) = global.threads {
        // The pool that the CPU backend and the tokenizers share, before anyone uses it.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global()?;
    }
    if global.quiet {
        terminal::be_quiet();
    }
    device::keep_caches();
    match command {
        Verb::Init(args) => commands::init::run(&args, &global),
        Verb::Train(args) => commands::train::run(*args, &global),
        Verb::Eval(args) => commands::eval::run(args, &global),
        Verb::Generate(args) => commands::generate::run(args, &global),
        Verb::Export(args) => commands::export::run(&args, &global),
        Verb::Chat(args) => commands::chat::run(args, &global),
        Verb::Stream(args) => commands::stream::run(args, &global),
        #[cfg(feature = "serve")]
        Verb::Serve(args) => commands::serve::run(*args, &global),
        Verb::State(verb) => commands::state::run(&verb, &global),
        Verb::Plot(args) => commands::plot::run(&args),
        Verb::Tokenize(args) => commands::tokenize::run(args),
        Verb::Devices(args) => commands::devices::run(&args),
        Verb::Doctor(args) => commands::doctor::run(&args, &global),
        Verb::Bench(args) => commands::bench::run(&args, &global),
        Verb::Config(verb) => commands::config::run(verb, &global),
        Verb::Completions { shell } => commands::completions(shell),
    }
}
