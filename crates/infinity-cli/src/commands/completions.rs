//! `infinity completions SHELL`: the script a shell needs to complete our flags.

use clap::Args;
use clap_complete::Shell;

use crate::terminal::{self, errors};

/// Which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<u8> {
    // Into memory first: Clap panics when the pipe it writes to is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "infinity", &mut script);
    terminal::piece(&String::from_utf8_lossy(&script))?;
    Ok(errors::OK)
}
