//! Signals and kills before a run has begun to learn: while its text is read and tokenized.

use super::common::{TINY, directory, infinity};
use super::{Running, names, wait_for};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory with a text of `words` different words, so that learning a BPE from it takes a while.
fn with_many_words(words: u64) -> TempDir {
    let dir = directory();
    let word = |i: u64| format!("{:x} ", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
    fs::write(
        dir.path().join("many.txt"),
        (0..words).map(word).collect::<String>(),
    )
    .unwrap();
    dir
}

fn unfinished(path: &Path) -> Vec<String> {
    let names = names(path);
    let hidden = names.into_iter().filter(|name| name.contains(".partial"));
    hidden.collect()
}

#[test]
fn a_signal_while_a_tokenizer_is_learned_ends_the_program() {
    let dir = with_many_words(400_000);
    let line = format!("train --train-file many.txt -o run {TINY} --tokenizer bpe:30000");
    for signal in ["INT", "TERM"] {
        let run = Running::until(dir.path(), &line, "learning a BPE");
        let began = Instant::now();
        run.signal(signal);
        let ended = run.ended().exits(130);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(!ended.err.contains("after this step"), "{}", ended.err);
        assert!(!dir.path().join("run").exists());
    }
}

#[test]
fn a_signal_while_text_is_tokenized_leaves_nothing_half_made() {
    let dir = with_many_words(3_000_000);
    let (cache, tokens) = (dir.path().join(".infinity-cache"), dir.path());
    for (line, place) in [
        (
            format!("train --train-file many.txt -o run {TINY}"),
            &*cache,
        ),
        ("tokenize many.txt -o tokens".to_owned(), tokens),
    ] {
        let run = Running::started(dir.path(), &line);
        wait_for("partial directory", || !unfinished(place).is_empty());
        run.signal("TERM");
        run.ended().exits(130);
        assert_eq!(unfinished(place), [""; 0], "{line}");
        assert!(!dir.path().join("run").exists() && !dir.path().join("tokens").exists());
    }
}

#[test]
fn what_a_killed_tokenization_left_is_removed_by_the_next() {
    let dir = with_many_words(3_000_000);
    let line = "tokenize many.txt -o tokens";
    let killed = Running::started(dir.path(), line);
    wait_for("partial directory", || !unfinished(dir.path()).is_empty());
    killed.signal("KILL");
    killed.ended();
    assert_eq!(unfinished(dir.path()).len(), 1);
    // What another process is still making stays.
    let other = Running::started(dir.path(), &line.replace("tokens", "others"));
    wait_for("other directory", || {
        unfinished(dir.path())
            .iter()
            .any(|name| name.contains("others"))
    });
    other.signal("STOP");
    infinity(dir.path(), line).exits(0);
    let left = unfinished(dir.path());
    assert!(left.len() == 1 && left[0].contains("others"), "{left:?}");
    other.signal("CONT");
    other.ended().exits(0);
    assert_eq!(names(dir.path()), ["many.txt", "others", "tokens"]);
    let files = names(&dir.path().join("tokens"));
    assert!(files.iter().all(|name| !name.starts_with('.')), "{files:?}");
}
