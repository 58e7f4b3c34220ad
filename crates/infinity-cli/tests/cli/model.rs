//! Using a model: generating, measuring, and refusing what is damaged.

use std::fs;

use super::{command, infinity, ran, with_model, with_model_of};

#[test]
fn measuring_a_model() {
    let dir = with_model();
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(&infinity(dir.path(), line).exits(0).out).unwrap()
    };
    let given = json("eval model --file valid.txt --json");
    let loss = given["loss"].as_f64().unwrap();
    assert!((3.0..7.0).contains(&loss), "{given}");
    assert!((given["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-6);
    infinity(dir.path(), "eval model")
        .exits(2)
        .says(&["--file"]);
    // Every byte but the first is a target.
    let bytes = fs::metadata(dir.path().join("valid.txt")).unwrap().len();
    assert_eq!(given["tokens"], bytes - 1);
    let carried = json("eval model --file valid.txt --stateful --json");
    assert_ne!(carried["loss"], given["loss"]);
    assert_eq!(carried["tokens"], given["tokens"]);
}

#[test]
fn measuring_along_a_stream() {
    let dir = with_model();
    let line = "eval model --file valid.txt --stream --bins 5 --against-context 40 --span 8";
    let table = infinity(dir.path(), line).exits(0).out;
    assert_eq!(table.lines().count(), 7, "{table}");
    let given = infinity(dir.path(), &format!("{line} --spans-per-bin 0 --json")).exits(0);
    let given: serde_json::Value = serde_json::from_str(&given.out).unwrap();
    let bytes = fs::metadata(dir.path().join("valid.txt")).unwrap().len();
    assert_eq!(given["tokens"], bytes);
    let bins = given["bins"].as_array().unwrap();
    assert_eq!((bins.len(), &bins[4]["to"]), (5, &serde_json::json!(bytes)));
    for bin in bins {
        let compared = &bin["compared"];
        assert!(compared["tokens"].as_u64().unwrap() > 300, "{bin}");
        let ratio = compared["stream"].as_f64().unwrap() / compared["limited"].as_f64().unwrap();
        assert!((compared["excess"].as_f64().unwrap() - (ratio - 1.0)).abs() < 1e-12);
    }
    let short = format!("{line} --limit-tokens 100000");
    infinity(dir.path(), &short)
        .exits(2)
        .says(&["100000", &format!("{bytes} tokens")]);
    infinity(dir.path(), "eval model --file valid.txt --bins 5")
        .exits(2)
        .says(&["--stream"]);
    infinity(dir.path(), &format!("{line} --stateful"))
        .exits(2)
        .says(&["--stateful"]);
}

/// The bound, what is measured and what it costs, side by side; a text kept in few bits goes on.
#[test]
fn a_memory_is_compressed_while_it_reads() {
    let dir = with_model();
    let line = "eval model --file valid.txt --stream --bins 5 --against-context 40 --span 8 \
                --memory-compression 8 --memory-compression-frequency 64";
    let table = infinity(dir.path(), line).exits(0).out;
    for words in [
        "memory in 8 bits every 64 tokens",
        "exact",
        "bound",
        "measured",
        "broken",
    ] {
        assert!(table.contains(words), "no {words:?} in {table}");
    }
    let given = infinity(dir.path(), &format!("{line} --json")).exits(0).out;
    let given: serde_json::Value = serde_json::from_str(&given).unwrap();
    let cost = &given["compression"];
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    assert!(number(&cost["difference"]).abs() < 0.05 && number(&cost["difference"]) != 0.0);
    for layer in cost["layers"].as_array().unwrap() {
        assert_eq!(layer["broken"], 0);
        for of in ["memory", "outputs"] {
            let [bound, measured] = ["bound", "measured"].map(|name| number(&layer[of][name]));
            assert!(bound > measured && measured > 0.0, "{layer}");
        }
    }
    assert!(given["bins"][4]["exact"].as_f64().is_some());
    for (flags, words) in [
        ("--memory-compression 7", "8, 4 or bf16, or off"),
        (
            "--memory-compression 8 --memory-compression-frequency 100",
            "multiple of 64",
        ),
        ("--memory-compression-frequency 64", "not compressed"),
    ] {
        let line = format!("eval model --file valid.txt {flags}");
        infinity(dir.path(), &line).exits(2).says(&[words]);
    }
    let made = |line: &str| -> serde_json::Value {
        let flags = "--json --ignore-eos --seed 3 --memory-compression 4";
        let made = infinity(dir.path(), &format!("generate model {flags} {line}")).exits(0);
        serde_json::from_str::<serde_json::Value>(&made.out).unwrap()["tokens"].clone()
    };
    let whole = made("-p line -n 300");
    let first = made("-p line -n 200 --state-out a.state --compress 4");
    let second = made("--state-in a.state -n 100");
    let both = [first, second]
        .map(|tokens| tokens.as_array().unwrap().clone())
        .concat();
    assert_eq!(serde_json::Value::Array(both), whole);
    let line = "generate model --memory-compression 8 --state-in a.state -n 1";
    infinity(dir.path(), line)
        .exits(1)
        .says(&["4 bits every 128 tokens"]);
    let line = "generate model -p line -n 5 --state-out b.state --compress 8";
    infinity(dir.path(), line)
        .exits(0)
        .says(&["kept in 8 bits", "times"]);
    infinity(dir.path(), "generate model --state-in b.state -n 5").exits(0);
    infinity(dir.path(), "generate model -p line -n 5 --compress 8")
        .exits(2)
        .says(&["--state-out"]);
}

#[test]
fn generating() {
    let dir = with_model();
    let greedy = "generate model -p line --greedy --json -n 12";
    let text = |line: &str| -> serde_json::Value {
        serde_json::from_str(&infinity(dir.path(), line).exits(0).out).unwrap()
    };
    assert_eq!(text(greedy)["tokens"], text(greedy)["tokens"]);
    let drawn = "generate model -p line --seed 5 --json -n 12";
    assert_eq!(text(drawn)["text"], text(drawn)["text"]);
    assert_eq!(
        text("generate model -p line --seed 5 --json --max-length 9")["position"],
        9
    );

    let two = infinity(
        dir.path(),
        "generate model -p line --seed 1 --num-samples 2 -n 3",
    )
    .exits(0);
    assert!(
        two.err.contains("seed 1 ") && two.err.contains("seed 2 "),
        "{}",
        two.err
    );

    let prompt = dir.path().join("prompt.txt");
    fs::write(&prompt, "line 3\n").unwrap();
    let mut piped = command(dir.path(), "generate model -n 3 --greedy");
    piped.stdin(fs::File::open(&prompt).unwrap());
    let piped = ran(piped).exits(0);
    assert!(
        piped.out.starts_with("line 3") && !piped.out.starts_with("line 3\n"),
        "{}",
        piped.out
    );
    let from_file = || infinity(dir.path(), "generate model -n 3 --greedy -f prompt.txt").exits(0);
    assert_eq!(from_file().out, piped.out);
    fs::write(&prompt, "\u{feff}line 3\n").unwrap();
    assert_eq!(from_file().out, piped.out, "a mark is no text");
    fs::write(&prompt, "line 3\r\n").unwrap();
    assert_eq!(
        from_file().out,
        piped.out,
        "nor is either half of a line break"
    );
    fs::write(&prompt, b"\xff").unwrap();
    infinity(dir.path(), "generate model -f prompt.txt")
        .exits(1)
        .says(&["prompt.txt", "UTF-8"]);
}

#[test]
fn a_flag_beats_generation_config_json_which_is_read_as_elsewhere() {
    let dir = with_model();
    let file = dir.path().join("model/generation_config.json");
    let said = |flags: &str| {
        let line = format!("generate model -p line -n 3 --seed 5 {flags}");
        infinity(dir.path(), &line).exits(0).err
    };
    fs::write(&file, r#"{"do_sample": false}"#).unwrap();
    assert!(said("").contains("greedy"));
    for flag in ["--temperature 1.5", "--top-k 9", "--do-sample"] {
        assert!(
            said(flag).contains("seed 5") && !said(flag).contains("warning"),
            "{flag}"
        );
    }
    let both = said("--greedy --top-p 0.5");
    assert!(both.contains("greedy ·") && both.contains("--top-p does nothing beside --greedy"));
    let text = "\u{feff}{\"temperature\": null, \"eos_token_id\": -1}";
    fs::write(&file, text).unwrap();
    assert!(said("").contains("seed 5"));
}

/// What the model remembers is kept and gone on with, as if it had not been left.
#[test]
fn a_text_is_left_and_gone_on_with() {
    let dir = with_model();
    let tokens = |line: &str| -> Vec<u64> {
        let made = infinity(dir.path(), &format!("generate model --json {line}")).exits(0);
        let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
        let tokens = made["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token.as_u64().unwrap()).collect()
    };
    let whole = tokens("-p line --seed 3 -n 20 --ignore-eos");
    let mut parts = tokens("-p line --seed 3 -n 8 --ignore-eos --state-out a.state");
    parts.extend(tokens(
        "--state-in a.state -n 5 --ignore-eos --state-out b.state",
    ));
    parts.extend(tokens("--state-in b.state -n 7 --ignore-eos"));
    assert_eq!(parts, whole);
    let more = infinity(dir.path(), "generate model --state-in b.state -p ine -n 1").exits(0);
    more.says(&["prompt: 3 tokens", "position 21"]);
    let shown = infinity(dir.path(), "state inspect a.state").exits(0).out;
    for words in [
        "1 rows of 1 layers",
        "after 12 tokens",
        "recent_tokens",
        "command",
        "--seed 3 -n 8 --ignore-eos --state-out a.state",
        "memory",
        "RMS",
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(&infinity(dir.path(), line).exits(0).out).unwrap()
    };
    assert_eq!(json("state inspect a.state --json")["position"][0], 12);
    assert_eq!(json("state diff a.state a.state --json")["equal"], true);
    let apart = json("state diff a.state b.state --json");
    assert_eq!(
        (&apart["equal"], &apart["one_model"]),
        (&false.into(), &true.into())
    );
    assert!(apart["tensors"][0]["relative_rms"].as_f64().unwrap() > 0.0);
    let state = fs::read(dir.path().join("a.state")).unwrap();
    fs::write(dir.path().join("cut.state"), &state[..state.len() / 2]).unwrap();
    for (file, words) in [("cut.state", "cut short"), ("none.state", "cannot be read")] {
        infinity(dir.path(), &format!("generate model --state-in {file}"))
            .exits(1)
            .says(&[file, words]);
    }
    let other = with_model_of(infinity_model::config::Mixer::Softmax);
    fs::write(other.path().join("a.state"), state).unwrap();
    infinity(other.path(), "generate model --state-in a.state")
        .exits(1)
        .says(&["a.state", "another model"]);
}

/// A text measured in two parts, the state kept between them, is the text.
#[test]
fn a_stream_is_left_and_gone_on_with() {
    let dir = with_model();
    let bytes = fs::read(dir.path().join("valid.txt")).unwrap();
    // Cut at a multiple of the window, so that both read the same pieces. The last token of the first
    // part is read alone, after it.
    let cut = 32 * 40 + 1;
    fs::write(dir.path().join("a.txt"), &bytes[..cut]).unwrap();
    fs::write(dir.path().join("b.txt"), &bytes[cut..]).unwrap();
    let measured = |line: &str| -> serde_json::Value {
        let line =
            format!("eval model --stream --json --bins 1 --against-context 8 --span 4 {line}");
        let report: serde_json::Value =
            serde_json::from_str(&infinity(dir.path(), &line).exits(0).out).unwrap();
        report["bins"][0].clone()
    };
    let loss = |bin: &serde_json::Value| {
        let at = |key: &str| bin[key].as_f64().unwrap();
        at("loss") * (at("to") - at("from"))
    };
    let whole = loss(&measured("--file valid.txt"));
    let first = loss(&measured("--file a.txt --state-out a.state"));
    let second = measured("--file b.txt --state-in a.state --state-out b.state");
    let shown = infinity(dir.path(), "state inspect b.state").exits(0).out;
    assert!(
        shown.contains(&format!("{} tokens", grouped(bytes.len()))),
        "{shown}"
    );
    // What predicts the first token of the second part is in the state, and not measured.
    let without = whole - first - loss(&second);
    assert!((3.0..8.0).contains(&without), "{without}");
    let alone = measured("--file b.txt");
    assert_ne!(loss(&alone), loss(&second), "a lost state is seen");
    infinity(dir.path(), "eval model --file b.txt --state-in a.state")
        .exits(2)
        .says(&["--stream"]);
    let other = with_model_of(infinity_model::config::Mixer::Softmax);
    fs::copy(dir.path().join("a.state"), other.path().join("a.state")).unwrap();
    infinity(
        other.path(),
        "eval model --stream --file valid.txt --state-in a.state",
    )
    .exits(1)
    .says(&["a.state", "another model"]);
}

/// As the program writes numbers of tokens.
fn grouped(n: usize) -> String {
    match n / 1000 {
        0 => n.to_string(),
        thousands => format!("{thousands},{:03}", n % 1000),
    }
}

#[test]
fn a_model_is_exported_and_says_nearly_the_same() {
    let dir = with_model();
    let loss = |model: &str| -> f64 {
        let out = infinity(dir.path(), &format!("eval {model} --file valid.txt --json"))
            .exits(0)
            .out;
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        report["loss"].as_f64().unwrap()
    };
    let exact = loss("model");
    for (flags, close) in [
        ("", 0.0),
        ("--dtype bf16", 2e-2),
        ("--dtype f16 --max-shard-size 8KB", 2e-3),
    ] {
        let line = format!("export model -o half --overwrite {flags}");
        let said = infinity(dir.path(), &line).exits(0).out;
        assert!(said.contains("model in half"), "{said}");
        assert_eq!(said.contains("files"), flags.contains("shard"), "{said}");
        let found = loss("half");
        assert!((found - exact).abs() <= close, "{flags}: {found} {exact}");
        assert_eq!(found == exact, flags.is_empty(), "{flags}");
    }
    infinity(dir.path(), "export model -o half")
        .exits(2)
        .says(&["half", "--overwrite"]);
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/notes.txt"), "mine").unwrap();
    for target in ["mine", "train.txt"] {
        infinity(dir.path(), &format!("export model -o {target} --overwrite"))
            .exits(2)
            .says(&[target, "no model directory"]);
    }
    assert!(dir.path().join("mine/notes.txt").is_file() && dir.path().join("train.txt").is_file());
    for (flags, words) in [
        ("--dtype f8", &["f8", "bf16"][..]),
        ("--max-shard-size 0", &["--max-shard-size", "5GB"]),
    ] {
        infinity(dir.path(), &format!("export model -o x {flags}"))
            .exits(2)
            .says(words);
    }
}

#[test]
fn half_precision_is_announced_and_changes_numbers_a_little() {
    let dir = with_model();
    let loss = |line: &str| -> f64 {
        let out = infinity(dir.path(), line).exits(0).out;
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["loss"]
            .as_f64()
            .unwrap()
    };
    let exact = loss("eval model --file valid.txt --json");
    for (precision, close) in [
        ("bf16-mixed", 1e-2),
        ("f16-mixed", 2e-3),
        ("bf16-true", 5e-2),
    ] {
        let half = loss(&format!(
            "eval model --file valid.txt --json --precision {precision}"
        ));
        assert!(
            half != exact && (half - exact).abs() < close,
            "{precision}: {half} {exact}"
        );
        let line = format!("generate model -p line -n 3 --greedy --dtype {precision}");
        let made = infinity(dir.path(), &line).exits(0);
        // As the processor has it.
        let ways = ["is emulated here", "with matrix products in bf16"];
        let is_said = made
            .err
            .lines()
            .any(|line| line.contains(precision) && ways.iter().any(|way| line.contains(way)));
        assert!(is_said, "{}", made.err);
    }
    infinity(dir.path(), "generate model -p line --precision fp16")
        .exits(2)
        .says(&["fp16", "f16-mixed"]);
}

#[test]
fn sampling_values_out_of_range() {
    let dir = with_model();
    for (flags, words) in [
        ("--top-p 1.5", &["top_p", "1.5"][..]),
        ("--temperature -1", &["-1"]),
        ("--temperature nan", &["temperature"]),
        ("-n 0", &["max_new_tokens", "0"]),
        ("--min-p 1", &["min_p", "1"]),
        ("--repetition-penalty 0", &["repetition_penalty"]),
        ("-n 3 --max-length 9", &["--max-length"]),
        ("--max-length 2", &["max_length", "2"]),
        ("--top-k -1", &["'-1'", "--top-k", "at least 0"]),
        ("-n -1", &["'-1'", "--max-new-tokens", "at least 0"]),
        ("--max-length -1", &["'-1'", "--max-length", "at least 0"]),
        (
            "--repeat-last-n -1",
            &["'-1'", "--repeat-last-n", "at least 0"],
        ),
        ("--num-samples -1", &["'-1'", "--num-samples", "at least 1"]),
        ("--num-samples 0", &["'0'", "--num-samples", "at least 1"]),
        ("--seed -1", &["'-1'", "--seed", "from 0 to"]),
        ("--threads -1", &["'-1'", "--threads", "from 1 to"]),
    ] {
        infinity(dir.path(), &format!("generate model -p line {flags}"))
            .exits(2)
            .says(words);
    }
}

#[test]
fn what_a_carried_softmax_state_grows_to_is_said_once() {
    let dir = with_model_of(infinity_model::config::Mixer::Softmax);
    let line = "eval model --file valid.txt --stateful --batch-size 1 --json";
    let carried = infinity(dir.path(), line).exits(0);
    let tokens = fs::metadata(dir.path().join("valid.txt")).unwrap().len() - 1;
    assert_eq!(carried.err.matches("softmax").count(), 1, "{}", carried.err);
    // Keys and values of width 16 in f32: 128 bytes a token in one layer.
    let kib = (tokens.next_multiple_of(32) * 128) as f64 / 1024.0;
    carried.says(&["warning", &format!("grows to {kib:.1} KiB"), "1 rows"]);
    for other in ["eval model --file valid.txt", &format!("-q {line}")] {
        assert_eq!(infinity(dir.path(), other).exits(0).err, "", "{other}");
    }
}

/// A text that is shorter than a window is a window.
#[test]
fn measuring_a_short_text() {
    let dir = with_model();
    fs::write(dir.path().join("short.txt"), "too short").unwrap();
    let made = infinity(dir.path(), "eval model --file short.txt --json").exits(0);
    let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
    assert_eq!((&made["tokens"], &made["window"]), (&8.into(), &8.into()));
    assert!(
        (3.0..7.0).contains(&made["loss"].as_f64().unwrap()),
        "{made}"
    );
    fs::write(dir.path().join("one.txt"), "a").unwrap();
    let one = infinity(dir.path(), "eval model --file one.txt").exits(2);
    assert!(!one.err.contains("data."), "{}", one.err);
    one.says(&["the text one.txt has 1 tokens", "at least 2"]);
}

#[test]
fn measuring_values_out_of_range() {
    let dir = with_model();
    for (flags, words) in [
        ("--batch-size -1", &["--batch-size -1", "not negative"][..]),
        ("--max-seq-length -1", &["--max-seq-length -1"]),
        ("--max-eval-batches -1", &["--max-eval-batches -1"]),
        ("--stream --bins -1", &["'-1'", "--bins", "at least 0"]),
        ("--stream --limit-tokens -1", &["'-1'", "--limit-tokens"]),
    ] {
        let line = format!("eval model --file valid.txt {flags}");
        infinity(dir.path(), &line).exits(2).says(words);
    }
    infinity(dir.path(), "tokenize train.txt -o t --val-fraction -1")
        .exits(2)
        .says(&["data.val_fraction", "-1", "at least 0"]);
}

/// What cannot be generated says so alone, without the prompt in front of it.
#[test]
fn a_refused_prompt_is_not_shown() {
    let dir = with_model();
    let refused = infinity(dir.path(), "generate model -p ROM --max-length 2").exits(2);
    assert_eq!(refused.out, "");
    refused.says(&["error: ", "max_length"]);
    let made = infinity(
        dir.path(),
        "generate model -p ROM --greedy -n 1 --no-stream",
    )
    .exits(0);
    let streamed = infinity(dir.path(), "generate model -p ROM --greedy -n 1").exits(0);
    assert_eq!(streamed.out, made.out);
    assert!(made.out.starts_with("ROM"), "{}", made.out);
}

#[test]
fn damaged_models_are_not_loaded() {
    let dir = with_model();
    let weights = dir.path().join("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for kept in [0, 5, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..kept]).unwrap();
        infinity(dir.path(), "generate model -p x")
            .exits(1)
            .says(&["model.safetensors"]);
    }
    fs::write(&weights, &whole).unwrap();
    infinity(dir.path(), "generate model -p x -n 1").exits(0);
    fs::remove_file(dir.path().join("model/tokenizer.json")).unwrap();
    infinity(dir.path(), "generate model -p x")
        .exits(1)
        .says(&["tokenizer.json"]);
    let config = dir.path().join("model/config.json");
    fs::write(&config, "{").unwrap();
    let made = infinity(dir.path(), "generate model -p x");
    assert!([1, 2].contains(&made.code));
    made.says(&["config"]);
}
