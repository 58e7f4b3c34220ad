//! Reading without end: what is printed, what is kept, and going on from it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use super::{Ran, command, infinity, ran, shell, with_model, with_model_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_infinity");

fn records(ran: &Ran) -> Vec<serde_json::Value> {
    let lines = ran.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// Reads `text` from a pipe.
fn piped(dir: &Path, text: &[u8], flags: &str) -> Ran {
    fs::write(dir.join("input"), text).unwrap();
    let mut command = command(dir, &format!("stream model - {flags}"));
    command.stdin(fs::File::open(dir.join("input")).unwrap());
    ran(command)
}

fn equal(dir: &Path, a: &str, b: &str) -> bool {
    let told = infinity(dir, &format!("state diff {a} {b} --json"))
        .exits(0)
        .out;
    serde_json::from_str::<serde_json::Value>(&told).unwrap()["equal"] == true
}

#[test]
fn every_line_has_its_surprise() {
    let dir = with_model();
    let text = fs::read_to_string(dir.path().join("valid.txt")).unwrap();
    let read = infinity(dir.path(), "stream model valid.txt").exits(0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(read.out.lines().count(), lines.len());
    assert!(
        read.out.lines().next().unwrap().ends_with(lines[0]),
        "{}",
        read.out
    );
    read.says(&["read: ", "bits/byte", "position 3,"]);
    let read = records(&infinity(dir.path(), "stream model valid.txt --json").exits(0));
    assert_eq!(read[2]["line"], 3);
    assert_eq!(read[2]["text"], lines[2]);
    // The same text as one stream, measured elsewhere.
    let all =
        records(&infinity(dir.path(), "stream model valid.txt --emit tokens --json").exits(0));
    let bits: f64 = all
        .iter()
        .filter_map(|record| record["bits"].as_f64())
        .sum();
    let line = "eval model --file valid.txt --stateful --batch-size 1 --json";
    let measured = infinity(dir.path(), line).exits(0).out;
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let nats = measured["loss"].as_f64().unwrap() * measured["tokens"].as_f64().unwrap();
    assert!(
        (bits * std::f64::consts::LN_2 / nats - 1.0).abs() < 1e-3,
        "{bits} {nats}"
    );

    assert_eq!(all.len(), text.len());
    assert_eq!(
        (&all[0]["bits"], &all[0]["text"]),
        (&serde_json::Value::Null, &"l".into())
    );
    let none = infinity(dir.path(), "stream model valid.txt --emit none").exits(0);
    assert_eq!(none.out, "");
}

/// Stopped at any snapshot and gone on with, a text leaves the bits of never stopping; so does a pipe.
#[test]
fn a_stream_goes_on_with_the_bits_of_never_stopping() {
    let dir = with_model();
    let text = fs::read(dir.path().join("train.txt")).unwrap();
    let cut = 10 * 512;
    fs::write(dir.path().join("whole.txt"), &text[..cut]).unwrap();
    let run = |flags: &str| infinity(dir.path(), &format!("stream model {flags}")).exits(0);
    run("whole.txt --emit none --state-out whole.state");
    // Killed right after a snapshot: what is resumed is the snapshot.
    fs::write(dir.path().join("growing.txt"), &text[..cut - 700]).unwrap();
    run("growing.txt --emit none --state-out a.state --snapshot-every 1");
    run("growing.txt --emit none --state-out end.state");
    fs::copy(dir.path().join("a.state"), dir.path().join("end2.state")).unwrap();
    assert!(
        equal(dir.path(), "end.state", "end2.state"),
        "snapshots change nothing"
    );

    // From a pipe, in portions of any size, with every line looked at.
    let through = |size: usize, name: &str| {
        let mut command = command(dir.path(), &format!("stream model - --state-out {name}"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for (i, portion) in text[..cut].chunks(size).enumerate() {
            stdin.write_all(portion).unwrap();
            if i % 4 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
    };
    for (size, name) in [(333, "p.state"), (2048, "q.state")] {
        through(size, name);
        assert!(equal(dir.path(), "whole.state", name), "portions of {size}");
    }
    assert!(
        !equal(dir.path(), "whole.state", "end.state"),
        "the comparison can fail"
    );
}

/// A snapshot in the middle of a line knows how much of the line it has read.
#[cfg(unix)]
#[test]
fn ctrl_c_keeps_a_state_that_goes_on() {
    let dir = with_model();
    let line = "a line that says something or other\n";
    fs::write(dir.path().join("long.txt"), line.repeat(60_000)).unwrap();
    let all = "stream model long.txt --json --state-out";
    let stopped = {
        let mut command = command(
            dir.path(),
            &format!("{all} part.state --snapshot-every 512"),
        );
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        for _ in 0..200 {
            out.read_line(&mut text).unwrap();
        }
        let kill = format!("kill -INT {}", child.id());
        assert!(
            std::process::Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        std::io::Read::read_to_string(&mut out, &mut text).unwrap();
        let mut err = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
        Ran {
            code: child.wait().unwrap().code().unwrap_or(-1),
            out: text,
            err,
        }
    }
    .exits(130);
    let before = records(&stopped);
    let position = |name: &str| {
        let told = infinity(dir.path(), &format!("state inspect {name} --json"))
            .exits(0)
            .out;
        serde_json::from_str::<serde_json::Value>(&told).unwrap()["position"][0]
            .as_u64()
            .unwrap()
    };
    let kept = position("part.state");
    assert!(
        kept > 0 && kept.is_multiple_of(512) && kept < 60_000 * line.len() as u64,
        "{kept}"
    );
    // The rest of a shorter copy, so that the test ends soon; the file is known by what stands before.
    let shorter = (kept as usize / line.len() + 100) * line.len();
    fs::write(dir.path().join("long.txt"), &line.repeat(60_000)[..shorter]).unwrap();
    let after = infinity(dir.path(), &format!("{all} part.state --resume")).exits(0);
    assert!(after.err.contains("goes on after"), "{}", after.err);
    let after = records(&after);
    assert_eq!(
        after[0]["line"],
        before.last().unwrap()["line"].as_u64().unwrap() + 1,
        "no line twice"
    );
    let whole = records(&infinity(dir.path(), &format!("{all} whole.state")).exits(0));
    assert_eq!(whole.len(), before.len() + after.len());
    let bits = |records: &[serde_json::Value], i: usize| records[i]["bits"].as_f64().unwrap();
    for i in 0..after.len() {
        let apart = bits(&after, i) - bits(&whole, before.len() + i);
        assert!(
            apart.abs() < 2e-4,
            "record {i}: {} {}",
            after[i],
            whole[before.len() + i]
        );
    }
    assert!(equal(dir.path(), "part.state", "whole.state"));
    // Another text under the same name.
    fs::write(dir.path().join("long.txt"), "x".repeat(2 * shorter)).unwrap();
    infinity(dir.path(), &format!("{all} part.state --resume"))
        .exits(2)
        .says(&["long.txt", "has changed"]);
    fs::write(dir.path().join("long.txt"), "x").unwrap();
    infinity(dir.path(), &format!("{all} part.state --resume"))
        .exits(2)
        .says(&["1 bytes", "another file"]);
}

/// A line that comes through a pipe is shown before the next one comes, and a signal keeps the state.
#[cfg(unix)]
#[test]
fn a_line_is_shown_when_it_has_come() {
    let dir = with_model();
    let mut command = command(dir.path(), "stream model - --state-out a.state");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for i in 0..3 {
        writeln!(stdin, "line {i}").unwrap();
        let mut shown = String::new();
        out.read_line(&mut shown).unwrap();
        assert!(shown.ends_with(&format!("  line {i}\n")), "{shown}");
    }
    let signal = |name: &str| {
        let line = format!("kill -{name} {}", child.id());
        assert!(
            std::process::Command::new("sh")
                .args(["-c", &line])
                .status()
                .unwrap()
                .success()
        );
    };
    let state = dir.path().join("a.state");
    signal("USR1");
    let began = std::time::Instant::now();
    while !state.exists() {
        assert!(began.elapsed().as_secs() < 60, "no state was kept");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    signal("INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    let told = infinity(dir.path(), "state inspect a.state").exits(0).out;
    assert!(
        told.contains("after 21 tokens"),
        "all that came is kept: {told}"
    );
    let more = piped(dir.path(), b"more\n", "--state-out a.state --resume --json").exits(0);
    assert_eq!(records(&more)[0]["line"], 4);
    infinity(dir.path(), "generate model --state-in a.state -n 2").exits(0);
}

#[test]
fn a_model_goes_on_at_the_end_and_at_markers() {
    let dir = with_model();
    let end = infinity(
        dir.path(),
        "stream model valid.txt --emit none --generate 5 --greedy",
    )
    .exits(0);
    let told = infinity(
        dir.path(),
        "stream model valid.txt --emit none --state-out a.state",
    )
    .exits(0);
    assert_eq!(told.out, "");
    let same = infinity(
        dir.path(),
        "generate model --state-in a.state -n 5 --greedy --no-echo",
    )
    .exits(0);
    assert_eq!(end.out, same.out);
    let text = b"one\nASK\ntwo\nASK\n";
    let asked = piped(
        dir.path(),
        text,
        "--json --generate 4 --marker ASK --greedy --state-out m.state",
    );
    let asked = records(&asked.exits(0));
    let kinds: Vec<bool> = asked
        .iter()
        .map(|record| record.get("generated").is_some())
        .collect();
    assert_eq!(kinds, [false, true, false, true], "{asked:?}");
    piped(dir.path(), b"one\ntwo\n", "--emit none --state-out n.state").exits(0);
    assert!(
        equal(dir.path(), "m.state", "n.state"),
        "neither marker nor answer is remembered"
    );
    infinity(dir.path(), "stream model valid.txt --marker ASK")
        .exits(2)
        .says(&["--generate"]);
    infinity(dir.path(), "stream model valid.txt --generate 0")
        .exits(2)
        .says(&["max_new_tokens", "0"]);
}

#[test]
fn what_cannot_be_read_or_kept_is_named() {
    let dir = with_model();
    for (line, code, words) in [
        ("stream none valid.txt", 2, &["none"][..]),
        ("stream model none.txt", 2, &["none.txt"]),
        ("stream model .", 2, &["is a directory"]),
        (
            "stream model valid.txt --snapshot-every 5",
            2,
            &["--state-out"],
        ),
        (
            "stream model valid.txt --snapshot-every 0 --state-out a",
            2,
            &["at least 1"],
        ),
        ("stream model valid.txt --resume", 2, &["--state-out"]),
        (
            "stream model valid.txt --state-out no/a.state",
            2,
            &["no directory no"],
        ),
        (
            "stream model valid.txt --state-out model",
            2,
            &["is a directory"],
        ),
        (
            "stream model valid.txt --state-in valid.txt",
            1,
            &["valid.txt"],
        ),
        (
            "stream model valid.txt --emit words",
            2,
            &["lines", "tokens", "none"],
        ),
    ] {
        infinity(dir.path(), line).exits(code).says(words);
    }
    fs::write(dir.path().join("empty.txt"), "").unwrap();
    let empty = infinity(dir.path(), "stream model empty.txt --state-out e.state").exits(0);
    assert_eq!(empty.out, "");
    empty.says(&["read: 0 tokens"]);
    let odd = piped(dir.path(), b"caf\xe9 and more\n", "").exits(0);
    assert!(odd.out.contains("caf\u{fffd} and more"), "{}", odd.out);
    odd.says(&["byte 3", "U+FFFD"]);
    infinity(dir.path(), "generate model -p one -n 2 --state-out g.state").exits(0);
    infinity(
        dir.path(),
        "stream model valid.txt --resume --state-out g.state",
    )
    .exits(2)
    .says(&["g.state", "--state-in"]);
    infinity(
        dir.path(),
        "stream model valid.txt --state-in g.state --emit none",
    )
    .exits(0);
    let other = with_model_of(infinity_model::config::Mixer::Softmax);
    infinity(other.path(), "stream model valid.txt --emit none")
        .exits(0)
        .says(&["softmax", "grows"]);
}

/// A limit on the size of files stands for a full disk: the state before stays, and the stream goes on.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_state_that_is_there() {
    let dir = with_model();
    infinity(
        dir.path(),
        "stream model valid.txt --emit none --state-out a.state",
    )
    .exits(0);
    let before = fs::read(dir.path().join("a.state")).unwrap();
    let line = "stream model train.txt --emit none --state-in a.state --state-out a.state --snapshot-every 1000";
    let full = shell(
        dir.path(),
        &format!("trap '' XFSZ; ulimit -f 2; exec '{PROGRAM}' {line}"),
    )
    .exits(1);
    full.says(&["no state was kept at position", "a.state", "File too large"]);
    assert!(fs::read(dir.path().join("a.state")).unwrap() == before);
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 4, "nothing half-written");
}

/// Who stops reading has seen enough.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    let dir = with_model();
    let line = format!("'{PROGRAM}' stream model train.txt --state-out a.state; echo $? >&2");
    let closed = shell(dir.path(), &format!("({line}) | head -n 1")).exits(0);
    assert_eq!(closed.out.lines().count(), 1);
    assert!(
        closed.err.lines().any(|line| line == "0") && !closed.err.contains("error"),
        "{}",
        closed.err
    );
}
