//! Talking with a model through a pipe.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use super::{Ran, command, infinity, ran, with_model};

/// Says `lines` to a model.
fn chat(dir: &Path, lines: &str, flags: &str) -> Ran {
    fs::write(dir.join("said"), lines).unwrap();
    let mut command = command(dir, &format!("chat model {flags}"));
    command.stdin(fs::File::open(dir.join("said")).unwrap());
    ran(command)
}

#[test]
fn a_conversation_is_left_and_gone_on_with() {
    let dir = with_model();
    let flags = "--greedy -n 6 --ignore-eos";
    let whole = chat(dir.path(), "hello\nhow are you\nand now\n", flags).exits(0);
    assert!(!whole.out.is_empty());
    let first = chat(dir.path(), "hello\nhow are you\n/save a.state\n", flags).exits(0);
    first.says(&["kept in a.state"]);
    let rest = chat(dir.path(), "/load a.state\nand now\n", flags).exits(0);
    assert!(
        whole.out.ends_with(&rest.out) && !rest.out.is_empty(),
        "{:?} {:?}",
        whole.out,
        rest.out
    );
    chat(
        dir.path(),
        "hello\nhow are you\n",
        &format!("{flags} --state-out b.state"),
    )
    .exits(0);
    let told = infinity(dir.path(), "state diff a.state b.state --json")
        .exits(0)
        .out;
    assert!(told.contains("\"equal\":true"), "{told}");
    let rest_of_b = chat(
        dir.path(),
        "and now",
        &format!("{flags} --state-in b.state"),
    )
    .exits(0);
    assert_eq!(rest_of_b.out, rest.out);
}

#[test]
fn something_is_done_for_every_command_of_the_help() {
    let dir = with_model();
    let help = chat(dir.path(), "/help", "").exits(0).out;
    let mut lines = String::new();
    for line in help.lines().filter(|line| line.starts_with('/')) {
        let command = line.split_once("  ").unwrap().0;
        let name = command.split(' ').next().unwrap();
        let rest = if name == command { "" } else { " x" };
        lines.insert_str(0, &format!("{name}{rest}\n"));
    }
    assert!(
        lines.starts_with("/exit\n") && lines.lines().count() == 11,
        "{lines}"
    );
    let rest = lines.strip_prefix("/exit\n").unwrap();
    chat(dir.path(), &format!("{rest}/exit\nmore"), "").exits(0);
}

#[test]
fn what_was_said_can_be_taken_back_and_tried_again() {
    let dir = with_model();
    let flags = "--greedy -n 6 --ignore-eos";
    let straight = chat(dir.path(), "hello\nand now\n/save a.state\n", flags).exits(0);
    let lines = "hello\nsomething else\n/undo\nand now\n/save b.state\n/fork other\nmore\n/switch main\n\
                 /save c.state\n/reset\n/undo\n/save d.state\n/stats\n";
    let around = chat(dir.path(), lines, flags).exits(0);
    for state in ["b.state", "c.state", "d.state"] {
        let told = infinity(dir.path(), &format!("state diff a.state {state} --json"))
            .exits(0)
            .out;
        assert!(told.contains("\"equal\":true"), "{state}: {told}");
    }
    assert!(around.out.contains("main (here), other"), "{}", around.out);
    assert!(
        around.out.contains("messages            2"),
        "{}",
        around.out
    );
    assert!(around.out.starts_with(straight.out.lines().next().unwrap()));
}

#[test]
fn mistakes_are_said_and_the_conversation_goes_on() {
    let dir = with_model();
    let lines = "/undo\n/sav x\n/load none.state\n/set top_p 7\n/set temprature 1\n/switch x\n/fork main\n\
                 /set top_k 3\n/set\n/system Be short.\n/system\n//slash\n/help\n/exit\nnot said\n";
    let made = chat(dir.path(), lines, "--greedy -n 2").exits(0);
    for words in ["top_k                3", "Be short.", "/undo"] {
        assert!(made.out.contains(words), "no {words:?} in {}", made.out);
    }
    made.says(&[
        "nothing to take back",
        "did you mean /save?",
        "none.state",
        "top_p",
        "did you mean temperature?",
        "there is no x, only main",
        "there is a main already",
    ]);
    infinity(dir.path(), "chat none").exits(2).says(&["none"]);
    infinity(dir.path(), "chat model --state-out no/a")
        .exits(2)
        .says(&["no directory no"]);
    infinity(dir.path(), "chat model --top-p 3")
        .exits(2)
        .says(&["top_p"]);
    fs::write(dir.path().join("odd"), b"\xff\n").unwrap();
    let mut odd = command(dir.path(), "chat model");
    odd.stdin(fs::File::open(dir.path().join("odd")).unwrap());
    ran(odd).exits(1).says(&["UTF-8"]);
}

/// Ctrl-C stops an answer, and the conversation goes on with what was said.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_session() {
    let dir = with_model();
    let mut command = command(dir.path(), "chat model -n 100000000 --ignore-eos --seed 1");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    writeln!(stdin, "hello").unwrap();
    let mut byte = [0];
    out.read_exact(&mut byte).unwrap();
    let kill = format!("kill -INT {}", child.id());
    let signal = || {
        std::process::Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
    };
    assert!(signal().success());
    writeln!(stdin, "/stats\n/exit").unwrap();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("messages            1"), "{rest}");
    let err = BufReader::new(child.stderr.take().unwrap());
    assert!(
        err.lines()
            .any(|line| line.unwrap().contains("stopped; what was said stays said"))
    );
    assert!(child.wait().unwrap().success());
}
