//! Ctrl-C: the first asks the work to save and stop, the second ends the program. Before there is
//! anything to save, the first does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::{failure, output, terminal};

/// What Ctrl-C (or SIGTERM) tells the work.
pub(crate) struct Interrupt {
    /// Set by the first.
    pub(crate) asked: Arc<AtomicBool>,
    /// To be set by the work once it looks at `asked`; until then, the first ends the program.
    pub(crate) heeded: Arc<AtomicBool>,
}

/// Listens for Ctrl-C. `told`, if any, is printed when the work is asked to stop.
///
/// # Errors
/// The handler cannot be installed.
pub(crate) fn listen(told: &'static str) -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt {
        asked: Arc::default(),
        heeded: Arc::default(),
    };
    let (asked, heeded) = (Arc::clone(&interrupt.asked), Arc::clone(&interrupt.heeded));
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) || !heeded.load(Ordering::SeqCst) {
            // Nothing half-made stays, and nobody complains that it is gone.
            infinity_files::remove_unfinished();
            terminal::take_back();
            output::note("stopped");
            std::process::exit(failure::INTERRUPTED.into());
        }
        if !told.is_empty() {
            output::note(told);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(interrupt)
}

/// [`listen`], for work that never looks: Ctrl-C ends the program, and leaves nothing half-made.
///
/// # Errors
/// As [`listen`].
pub(crate) fn ends() -> anyhow::Result<()> {
    listen("").map(drop)
}
