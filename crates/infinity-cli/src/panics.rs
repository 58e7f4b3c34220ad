//! Panics of libraries become messages: one line with what was said and where, no backtrace.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

/// What panicked since the program started, oldest first.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Replaces the default hook: panics are noted instead of being printed, unless `show` is set or
/// `RUST_BACKTRACE` asks for them.
pub(crate) fn install(show: bool) {
    let print = show || std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let place = info
            .location()
            .map(|at| format!(" ({}:{})", file_name(at.file()), at.line()));
        let text = format!(
            "{}{}",
            payload_text(info.payload()),
            place.unwrap_or_default()
        );
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
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
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
