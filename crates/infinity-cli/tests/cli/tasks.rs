//! `infinity train` on tasks that make their own rows, and `infinity eval --task`.

use super::{directory, infinity, with_model};

const RUN: &str = "train -o run --set data.source=recall --set data.max_seq_length=40 --set data.task.pairs=12 \
    --set data.task.validation_rows=8 --set model.hidden_size=16 --set model.num_hidden_layers=1 \
    --set model.num_attention_heads=2 --set training.per_device_train_batch_size=4 --max-steps 3 \
    --set eval.sample_prompts=[] -q";

#[test]
fn a_task_is_learned_and_measured() {
    let dir = directory();
    infinity(dir.path(), RUN).exits(0);
    infinity(dir.path(), "eval run").exits(0);
    let line = "eval run --task recall --seeds 2 --task-rows 4 --context-lengths 40,1k";
    let table = infinity(dir.path(), &format!("{line} --plot recall.svg"))
        .exits(0)
        .out;
    for word in [
        "recall",
        "tokens back",
        "512–1,024",
        "KiB",
        "written: recall.svg",
    ] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
    let picture = std::fs::read_to_string(dir.path().join("recall.svg")).unwrap();
    assert!(picture.contains("1,024 tokens"), "{picture}");
    let lines = infinity(dir.path(), &format!("{line} --json")).exits(0).out;
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["length"], &lines[0]["task"]),
        (&40.into(), &"recall".into())
    );
    let answers: u64 = lines
        .iter()
        .filter(|line| line["length"] == 40)
        .map(|line| line["answers"].as_u64().unwrap())
        .sum();
    assert_eq!(answers, 2 * 4 * 16, "queries fill what 12 pairs leave");
    for line in &lines {
        let accuracy = line["accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy) && line["state_bytes"].as_u64() > Some(0));
    }
    for (flags, words) in [
        ("--task parity", &["did not learn", "parity"][..]),
        ("--task needle", &["no text", "--file"]),
        ("--task recall --file x.txt", &["x.txt", "recall"]),
        ("--task recall --question x", &["--question", "needle"]),
        (
            "--task recall --context-lengths 20",
            &["data.max_seq_length", "25"],
        ),
        (
            "--task recall --context-lengths 0",
            &["--context-lengths", "4k"],
        ),
        ("--task recall --seeds 0", &["--seeds", "from 1"]),
        ("--task recall --stream", &["--stream"]),
        ("--task recall --stateful", &["--stateful"]),
        ("--task guess", &["guess", "needle"]),
        ("--seeds 3", &["--task"]),
        ("--stateful", &["eval.carry_state"]),
        ("--stream", &["--stream", "recall"]),
        ("--task recall --plot x.gif", &["x.gif", ".svg"]),
    ] {
        let made = infinity(dir.path(), &format!("eval run {flags}"));
        assert!(
            [1, 2].contains(&made.code),
            "{flags}: {}\n{}",
            made.code,
            made.err
        );
        made.says(words);
    }
}

#[test]
fn a_needle_and_positions_are_measured_on_any_text() {
    let dir = with_model();
    let json = |flags: &str| -> Vec<serde_json::Value> {
        let line = format!("eval model --file valid.txt --json {flags}");
        let lines = infinity(dir.path(), &line).exits(0).out;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let needle = json("--task needle --context-lengths 128,8k --seeds 2");
    assert_eq!(needle.len(), 2);
    assert_eq!(
        (&needle[1]["length"], &needle[1]["answers"]),
        (&8192.into(), &2.into())
    );
    assert_eq!(needle[0]["state_bytes"], needle[1]["state_bytes"]);
    let positions = json("--task positions --context-lengths 1k --seeds 2 --plot p.png");
    assert_eq!(positions.last().unwrap()["to"], 1024);
    assert!(positions[3]["accuracy"].is_null() && positions[3]["loss"].as_f64() > Some(1.0));
    assert!(dir.path().join("p.png").exists());
    for (flags, words) in [
        ("--task recall", &["did not learn", "data.source"][..]),
        (
            "--task positions --context-lengths 1M",
            &["1048576", "tokens"],
        ),
        ("--task needle --context-lengths 10", &["10", "tokens"]),
    ] {
        let file = if flags.contains("recall") {
            ""
        } else {
            "--file valid.txt"
        };
        let made = infinity(dir.path(), &format!("eval model {file} {flags}"));
        assert!(
            [1, 2].contains(&made.code),
            "{flags}: {}\n{}",
            made.code,
            made.err
        );
        made.says(words);
    }
}

#[test]
fn tasks_refuse_what_they_have_no_use_for() {
    let dir = directory();
    for (flags, words) in [
        ("--set data.task.pairs=100", ["data.task.pairs", "64"]),
        ("--train-file x.txt", ["data.train_file", "recall"]),
        ("--set tokenizer.kind=char", ["tokenizer.kind", "char"]),
        ("--set data.task.pear=3", ["pear", "pairs"]),
        ("--set data.source=recal", ["data.source", "recall"]),
    ] {
        infinity(dir.path(), &format!("{RUN} {flags}"))
            .exits(2)
            .says(&words);
    }
}
