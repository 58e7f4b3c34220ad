//! PyTorch beside ours: a GPT of the same width, layers and rows in a process of its own, one step at a time, so that both
//! train in turns on one machine and nothing but the ratio counts.

use infinity_train::RunConfig;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The network and its protocol, for any Python that has torch.
const PROGRAM: &str = include_str!("gpt.py");

/// A PyTorch process that answers a line of JSON to every word.
pub(crate) struct Peer {
    child: Child,
    /// The format of its products: `f32` or `bf16`.
    pub(crate) format: &'static str,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its parameters: fewer than ours by what gates and convolutions take.
    pub(crate) parameters: u64,
    /// The version of PyTorch.
    pub(crate) version: String,
    /// Seconds of the timed steps.
    pub(crate) times: Vec<f64>,
    /// Losses of all steps.
    pub(crate) losses: Vec<f64>,
}

impl Peer {
    /// Starts `python` with the sizes of `config` and products in `format`, on as many threads as ours has.
    pub(crate) fn start(python: &Path, config: &RunConfig, format: &'static str) -> Outcome<Self> {
        let model = &config.model;
        let sizes = [
            model.num_hidden_layers,
            model.hidden_size,
            model.num_attention_heads,
            4 * model.hidden_size,
            config.data.max_seq_length,
            config.training.per_device_train_batch_size,
            model.vocab_size,
            rayon::current_num_threads(),
        ];
        let mut child = Command::new(python)
            .args(["-c", PROGRAM])
            .args(sizes.map(|size| size.to_string()))
            .arg(format)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("--python {}: {error}", python.display()))?;
        let (Some(words), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a pipe is missing".into());
        };
        let mut peer = Peer {
            child,
            format,
            words,
            answers: BufReader::new(answers),
            parameters: 0,
            version: String::new(),
            times: Vec::new(),
            losses: Vec::new(),
        };
        let hello = peer.answer()?;
        peer.parameters = hello["parameters"].as_u64().unwrap_or_default();
        peer.version = hello["torch"].as_str().unwrap_or("?").to_owned();
        Ok(peer)
    }

    /// Trains one step on its fixed batch.
    pub(crate) fn step(&mut self) -> Outcome<()> {
        let answer = self.ask("step")?;
        self.times.push(number(&answer, "seconds")?);
        self.losses.push(number(&answer, "loss")?);
        Ok(())
    }

    /// The fastest of some f32 products there, in FLOP/s.
    pub(crate) fn product_flops(&mut self) -> Outcome<f64> {
        number(&self.ask("product")?, "flops")
    }

    /// The most memory its process has held, in bytes.
    pub(crate) fn peak_bytes(&mut self) -> Outcome<f64> {
        number(&self.ask("memory")?, "peak_bytes")
    }

    fn ask(&mut self, word: &str) -> Outcome<Value> {
        writeln!(self.words, "{word}")?;
        self.words.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err("PyTorch's process ended: what it printed is above".into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(answer: &Value, key: &str) -> Outcome<f64> {
    let found = answer[key].as_f64();
    Ok(found.ok_or_else(|| format!("PyTorch's answer lacks `{key}`: {answer}"))?)
}
