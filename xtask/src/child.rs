//! Programs that are started: with a time limit and their output shown as it comes, or until they end by themselves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

const TICK: Duration = Duration::from_millis(50);
/// How long output is waited for that a program's own children still hold open.
const AFTER: Duration = Duration::from_secs(1);

/// Runs `command` to its end, with an error if it fails; `what` names it.
pub(crate) fn succeed(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let status = command.status();
    let status = status.with_context(|| format!("cannot start {what}"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

/// What the loader of this system knows by name, as `ldconfig -p` lists it; nothing where there is no such program.
pub(crate) fn loaders() -> String {
    let listed = Command::new("ldconfig").arg("-p").output();
    let listed = listed.map_or_else(|_| Vec::new(), |listed| listed.stdout);
    String::from_utf8_lossy(&listed).into_owned()
}

/// Runs `command`, shows what it prints, hands `each` every line as it comes, and kills it after `limit`.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> anyhow::Result<()> {
    let started = command.stdout(Stdio::piped()).spawn();
    let program = command.get_program().to_string_lossy();
    let mut child = started.with_context(|| format!("cannot start {program}"))?;
    let (sender, printed) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut lines = stdout.split(b'\n').map_while(Result::ok);
    std::thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
    let mut take = |line: Vec<u8>| {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        each(&line);
    };
    let deadline = Instant::now() + limit;
    let status = loop {
        match printed.recv_timeout(TICK) {
            Ok(line) => take(line),
            Err(_) => std::thread::sleep(TICK),
        }
        if let Some(status) = child.try_wait().context("was lost")? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            // It may end by itself in between; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
    };
    // A child of its own may print for ever.
    let until = Instant::now() + AFTER;
    while let Ok(line) = printed.recv_timeout(until.saturating_duration_since(Instant::now())) {
        take(line);
    }
    let stopped = || format!("was stopped after {:.0} s", limit.as_secs_f64());
    let status = status.with_context(stopped)?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that a script printed, and how it ended.
    fn shell(script: &str, limit: Duration) -> (Vec<String>, anyhow::Result<()>) {
        let mut lines = Vec::new();
        let each = |line: &str| lines.push(line.to_owned());
        let outcome = run(Command::new("sh").args(["-c", script]), limit, each);
        (lines, outcome)
    }

    #[test]
    fn lines_and_failures_are_reported() {
        let (lines, outcome) = shell("echo one; echo two; exit 3", Duration::from_secs(20));
        assert_eq!(lines, ["one", "two"]);
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains('3'), "{why}");
        assert!(shell("true", Duration::from_secs(20)).1.is_ok());
    }

    #[test]
    fn what_takes_too_long_is_stopped_and_keeps_its_lines() {
        let start = Instant::now();
        let (lines, outcome) = shell("echo one; sleep 30", Duration::from_millis(300));
        assert_eq!(lines, ["one"]);
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains("was stopped"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_child_that_is_left_and_goes_on_printing_is_not_waited_for() {
        let start = Instant::now();
        let left = "(for i in $(seq 100); do echo left; sleep 0.2; done) & echo one";
        let (lines, outcome) = shell(left, Duration::from_secs(20));
        assert!(lines.contains(&"one".to_owned()));
        assert!(outcome.is_ok() && start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let mut command = Command::new("no-such-python");
        let outcome = run(&mut command, Duration::from_secs(1), |_| {});
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains("no-such-python"), "{why}");
    }
}
