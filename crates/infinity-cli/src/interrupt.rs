//! Ctrl-C: the first asks the work to save and stop, the second ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::{failure, output, terminal};

/// A flag that the first Ctrl-C (or SIGTERM) sets. `told`, if any, is printed
/// then.
///
/// # Errors
/// The handler cannot be installed.
pub(crate) fn flag(told: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            terminal::take_back();
            output::note("stopped");
            std::process::exit(failure::INTERRUPTED.into());
        }
        if !told.is_empty() {
            output::note(told);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}
