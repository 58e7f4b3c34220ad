//! `infinity plot`: pictures of runs, and what is said of runs that logged nothing.

use std::fs;
use std::path::Path;

use super::{directory, infinity};

/// A run directory with metrics of some steps.
fn logged(dir: &Path, name: &str) {
    let mut text = String::new();
    for step in 1..30 {
        let loss = 4.0 / f64::from(step).sqrt();
        text += &format!(
            "{{\"step\":{step},\"tokens\":{step}00,\"train/loss\":{loss},\"train/lr\":1e-3}}\n"
        );
    }
    text += "{\"step\":29,\"eval/loss\":1.5}\n";
    fs::create_dir(dir.join(name)).unwrap();
    fs::write(dir.join(name).join("metrics.jsonl"), text).unwrap();
}

#[test]
fn a_run_is_drawn_into_its_directory_and_several_into_this_one() {
    let dir = directory();
    logged(dir.path(), "first");
    logged(dir.path(), "second");
    let made = infinity(dir.path(), "plot first").exits(0);
    assert!(
        made.out.contains("plot.svg") && made.err.is_empty(),
        "{}",
        made.err
    );
    let svg = fs::read_to_string(dir.path().join("first/plot.svg")).unwrap();
    assert!(svg.contains("Gradient norm") && svg.contains("first"));
    let png = fs::read(dir.path().join("first/plot.png")).unwrap();
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 20_000,
        "{}",
        png.len()
    );
    infinity(dir.path(), "plot first second --x tokens").exits(0);
    let both = fs::read_to_string(dir.path().join("plot.svg")).unwrap();
    assert!(both.contains("second") && both.contains("training tokens"));
    infinity(dir.path(), "plot first -o a.svg").exits(0);
    infinity(dir.path(), "plot first -o b").exits(0);
    let there = |name: &str| dir.path().join(name).is_file();
    assert!(there("a.svg") && !there("a.png") && there("b.svg") && there("b.png"));
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let dir = directory();
    logged(dir.path(), "torn");
    let file = dir.path().join("torn/metrics.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{{\"step\":30,\"tra")).unwrap();
    infinity(dir.path(), "plot torn")
        .exits(0)
        .says(&["torn", "last line"]);

    fs::create_dir(dir.path().join("bare")).unwrap();
    infinity(dir.path(), "plot bare")
        .exits(1)
        .says(&["bare", "metrics.jsonl"]);
    fs::write(dir.path().join("bare/metrics.jsonl"), "").unwrap();
    infinity(dir.path(), "plot bare")
        .exits(1)
        .says(&["bare", "logged nothing"]);
    infinity(dir.path(), "plot nowhere")
        .exits(1)
        .says(&["nowhere"]);
    infinity(dir.path(), "plot torn -o a.pdf")
        .exits(2)
        .says(&["a.pdf", ".svg"]);
    infinity(dir.path(), "plot").exits(2);
    assert!(!dir.path().join("a.pdf").exists());
}
