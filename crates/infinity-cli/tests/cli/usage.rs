//! Mistakes on the command line and in the configuration: exit code 2 and a message to act on.

use std::fs;

use super::{command, directory, infinity, ran};

#[test]
fn a_wrong_flag_or_verb_is_usage() {
    let dir = directory();
    infinity(dir.path(), "train --learning-rat 1")
        .exits(2)
        .says(&["--learning-rate"]);
    infinity(dir.path(), "trian").exits(2).says(&["train"]);
    infinity(dir.path(), "").exits(2);
    infinity(dir.path(), "--help").exits(0);
    infinity(dir.path(), "--version").exits(0);
}

#[test]
fn an_unknown_key_names_file_line_and_suggestion() {
    let dir = directory();
    fs::write(dir.path().join("a.toml"), "[training]\n\nmax_step = 3\n").unwrap();
    infinity(dir.path(), "config check a.toml").exits(2).says(&[
        "a.toml:3",
        "unknown key `training.max_step`",
        "did you mean `training.max_steps`",
    ]);
    infinity(dir.path(), "config check --set optimizer.lr=1")
        .exits(2)
        .says(&["--set optimizer.lr=1", "`optimizer.learning_rate`"]);
    infinity(dir.path(), "config check none.toml")
        .exits(2)
        .says(&["none.toml", "No such file"]);
    fs::write(
        dir.path().join("b.toml"),
        "[model]\nhidden_size = \"wide\"\n",
    )
    .unwrap();
    infinity(dir.path(), "config check b.toml").exits(2).says(&[
        "b.toml:2",
        "`model.hidden_size`",
        "\"wide\"",
        "whole number",
    ]);
    fs::write(dir.path().join("c.toml"), "[model\n").unwrap();
    infinity(dir.path(), "config check c.toml")
        .exits(2)
        .says(&["c.toml", "not valid TOML"]);
    fs::write(dir.path().join("d.toml"), b"\xff\xfe").unwrap();
    infinity(dir.path(), "config check d.toml")
        .exits(2)
        .says(&["d.toml", "not UTF-8"]);
}

#[test]
fn values_out_of_their_limits_are_refused() {
    let dir = directory();
    for (set, words) in [
        (
            "model.num_attention_heads=7",
            &["model.hidden_size", "7"][..],
        ),
        (
            "optimizer.learning_rate=-1",
            &["optimizer.learning_rate", "-1", "--set"],
        ),
        (
            "optimizer.name=lion",
            &["optimizer.name", "lion", "adamw", "muon"],
        ),
        (
            "training.num_train_epochs=0",
            &["training.max_steps", "num_train_epochs"],
        ),
        (
            "data.max_seq_length=0",
            &["data.max_seq_length", "at least 1"],
        ),
        (
            "model.kernel_type=gelu",
            &["model.kernel_type", "gelu", "elu"],
        ),
    ] {
        infinity(dir.path(), &format!("config check --set {set}"))
            .exits(2)
            .says(words);
    }
    infinity(dir.path(), "config check --set model.num_attention_heads=4").exits(0);
}

/// It says what it has looked at: the words, and no file or device.
#[test]
fn what_is_checked_and_what_is_not_is_said() {
    let dir = directory();
    let checked = infinity(dir.path(), "config check --train-file none.txt").exits(0);
    for words in ["ok: keys and values", "not looked at: data files"] {
        assert!(checked.out.contains(words), "{}", checked.out);
    }
    infinity(dir.path(), "config check --device foo")
        .exits(2)
        .says(&["unknown device `foo`", "flex"]);
    #[cfg(not(feature = "rocm"))]
    infinity(dir.path(), "config check --set run.device=rocm:0")
        .exits(2)
        .says(&["`rocm`", "--features rocm"]);
}

#[test]
fn later_layers_win() {
    let dir = directory();
    fs::write(
        dir.path().join("a.toml"),
        "[training]\nmax_steps = 1\n[run]\nseed = 7\n",
    )
    .unwrap();
    fs::write(dir.path().join("b.toml"), "[training]\nmax_steps = 2\n").unwrap();
    let steps = |line: &str, env: Option<&str>| {
        let mut command = command(dir.path(), &format!("config show {line}"));
        if let Some(value) = env {
            command.env("INFINITY__TRAINING__MAX_STEPS", value);
        }
        let shown = ran(command).exits(0).out;
        let table: toml::Table = shown.parse().unwrap();
        (
            table["training"]["max_steps"].as_integer().unwrap(),
            table["run"]["seed"].as_integer(),
        )
    };
    assert_eq!(steps("", None), (0, Some(42)));
    assert_eq!(steps("a.toml", None), (1, Some(7)));
    assert_eq!(steps("a.toml --config b.toml", None), (2, Some(7)));
    assert_eq!(steps("a.toml --config b.toml", Some("3")), (3, Some(7)));
    assert_eq!(steps("a.toml --max-steps 4", Some("3")), (4, Some(7)));
    assert_eq!(
        steps("--max-steps 4 a.toml --set training.max_steps=5", Some("3")),
        (5, Some(7))
    );
    assert_eq!(steps("a.toml --seed 9", None), (1, Some(9)));
}

#[test]
fn flags_that_are_more_than_a_key() {
    let dir = directory();
    let shown = |line: &str| {
        let mut command = command(dir.path(), &format!("config show {line}"));
        command
            .env("BURN_DEVICE", "cuda")
            .env("INFINITY_DEVICE", "wgpu:1");
        ran(command).exits(0).out.parse::<toml::Table>().unwrap()
    };
    let table = shown("--max-eval-samples 9 --per-device-eval-batch-size 4");
    assert_eq!(table["eval"]["max_batches"].as_integer(), Some(3));
    assert_eq!(table["run"]["device"].as_str(), Some("wgpu:1"));
    assert_eq!(
        shown("--device flex")["run"]["device"].as_str(),
        Some("flex")
    );
    let table = shown("--tokenizer bpe:512 --no_rotary_embeddings");
    assert_eq!(table["tokenizer"]["train_bpe"].as_integer(), Some(512));
    assert_eq!(
        table["model"]["use_rotary_embeddings"].as_bool(),
        Some(false)
    );
    for (given, words) in [("bpe:abc", "whole number"), ("bpe:5", "at least 257")] {
        infinity(dir.path(), &format!("config check --tokenizer {given}"))
            .exits(2)
            .says(&[&format!("--tokenizer {given}"), words]);
    }
    assert_eq!(
        shown("--tokenizer t.json")["tokenizer"]["path"].as_str(),
        Some("t.json")
    );
}

#[test]
fn what_is_shown_can_be_read_again() {
    let dir = directory();
    let shown = infinity(dir.path(), "config show --preset retnet --set run.name=x")
        .exits(0)
        .out;
    fs::write(dir.path().join("shown.toml"), &shown).unwrap();
    assert_eq!(
        infinity(dir.path(), "config show shown.toml").exits(0).out,
        shown
    );
    assert!(shown.contains("memory_update = \"additive\""), "{shown}");
    infinity(dir.path(), "config show --preset retne")
        .exits(2)
        .says(&["`retnet`"]);
}

#[test]
fn every_file_in_configs_is_one() {
    let dir = directory();
    let configs = fs::canonicalize("../../configs").unwrap();
    let files: Vec<_> = fs::read_dir(configs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    assert!(!files.is_empty());
    for file in files {
        let mut command = command(dir.path(), "config check");
        command.arg(file);
        assert_eq!(
            ran(command).exits(0).err,
            "",
            "no warnings in our own files"
        );
    }
}

#[test]
fn legacy_keys_warn() {
    let dir = directory();
    fs::write(
        dir.path().join("a.toml"),
        "[model]\nmemory_compression_ratio = 0.5\n",
    )
    .unwrap();
    infinity(dir.path(), "config check a.toml").exits(0).says(&[
        "warning",
        "a.toml:2",
        "memory_compression_ratio",
        "changes nothing",
    ]);
    assert_eq!(
        infinity(dir.path(), "-q config check a.toml").exits(0).err,
        ""
    );
    fs::write(
        dir.path().join("b.toml"),
        "[model]\nmemory_compression = true\n",
    )
    .unwrap();
    infinity(dir.path(), "config check b.toml").exits(2).says(&[
        "b.toml:2",
        "model.memory_compression",
        "--memory-compression",
    ]);
}

#[test]
fn devices_that_are_not_there() {
    let dir = directory();
    infinity(dir.path(), "devices").exits(0);
    let listed = infinity(dir.path(), "devices --json").exits(0).out;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let compiled = |name: &str| {
        let backends = listed["backends"].as_array().unwrap();
        backends.iter().find(|b| b["backend"] == name).unwrap()["compiled"]
            .as_bool()
            .unwrap()
    };
    fs::write(dir.path().join("train.txt"), "text ".repeat(1000)).unwrap();
    let train = "train --train-file train.txt --dry-run --device";
    if !compiled("rocm") {
        infinity(dir.path(), &format!("{train} rocm:0"))
            .exits(2)
            .says(&["`rocm`", "not compiled", "--features rocm"]);
    }
    infinity(dir.path(), &format!("{train} gpu"))
        .exits(2)
        .says(&["unknown device `gpu`", "flex"]);
    let mut with_variable = command(dir.path(), "train --train-file train.txt --dry-run");
    with_variable
        .env("INFINITY_DEVICE", "abacus")
        .env("BURN_DEVICE", "flex");
    ran(with_variable).exits(2).says(&["abacus"]);
    assert!(
        !dir.path().join("runs").exists(),
        "nothing is written before the device is there"
    );
}

#[test]
fn completions_and_closed_pipes() {
    let dir = directory();
    let script = infinity(dir.path(), "completions bash").exits(0).out;
    assert!(script.contains("--train-file"));
    infinity(dir.path(), "completions powershel")
        .exits(2)
        .says(&["powershell"]);
    // A reader that is gone before the first word.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut shown = command(dir.path(), "config show");
    shown.stdout(writer);
    let shown = ran(shown);
    assert_eq!((shown.code, &*shown.err), (0, ""));
}
