//! The terminal under burn-train's dashboard: Ctrl-C goes on to be a signal, and whatever happens
//! the terminal is given back as it was.
//!
//! The dashboard switches the terminal to raw input, in which Ctrl-C is a key like any other that
//! it does not know. Signals are switched on again, so that Ctrl-C saves and stops as it does
//! everywhere.

use std::io::{self, IsTerminal};

/// Whether a dashboard can be shown: it draws on standard output and reads keys.
pub(crate) fn is_there() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
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

    /// Notes the modes, to give them back.
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

#[cfg(not(unix))]
mod modes {
    /// Nothing is changed here: the dashboard itself gives the terminal back.
    pub(crate) fn remember() {}
    /// There are no modes to change; `q` stops a run.
    pub(crate) fn keep_signals() {}
    /// Nothing was changed.
    pub(crate) fn take_back() {}
    /// Nothing was changed.
    pub(crate) fn restore() {}
}

pub(crate) use modes::{keep_signals, remember, restore, take_back};
