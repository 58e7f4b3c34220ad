//! Programs that are started: with a time limit and their output shown as it comes, or until they end by themselves.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

/// How often the clock is looked at.
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

/// What a program printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Lines of its standard output; they were printed as they came.
    pub(crate) lines: Vec<String>,
    /// What went wrong, if something did.
    pub(crate) outcome: anyhow::Result<()>,
}

/// Runs `command`, shows what it prints and kills it after `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Ended {
    run_with(command, limit, |_| {})
}

/// The same; `each` takes every line as it comes.
pub(crate) fn run_with(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Ended {
    let mut lines = Vec::new();
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.get_program().to_string_lossy();
            let outcome = Err(anyhow!("cannot start {program}: {error}"));
            return Ended { lines, outcome };
        }
    };
    let printed = listen(&mut child);
    let mut take = |line: String| {
        println!("{line}");
        each(&line);
        lines.push(line);
    };
    let deadline = Instant::now() + limit;
    let outcome = loop {
        match printed.recv_timeout(TICK) {
            Ok(line) => take(line),
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(outcome) = end(&mut child, deadline, limit) {
            break outcome;
        }
    };
    // A child of its own may print for ever.
    let until = Instant::now() + AFTER;
    while let Ok(line) = printed.recv_timeout(until.saturating_duration_since(Instant::now())) {
        take(line);
    }
    Ended { lines, outcome }
}

/// The lines that a program prints, as they come.
fn listen(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// How the program ended, if it did; after the deadline it does.
fn end(child: &mut Child, deadline: Instant, limit: Duration) -> Option<anyhow::Result<()>> {
    match child.try_wait() {
        Err(error) => Some(Err(anyhow!("was lost: {error}"))),
        Ok(Some(status)) if status.success() => Some(Ok(())),
        Ok(Some(status)) => Some(Err(anyhow!("ended with {status}"))),
        Ok(None) if Instant::now() < deadline => None,
        Ok(None) => {
            // It may end by itself in between; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            let seconds = limit.as_secs_f64();
            Some(Err(anyhow!("was stopped after {seconds:.0} s")))
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Ended {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn lines_and_failures_are_reported() {
        let ended = shell("echo one; echo two; exit 3", Duration::from_secs(20));
        assert_eq!(ended.lines, ["one", "two"]);
        let why = ended.outcome.unwrap_err().to_string();
        assert!(why.contains('3'), "{why}");
        assert!(shell("true", Duration::from_secs(20)).outcome.is_ok());
    }

    #[test]
    fn what_takes_too_long_is_stopped_and_keeps_its_lines() {
        let start = Instant::now();
        let ended = shell("echo one; sleep 30", Duration::from_millis(300));
        assert_eq!(ended.lines, ["one"]);
        assert!(
            ended
                .outcome
                .unwrap_err()
                .to_string()
                .contains("was stopped")
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_child_that_is_left_and_goes_on_printing_is_not_waited_for() {
        let start = Instant::now();
        let left = "(for i in $(seq 100); do echo left; sleep 0.2; done) & echo one";
        let ended = shell(left, Duration::from_secs(20));
        assert!(ended.lines.contains(&"one".to_owned()));
        assert!(ended.outcome.is_ok() && start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let ended = run(&mut Command::new("no-such-python"), Duration::from_secs(1));
        assert!(
            ended
                .outcome
                .unwrap_err()
                .to_string()
                .contains("no-such-python")
        );
    }
}
