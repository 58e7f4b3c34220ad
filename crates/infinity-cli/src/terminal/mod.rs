//! Words to the terminal: writing that survives a closed pipe, and numbers a person can read.

pub(crate) mod errors;
pub(crate) mod preparing;
pub(crate) mod progress;
pub(crate) mod signals;

pub(crate) use errors::refuse;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::ColorChoice;

/// Writes one line to standard output. On a closed pipe `main` ends the program quietly.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    piece(&format!("{text}\n"))
}

/// [`line`], unless less is to be said.
pub(crate) fn told(text: impl Display) -> anyhow::Result<()> {
    match is_quiet() {
        true => Ok(()),
        false => line(text),
    }
}

/// Writes a piece of text to standard output and shows it at once.
pub(crate) fn piece(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// The text in `bytes`; `what` they are is named where they are none.
pub(crate) fn utf8(bytes: Vec<u8>, what: &str) -> anyhow::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{what} is not UTF-8 text (byte {at})")
    })
}

/// Writes one line to standard error; nobody can be told when that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether less is said: results and errors only.
static QUIET: AtomicBool = AtomicBool::new(false);

pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// [`note`], unless less is to be said.
pub(crate) fn remark(text: &str) {
    if !is_quiet() {
        note(text);
    }
}

/// Writes `warning: …` to standard error, unless less is to be said.
pub(crate) fn warning(text: &str) {
    if !is_quiet() {
        alarm(text);
    }
}

/// Writes `warning: …` to standard error in any case.
pub(crate) fn alarm(text: &str) {
    note(&format!("{}: {text}", painted("warning", "\x1b[1;33m")));
}

/// Writes `error: …` to standard error, in red where that is wanted.
pub(crate) fn error(text: &str) {
    note(&format!("{}: {text}", painted("error", "\x1b[1;31m")));
}

/// Whether messages are coloured; set once by `main`.
static COLOR: AtomicBool = AtomicBool::new(false);

/// Decides about colours: as asked, or where standard error is a terminal and `NO_COLOR` unset.
pub(crate) fn choose_color(choice: ColorChoice) {
    let on = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    COLOR.store(on, Ordering::Relaxed);
}

fn painted(word: &str, color: &str) -> String {
    match COLOR.load(Ordering::Relaxed) {
        true => format!("{color}{word}\x1b[0m"),
        false => word.to_owned(),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let mut text = n.to_string();
    for at in (1..text.len()).rev().skip(2).step_by(3) {
        text.insert(at, ',');
    }
    text
}

/// Bytes with a binary unit: `1.6 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    match n.max(1).ilog2().min(40) / 10 {
        0 => format!("{n} B"),
        unit => format!(
            "{:.1} {}",
            n as f64 / 1024f64.powi(unit as i32),
            UNITS[unit as usize]
        ),
    }
}

/// Seconds as `hh:mm:ss`.
pub(crate) fn clock(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "--:--:--".to_owned();
    }
    let s = seconds.max(0.0).round() as u64;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// A count with a unit word: `762,112 (0.76 M)` from a thousand on.
pub(crate) fn count(n: u64) -> String {
    let short = match n {
        0..1_000 => return n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    };
    format!("{} ({short})", grouped(n))
}

/// `word` as a POSIX shell takes it literally.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The command that started this program, as a shell takes it.
pub(crate) fn command_line() -> String {
    let words = std::env::args_os().map(|word| shell_word(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell() {
        assert_eq!(shell_word("runs/a-1/final"), "runs/a-1/final");
        assert_eq!(shell_word("fn main() {\n"), "'fn main() {\n'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(41_203), "41,203");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_677_722), "1.6 MiB");
        assert_eq!(bytes(3_328_599_654), "3.1 GiB");
        assert_eq!(clock(7_495.2), "02:04:55");
        assert_eq!(clock(f64::INFINITY), "--:--:--");
        assert_eq!(count(762_112), "762,112 (762.1 k)");
        assert_eq!(count(1_536_000), "1,536,000 (1.54 M)");
    }
}
