//! Text that cannot be learned: a message that names the file, and nothing left half-written.
#![cfg(feature = "flex")]

mod common;

use std::fs;

use common::{TINY, directory, infinity, with_texts};

#[test]
fn files_that_are_missing_empty_binary_or_not_utf8() {
    let dir = with_texts();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("empty.txt"), "").unwrap();
    fs::write(path("binary.txt"), b"ab\0cd").unwrap();
    fs::write(path("latin1.txt"), b"caf\xe9 au lait").unwrap();
    fs::write(path("table.csv"), "name,words\na,b\n").unwrap();
    fs::write(path("cut.csv"), "name,text\na,\"b\nc,d\n").unwrap();
    for (file, words) in [
        ("missing.txt", &["missing.txt", "data.train_file"][..]),
        ("empty.txt", &["empty.txt", "no text"]),
        ("binary.txt", &["binary.txt", "byte 2"]),
        ("latin1.txt", &["latin1.txt", "byte 3", "UTF-8"]),
        ("table.csv", &["table.csv", "`text`", "name, words"]),
        ("cut.csv", &["cut.csv", "line 2", "never ends"]),
    ] {
        let made = infinity(
            dir.path(),
            &format!("train --train-file {file} -o run {TINY}"),
        );
        assert!(
            [1, 2].contains(&made.code),
            "{file}: {}\n{}",
            made.code,
            made.err
        );
        made.says(words);
        let left = path("run").exists() && fs::read_dir(path("run")).unwrap().count() > 0;
        assert!(!left, "{file} left a run behind");
    }
    infinity(dir.path(), &format!("train -o run {TINY}"))
        .exits(2)
        .says(&["data.train_file", "--train-file"]);
}

#[test]
fn a_validation_split_shorter_than_a_window() {
    let dir = with_texts();
    fs::write(dir.path().join("short.txt"), "too short").unwrap();
    let line = format!("train --train-file train.txt --validation-file short.txt -o run {TINY}");
    let made = infinity(dir.path(), &line);
    assert!([1, 2].contains(&made.code), "{}", made.code);
    made.says(&["validation", "9 tokens", "32"]);
}

#[test]
fn tokenize_makes_a_directory_and_never_replaces_one() {
    let dir = with_texts();
    let made = infinity(
        dir.path(),
        "tokenize train.txt -o tokens --val-fraction 0.1",
    )
    .exits(0);
    assert!(made.out.contains("vocabulary of 257"), "{}", made.out);
    infinity(dir.path(), "tokenize train.txt -o tokens")
        .exits(1)
        .says(&["tokens", "exists"]);
    infinity(dir.path(), "tokenize none.txt -o other")
        .exits(1)
        .says(&["none.txt"]);
    infinity(dir.path(), "tokenize train.txt -o other --val-fraction 2")
        .exits(2)
        .says(&["data.val_fraction"]);
    assert!(!dir.path().join("other").exists());
    let json = infinity(
        dir.path(),
        "tokenize train.txt -o bpe --train-bpe 300 --json",
    )
    .exits(0)
    .out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["vocab_size"], 300);
}

#[test]
fn a_tokenizer_that_is_not_one() {
    let dir = with_texts();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    for tokenizer in ["tokenizer.json", "nowhere/tokenizer.json"] {
        let line = format!("train --train-file train.txt --tokenizer {tokenizer} -o run {TINY}");
        let made = infinity(dir.path(), &line);
        assert!([1, 2].contains(&made.code), "{}", made.code);
        made.says(&[tokenizer]);
    }
}

#[test]
fn an_output_directory_that_is_in_the_way() {
    let dir = with_texts();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("used")).unwrap();
    fs::write(path("used/thesis.txt"), "mine").unwrap();
    let train = format!("train --train-file train.txt {TINY} -o");
    infinity(dir.path(), &format!("{train} file"))
        .exits(2)
        .says(&["file", "is a file"]);
    infinity(dir.path(), &format!("{train} used"))
        .exits(2)
        .says(&["used", "--resume", "--overwrite"]);
    assert_eq!(fs::read_to_string(path("used/thesis.txt")).unwrap(), "mine");
    // What goes on by itself must not begin over somebody's files.
    infinity(dir.path(), &format!("{train} used --resume"))
        .exits(2)
        .says(&["no complete checkpoint", "used/thesis.txt"]);
    assert_eq!(fs::read_to_string(path("used/thesis.txt")).unwrap(), "mine");
    for from in ["3", "used"] {
        infinity(dir.path(), &format!("{train} new --resume {from}"))
            .exits(2)
            .says(&["nothing to resume"]);
    }
    assert!(!path("new").exists());
    let made = infinity(dir.path(), &format!("{train} file/inside"));
    assert!([1, 2].contains(&made.code), "{}", made.code);
    made.says(&["file/inside"]);
}

#[test]
fn models_that_are_not_there() {
    let dir = directory();
    infinity(dir.path(), "generate none -p x")
        .exits(2)
        .says(&["none"]);
    infinity(dir.path(), "eval none --file x")
        .exits(2)
        .says(&["none"]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    infinity(dir.path(), "generate empty -p x")
        .exits(2)
        .says(&["config.json", "final"]);
}
