//! A run that was stopped goes on as if nothing had happened, and only from what is whole.

#[path = "../common/mod.rs"]
mod common;
mod counted;
mod damage;
mod exact;
mod failures;
mod init_from;
mod kills;
mod lora;
mod lost;
mod ranks;
mod refused;
mod started;
mod written;

use common::{config, metrics, run};
use infinity_train::checkpoint::CheckpointStore;
use infinity_train::config::RunConfig;
use infinity_train::data::Packing;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole model, byte by byte, and everything the run logged but times.
fn result(directory: &TempDir) -> (Vec<u8>, Vec<Value>) {
    let run = directory.path().join("run");
    (
        fs::read(run.join("final/model.safetensors")).unwrap(),
        metrics(&run),
    )
}

/// A directory with a run of `change`d configuration, and that configuration.
fn directory(packing: Packing, change: impl Fn(&mut RunConfig)) -> (TempDir, RunConfig) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), packing);
    change(&mut config);
    (directory, config)
}

/// A run stopped after step 4, with checkpoints of the steps 2 and 4.
fn stopped() -> (TempDir, RunConfig) {
    let (directory, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, Some(4)).0.unwrap();
    assert_eq!(store(&config).steps(), [2, 4]);
    (directory, config)
}

fn store(config: &RunConfig) -> CheckpointStore {
    CheckpointStore::new(config.output_dir().join("checkpoints"))
}

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes a file of a checkpoint as if it had been written so.
fn rewrite(checkpoint: &Path, name: &str, change: impl Fn(&mut Vec<u8>)) {
    edit(&checkpoint.join(name), change);
    let marker = checkpoint.join("COMPLETE");
    let mut marks: Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    let bytes = fs::read(checkpoint.join(name)).unwrap();
    marks[name]["bytes"] = bytes.len().into();
    marks[name]["fingerprint"] = infinity_files::fingerprint(&bytes).into();
    fs::write(&marker, marks.to_string()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
