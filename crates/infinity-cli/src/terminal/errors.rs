//! From errors to exit codes and messages: what the shell and the person get. Panics of libraries
//! become messages too: one line with what was said and where, no backtrace.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

use infinity_model::GenerateError;
use infinity_train::config::ConfigError;
use infinity_train::data::DataError;
use infinity_train::{CheckpointError, TrainError};

// Exit codes; `infinity --help` tells what they mean.
pub(crate) const OK: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const DIVERGED: u8 = 3;
pub(crate) const INTERRUPTED: u8 = 130;

/// A command line that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

/// Everything is said, and the program ends with this exit code.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Ended(u8);

pub(crate) fn ended(code: u8) -> anyhow::Result<()> {
    Err(Ended(code).into())
}

pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Returns an error of usage from a message with its values: `anyhow::bail!`, of this kind.
macro_rules! refuse {
    ($($message:tt)*) => {
        return Err($crate::terminal::errors::usage(format!($($message)*)))
    };
}
pub(crate) use refuse;

pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(FAILED)
}

/// The exit code one error of a chain decides, if it does.
fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        // Whoever read our output has seen enough; that is no failure.
        return (io.kind() == io::ErrorKind::BrokenPipe).then_some(OK);
    }
    if let Some(Ended(code)) = cause.downcast_ref() {
        return Some(*code);
    }
    match cause.downcast_ref() {
        Some(TrainError::Diverged { .. }) => Some(DIVERGED),
        _ => is_usage(cause).then_some(USAGE),
    }
}

/// Whether a reader of our output went away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    exit_code(error) == OK
}

/// Whether an error is about what was asked for, not about what happened then.
///
/// Errors that pass another one on unchanged do not show it as their cause, so those are opened.
fn is_usage(cause: &(dyn std::error::Error + 'static)) -> bool {
    use {CheckpointError as C, DataError as D, GenerateError as G, TrainError as T};
    match cause.downcast_ref() {
        Some(T::Data(data)) => return is_usage(data),
        Some(T::Config(_) | T::Model(_) | T::Precision(_) | T::Refused(_)) => return true,
        Some(T::NoModel(_) | T::OutputExists { .. } | T::OutputRefused { .. }) => return true,
        Some(T::Checkpoint(C::None { .. } | C::Missing(_) | C::Changed { .. })) => return true,
        _ => {}
    }
    if let Some(D::Key(_)) = cause.downcast_ref() {
        return true;
    }
    matches!(cause.downcast_ref(), Some(G::Config(_) | G::EmptyPrompt))
        || cause.is::<Usage>()
        || cause.is::<ConfigError>()
        || cause.is::<infinity_model::ConfigError>()
        || cause.is::<infinity_model::PrecisionError>()
}

/// The message and its causes, one a line, without saying anything twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Libraries differ in whether a message includes its cause.
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\n  because: ");
        }
        text.push_str(&cause);
    }
    text
}

/// What panicked since the program started, oldest first.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Replaces the default hook: panics are noted instead of being printed, unless `show` is set or
/// `RUST_BACKTRACE` asks for them.
pub(crate) fn note_panics(show: bool) {
    let print = show || std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let mut text = payload_text(info.payload());
        if let Some(at) = info.location() {
            text += &format!(" ({}:{})", file_name(at.file()), at.line());
        }
        if let Ok(mut seen) = SEEN.lock() {
            seen.push(text);
        }
        if print {
            default(info);
        }
    }));
}

/// Runs `work`; a panic inside becomes the error, as its message.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = SEEN.lock().map_or(0, |seen| seen.len());
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let noted = SEEN.lock().ok().and_then(|seen| seen.get(before).cloned());
        noted.unwrap_or_else(|| payload_text(&*payload))
    })
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => String::clone(text),
        _ => "a panic without a message".to_owned(),
    }
}

/// The end of a path, which is enough to find the place and names no machine.
fn file_name(path: &str) -> &str {
    match path.rmatch_indices(['/', '\\']).nth(2) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn causes_are_said_once() {
        let cause = io::Error::other("disk full");
        let error = anyhow::Error::from(cause).context("cannot write a.txt: disk full");
        assert_eq!(message(&error), "cannot write a.txt: disk full");
        let error = anyhow!("disk full").context("cannot write a.txt");
        assert_eq!(message(&error), "cannot write a.txt\n  because: disk full");
    }

    #[test]
    fn the_cause_decides_the_exit_code() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let pipe: Result<(), _> = Err(pipe);
        assert_eq!(exit_code(&pipe.context("while writing").unwrap_err()), OK);
        assert_eq!(exit_code(&usage("no").context("in line 1")), USAGE);
        assert_eq!(exit_code(&anyhow!("no")), FAILED);
        let diverged = TrainError::Diverged {
            step: 3,
            reason: "loss is NaN".into(),
        };
        assert_eq!(exit_code(&diverged.into()), DIVERGED);
        let unset = DataError::Key("`data.train_file` is not set".into());
        assert_eq!(exit_code(&TrainError::Data(unset).into()), USAGE);
    }

    #[test]
    fn a_panic_is_a_message() {
        assert_eq!(caught(|| 3), Ok(3));
        let message = caught(|| panic!("no {}", "device")).unwrap_err();
        assert!(message.starts_with("no device"), "{message}");
        assert_eq!(
            file_name("/somewhere/.cargo/src/burn-1/src/a.rs"),
            "burn-1/src/a.rs"
        );
        assert_eq!(file_name("src/a.rs"), "src/a.rs");
    }
}
