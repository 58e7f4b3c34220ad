//! Text that cannot be learned: a message that names the file, and nothing left half-written.

use std::fs;

use super::{TINY, directory, infinity, with_texts};

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

/// Whoever runs a config that came without its text, or moved a file, is told which flag to use.
#[test]
fn missing_files_are_usage_and_the_flag_for_another_is_named() {
    let dir = with_texts();
    let config = fs::canonicalize("../../configs/shakespeare-char.toml").unwrap();
    let config = format!("train {}", config.display());
    for (line, words) in [
        (&*config, &["data/tinyshakespeare.txt", "--train-file"][..]),
        (
            "train --train-file train.txt --validation-file none.txt",
            &["none.txt", "--validation-file names another"],
        ),
        (
            "train --train-file train.txt --tokenizer none.json",
            &["none.json", "--tokenizer names another"],
        ),
        (
            "tokenize train.txt -o t --tokenizer none.json",
            &["none.json", "--tokenizer names another"],
        ),
    ] {
        infinity(dir.path(), line).exits(2).says(words);
    }
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
    let missing = infinity(dir.path(), "tokenize train.txt none.txt -o other");
    assert!(!missing.err.contains("train_file"), "{}", missing.err);
    missing.exits(2).says(&["`INPUT`", "none.txt"]);
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
fn several_texts_are_tokenized_in_the_order_they_are_named() {
    let dir = with_texts();
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(&infinity(dir.path(), line).exits(0).out).unwrap()
    };
    for (name, text) in [("b.txt", "first"), ("a.txt", "second")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let made = json("tokenize b.txt a.txt -o both --val-fraction 0 --json");
    assert_eq!(made["train_tokens"], 5 + 1 + 6, "with a token between");
    assert_eq!(made["train_documents"], 2);
    let tokens = fs::read(dir.path().join("both/train.bin")).unwrap();
    let ids: Vec<u16> = tokens
        .chunks_exact(2)
        .map(|id| u16::from_le_bytes([id[0], id[1]]))
        .collect();
    let first: Vec<u16> = "first".bytes().map(u16::from).collect();
    let at = |wanted: &[u16]| ids.windows(wanted.len()).position(|found| found == wanted);
    let second: Vec<u16> = "second".bytes().map(u16::from).collect();
    assert!(at(&first).unwrap() < at(&second).unwrap());
    infinity(dir.path(), "tokenize -o none")
        .exits(2)
        .says(&["<INPUT>"]);
}

#[test]
fn a_text_of_which_nothing_is_left_to_learn_from_is_warned_of() {
    let dir = with_texts();
    fs::write(dir.path().join("short.txt"), "short").unwrap();
    let made = infinity(
        dir.path(),
        "tokenize short.txt -o tokens --val-fraction 0.9",
    )
    .exits(0);
    assert!(!made.out.contains("infinity train"), "{}", made.out);
    made.says(&["warning", "tokens has 0 training tokens", "--val-fraction"]);
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
            .says(&["nothing to resume", "the command that began it"]);
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
