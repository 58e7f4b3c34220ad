//! A folder that trains from the program alone, and trying out what the program can do.

use std::fs;

use super::{directory, infinity, with_model};

#[test]
fn a_new_folder_trains_from_the_program_alone() {
    let dir = directory();
    let made = infinity(dir.path(), "init demo --preset tiny-char").exits(0);
    assert!(
        made.out.contains("infinity train infinity.toml"),
        "{}",
        made.out
    );
    let demo = dir.path().join("demo");
    let small = "--set model.hidden_size=16 --set model.num_hidden_layers=1 \
        --set model.num_attention_heads=2 --set data.stories.count=40 --set data.stories.validation=6 \
        --set data.max_seq_length=32 --max-steps 3 --warmup-steps 1 --set eval.sample_tokens=4";
    let run = infinity(&demo, &format!("train infinity.toml {small}")).exits(0);
    assert!(
        run.out.contains("step 00003/3") || run.out.contains("final"),
        "{}",
        run.out
    );
    infinity(&demo, "generate runs/tiny-char/final -p One -n 3").exits(0);
    // The stories that were held out.
    let measured = infinity(&demo, "eval runs/tiny-char/final").exits(0);
    assert!(measured.out.contains("loss"), "{}", measured.out);
    let book = fs::read_to_string(demo.join("book.txt")).unwrap();
    assert!(book.len() > 100_000 && book.contains("\n\n"), "{book:.40}");
    // The alphabet of so few stories is all that this model can read.
    fs::write(demo.join("short.txt"), "One day\n\nOne day\n").unwrap();
    infinity(
        &demo,
        "stream runs/tiny-char/final short.txt --state-out a.state",
    )
    .exits(0);
    infinity(
        &demo,
        "generate runs/tiny-char/final --state-in a.state -n 3",
    )
    .exits(0);
}

#[test]
fn what_is_there_is_not_written_over() {
    let dir = directory();
    infinity(dir.path(), "init").exits(0);
    let config = dir.path().join("infinity.toml");
    fs::write(&config, "mine").unwrap();
    infinity(dir.path(), "init")
        .exits(2)
        .says(&["infinity.toml", "--force"]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "mine");
    infinity(dir.path(), "init --force --preset small --seed 7").exits(0);
    let text = fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("seed = 7") && text.contains("name = \"small\""),
        "{text}"
    );
    infinity(dir.path(), "init infinity.toml")
        .exits(2)
        .says(&["is a file"]);
    infinity(dir.path(), "init --preset tny")
        .exits(2)
        .says(&["tny", "tiny-char"]);
    let list = infinity(dir.path(), "init nowhere --list").exits(0).out;
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(!dir.path().join("nowhere").exists());
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = directory();
    fs::write(dir.path().join("file"), "").unwrap();
    infinity(dir.path(), "init file/demo")
        .exits(1)
        .says(&["file/demo", "cannot make"]);
}

#[test]
fn the_doctor_tries_every_device_of_this_build() {
    let dir = directory();
    let told = infinity(dir.path(), "doctor").exits(0).out;
    for words in [
        "flex: product",
        "flex: scan",
        "flex: training step",
        "--device auto",
        "--features cuda",
    ] {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    assert!(told.contains("all that this build has works"), "{told}");
    let json = infinity(dir.path(), "doctor --json").exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let step = findings
        .iter()
        .find(|finding| finding["what"] == "flex: training step");
    assert_eq!(step.unwrap()["status"], "ok");
    // A device that is not there is something that does not work.
    let absent = infinity(dir.path(), "doctor --device cuda");
    assert_eq!(
        absent.code,
        i32::from(!cfg!(feature = "cuda")),
        "{}",
        absent.out
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_bench_measures_by_depth() {
    let dir = with_model();
    let line = "bench model --prompt-len 8,1k --gen-len 4 --depth 600,4 --iterations 2";
    let json = infinity(dir.path(), &format!("{line} --format json"))
        .exits(0)
        .out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let figures = json["figures"].as_array().unwrap();
    let of = |figure: &serde_json::Value| {
        let number = |key: &str| figure[key].as_u64().unwrap();
        (
            figure["test"].as_str().unwrap().to_owned(),
            number("tokens"),
            number("depth"),
        )
    };
    let expected = [
        ("prefill", 8, 4),
        ("prefill", 1024, 4),
        ("decode", 4, 4),
        ("prefill", 8, 600),
        ("prefill", 1024, 600),
        ("decode", 4, 600),
    ];
    let found: Vec<_> = figures.iter().map(of).collect();
    assert_eq!(
        found,
        expected.map(|(test, tokens, depth)| (test.to_owned(), tokens, depth))
    );
    for figure in figures {
        assert!(figure["tokens_per_s"].as_f64().unwrap() > 0.0, "{figure}");
        assert_eq!(figure["seconds"].as_array().unwrap().len(), 2);
        assert_eq!(
            figure["state_bytes"], figures[0]["state_bytes"],
            "it does not grow"
        );
    }
    let table = infinity(dir.path(), line).exits(0).out;
    assert_eq!(table.lines().count(), 8, "{table}");
    let page = infinity(dir.path(), &format!("{line} --format markdown"))
        .exits(0)
        .out;
    assert!(
        page.starts_with("| test") && page.contains("| ---: |"),
        "{page}"
    );
    infinity(dir.path(), "bench model --depth 0")
        .exits(2)
        .says(&["--depth", "above 0"]);
    infinity(dir.path(), "bench model --iterations 0")
        .exits(2)
        .says(&["--iterations", "from 1"]);
    infinity(dir.path(), "bench none").exits(2).says(&["none"]);
}
