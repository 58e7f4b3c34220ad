//! Ctrl-C: the first asks the work to save and stop, the second ends the program. Before there is
//! anything to save, the first does.
//!
//! burn-train's dashboard switches the terminal to raw input, in which Ctrl-C is a key like any
//! other that it does not know. Signals are switched on again, so that Ctrl-C saves and stops as it
//! does everywhere, and whatever happens the terminal is given back as it was.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use burn::tensor::Device;
use infinity_kernels::accelerator;
use infinity_train::TrainControl;
use infinity_train::metrics::Reporter;

use super::{errors, note};

/// What Ctrl-C (or SIGTERM) tells the work.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    /// Set by the first.
    pub(crate) asked: Arc<AtomicBool>,
    /// To be set by the work once it looks at `asked`; until then, the first ends the program.
    pub(crate) heeded: Arc<AtomicBool>,
}

impl Interrupt {
    /// For a training run from its start on.
    pub(crate) fn control(
        self,
        reporter: Box<dyn Reporter + Send>,
        config_text: String,
    ) -> TrainControl {
        TrainControl {
            interrupt: self.asked,
            heeded: self.heeded,
            reporter,
            resume: None,
            config_text,
        }
    }
}

/// Listens for Ctrl-C. `told`, if any, is printed when the work is asked to stop.
pub(crate) fn listen(told: &'static str) -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt::default();
    let Interrupt { asked, heeded } = interrupt.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) || !heeded.load(Ordering::SeqCst) {
            // Nothing half-made stays, and nobody complains that it is gone.
            infinity_files::remove_unfinished();
            take_back();
            note("stopped");
            std::process::exit(errors::INTERRUPTED.into());
        }
        if !told.is_empty() {
            note(told);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(interrupt)
}

/// Ctrl-C for work that may wait for a GPU's kernels: heeded from the first step on that compiled none. Until then it
/// ends the program, which would not look for as long as they take.
pub(crate) struct Heeding {
    interrupt: Interrupt,
    /// Whether a step compiled nothing, or none ever does.
    ready: bool,
    compiled: usize,
    broken: Option<anyhow::Error>,
}

impl Heeding {
    /// Listens, for work on `device` that looks after every step.
    pub(crate) fn listen(device: &Device) -> anyhow::Result<Self> {
        Ok(Heeding {
            interrupt: listen("")?,
            ready: accelerator::facts(device).is_none(),
            compiled: accelerator::prepared().compiled,
            broken: None,
        })
    }

    pub(crate) fn begin(&self) {
        let heeded = &self.interrupt.heeded;
        heeded.store(self.ready, Ordering::SeqCst);
    }

    pub(crate) fn step(&mut self) {
        let compiled = accelerator::prepared().compiled;
        self.ready |= compiled == self.compiled;
        self.compiled = compiled;
        self.begin();
    }

    /// Whether Ctrl-C has asked for an end.
    pub(crate) fn stops(&self) -> bool {
        self.interrupt.asked.load(Ordering::SeqCst)
    }

    /// Breaks where Ctrl-C has asked for an end, or a piece could not be shown.
    pub(crate) fn going_on(&self) -> ControlFlow<()> {
        match self.stops() || self.broken.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Shows a piece of what the work makes on standard output, and whether it is to go on.
    pub(crate) fn show(&mut self, text: &str) -> ControlFlow<()> {
        if !text.is_empty() {
            self.broken = super::piece(text).err();
        }
        self.going_on()
    }

    /// Why a piece could not be shown, if one could not.
    pub(crate) fn shown(&mut self) -> anyhow::Result<()> {
        self.broken.take().map_or(Ok(()), Err)
    }

    /// The work is done, and there may be more later.
    pub(crate) fn end(&self) {
        self.interrupt.heeded.store(false, Ordering::SeqCst);
        self.interrupt.asked.store(false, Ordering::SeqCst);
    }
}

/// What SIGUSR1 sets; elsewhere than on Unix nothing does.
pub(crate) fn on_request() -> anyhow::Result<Arc<AtomicBool>> {
    let asked = Arc::<AtomicBool>::default();
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&asked))
        .context("cannot listen for SIGUSR1")?;
    Ok(asked)
}

/// [`listen`], for work that never looks: Ctrl-C ends the program, and leaves nothing half-made.
pub(crate) fn ends() -> anyhow::Result<()> {
    listen("").map(drop)
}

#[cfg(unix)]
mod modes {
    use std::io::{self, Write};
    use std::sync::OnceLock;

    use rustix::termios::{self, LocalModes, OptionalActions, Termios};

    /// The terminal's modes before a dashboard changed them.
    static BEFORE: OnceLock<Termios> = OnceLock::new();
    /// Shows the cursor, ends reports of the mouse, and leaves the second screen.
    const LEAVE: &[u8] =
        b"\x1b[?25h\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l";

    pub(crate) fn remember() {
        if let Ok(modes) = termios::tcgetattr(io::stdin()) {
            let _ = BEFORE.set(modes);
        }
    }

    /// Makes Ctrl-C a signal again in raw input. Cheap enough to be called often: who switches to
    /// raw input does so on a thread of its own.
    pub(crate) fn keep_signals() {
        if let Ok(mut modes) = termios::tcgetattr(io::stdin())
            && !modes.local_modes.contains(LocalModes::ISIG)
        {
            modes.local_modes.insert(LocalModes::ISIG);
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
    }

    /// Gives the terminal back as it was, if a dashboard had it and could not do so itself.
    pub(crate) fn take_back() {
        if BEFORE.get().is_some() {
            let mut out = io::stdout().lock();
            let _ = out.write_all(LEAVE).and_then(|()| out.flush());
        }
        restore();
    }

    /// Gives back the modes of a terminal whose screen the dashboard has left.
    pub(crate) fn restore() {
        if let Some(before) = BEFORE.get() {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Nothing is changed here: the dashboard itself gives the terminal back, and `q` stops a run.
#[cfg(not(unix))]
mod modes {
    pub(crate) fn remember() {}
    pub(crate) fn keep_signals() {}
    pub(crate) fn take_back() {}
    pub(crate) fn restore() {}
}

pub(crate) use modes::{keep_signals, remember, restore, take_back};
