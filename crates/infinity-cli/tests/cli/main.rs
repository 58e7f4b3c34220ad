//! The built program, run in a directory of its own: one executable for all tests.

#[cfg(feature = "flex")]
mod chat;
#[cfg(feature = "flex")]
mod data;
#[cfg(all(feature = "flex", unix))]
mod failures;
#[cfg(feature = "flex")]
mod foreign;
#[cfg(feature = "flex")]
mod init;
#[cfg(feature = "flex")]
mod lora;
#[cfg(feature = "flex")]
mod model;
mod plot;
#[cfg(feature = "flex")]
mod stream;
#[cfg(feature = "flex")]
mod tasks;
#[cfg(feature = "flex")]
mod train;
mod usage;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What a run of the program gave.
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Panics with everything that was printed unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "\n--- out\n{}\n--- err\n{}",
            self.out, self.err
        );
        self
    }

    /// Panics unless standard error has every one of `words`.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }
}

/// The program with the words of `line`, in `dir`, without this machine's settings.
pub(crate) fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infinity"));
    command
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let others = ["BURN_DEVICE", "RUST_BACKTRACE", "CARGO_PKG_NAME"];
        if name.starts_with("INFINITY") || others.contains(&&*name) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a prepared command to its end.
pub(crate) fn ran(mut command: Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program starts");
    Ran {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs `line` by the shell, in `dir`.
pub(crate) fn shell(dir: &Path, line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir);
    ran(command)
}

/// Runs the program with the words of `line` in `dir`.
pub(crate) fn infinity(dir: &Path, line: &str) -> Ran {
    ran(command(dir, line))
}

/// An empty directory that goes away with the value.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A directory with `train.txt` and `valid.txt`, some thousand bytes of words each.
pub(crate) fn with_texts() -> TempDir {
    let dir = directory();
    for (name, lines) in [("train.txt", 400), ("valid.txt", 60)] {
        let mut text = String::new();
        for i in 0..lines {
            let _ = writeln!(
                text,
                "line {i}: the quick brown fox jumps over {} lazy dogs",
                i % 7
            );
        }
        std::fs::write(dir.path().join(name), text).expect("writable");
    }
    dir
}

/// [`with_texts`] and an untrained model in `model`, which reads windows of 32 bytes.
#[cfg(feature = "flex")]
pub(crate) fn with_model() -> TempDir {
    with_model_of(infinity_model::ModelConfig::default().mixer)
}

/// [`with_model`] with another mixer.
#[cfg(feature = "flex")]
pub(crate) fn with_model_of(mixer: infinity_model::config::Mixer) -> TempDir {
    use infinity_model::{GenerationConfig, ModelConfig, Tokenizer, save_pretrained};
    let dir = with_texts();
    let tokenizer = Tokenizer::bytes();
    let config = ModelConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 32,
        mixer,
        ..ModelConfig::first()
    };
    let model = config.init(&burn::tensor::Device::flex());
    let generation = GenerationConfig::default();
    save_pretrained(
        &dir.path().join("model"),
        &model,
        Some(&tokenizer),
        &generation,
    )
    .expect("a model that can be saved");
    dir
}

/// Settings of a model that trains in a moment.
pub(crate) const TINY: &str = "--set model.hidden_size=16 --set model.num_hidden_layers=1 \
    --set model.num_attention_heads=2 --set data.max_seq_length=32 \
    --set training.per_device_train_batch_size=2 --set training.per_device_eval_batch_size=4 \
    --set eval.max_batches=2 --set eval.sample_tokens=4 --set logging.every=1";
