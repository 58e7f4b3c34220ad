//! Loading takes the memory of the weights in f32 and at most a tenth more, whatever is on the disk.
//!
//! A child process loads each model, because a process's peak never falls. A model of 16 M parameters
//! by default; `INFINITY_LOADING=100` takes one of 100 M.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the measurement is what is asked for")]

use infinity_model::burn::module::Module;
use infinity_model::burn::tensor::Device;
use infinity_model::{
    GenerationConfig, ModelConfig, SaveOptions, WeightFormat, from_pretrained, save_pretrained_with,
};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const DIRECTORY: &str = "INFINITY_LOADING_DIRECTORY";
const WASTES: &str = "INFINITY_LOADING_WASTES";

/// Kilobytes of this process, by the name of a line in `/proc/self/status`.
fn kilobytes(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|found| found.strip_prefix(line))
        .unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B'])
        .parse()
        .unwrap()
}

/// What the child does: the memory of loading over the memory of the weights, printed.
fn load(dir: &Path) {
    let (before, start) = (kilobytes("VmRSS"), Instant::now());
    // All of the files beside the model, as a reader would do that does not take care.
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let wasted: Vec<Vec<u8>> = match std::env::var_os(WASTES) {
        Some(_) => files.map(|file| fs::read(file).unwrap()).collect(),
        None => Vec::new(),
    };
    let loaded = from_pretrained(dir, &Device::flex()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let weights = 4.0 * loaded.model.num_params() as f64 / 1024.0;
    println!(
        "ratio {} after {seconds:.2} s",
        (kilobytes("VmHWM") - before) / weights
    );
    drop(wasted);
}

fn ratio(dir: &Path, wastes: bool) -> f64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "loading_takes_little_more_than_the_weights",
        "--nocapture",
    ]);
    child.env(DIRECTORY, dir);
    if wastes {
        child.env(WASTES, "1");
    }
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.split_once("ratio "));
    let (_, line) = line.unwrap_or_else(|| panic!("{said}"));
    println!("{}: {line}", dir.file_name().unwrap().display());
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn loading_takes_little_more_than_the_weights() {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        return load(Path::new(&dir));
    }
    let millions: usize = std::env::var("INFINITY_LOADING").map_or(16, |n| n.parse().unwrap());
    let width = 512;
    // Half of the numbers in the two largest tensors, which come first and last.
    let config = ModelConfig::new(millions * 1_000_000 / 4 / width)
        .with_hidden_size(width)
        .with_num_attention_heads(8)
        .with_num_hidden_layers((millions / 8).max(1))
        .with_tie_word_embeddings(false);
    let folder = tempfile::tempdir().unwrap();
    let model = config.init(&Device::flex());
    println!("{} parameters", model.num_params());
    for (name, format, max_shard_bytes) in [
        ("f32", WeightFormat::F32, None),
        ("bf16", WeightFormat::Bf16, None),
        ("shards of f16", WeightFormat::F16, Some(1 << 23)),
    ] {
        let dir = folder.path().join(name);
        let options = SaveOptions {
            format: Some(format),
            max_shard_bytes,
        };
        let generation = GenerationConfig::default();
        save_pretrained_with(&dir, &model, None, &generation, &options).unwrap();
        let found = ratio(&dir, false);
        assert!((0.9..1.1).contains(&found), "{name}: {found}");
    }
    let wasteful = ratio(&folder.path().join("bf16"), true);
    assert!(
        wasteful > 1.3,
        "a reader that takes more is seen: {wasteful}"
    );
}
