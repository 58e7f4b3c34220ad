//! PyTorch beside ours: a GPT of the same width and layers that generates with a cache, in a process of its own.

use infinity_model::ModelConfig;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The network and its protocol, for any Python that has torch.
const PROGRAM: &str = include_str!("gpt.py");

/// How far logits token by token may be from those of the whole there, in parts of the largest.
const APART: f64 = 1e-4;

/// A PyTorch process that answers a line of JSON to every line.
pub(crate) struct Peer {
    child: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its version and parameters.
    pub(crate) about: String,
}

impl Peer {
    /// Starts `python` with a network of the sizes of `config`, on as many threads as ours has, with so
    /// many `copies` of the weights, for texts of up to `longest` tokens.
    pub(crate) fn start(
        python: &str,
        config: &ModelConfig,
        longest: usize,
        copies: usize,
    ) -> Outcome<Self> {
        let sizes = [
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.vocab_size,
            longest,
            copies,
            rayon::current_num_threads(),
        ];
        let mut child = Command::new(python)
            .args(["-c", PROGRAM])
            .args(sizes.map(|size| size.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("--python {python}: {error}"))?;
        let (Some(lines), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a pipe is missing".into());
        };
        let mut peer = Peer {
            child,
            lines,
            answers: BufReader::new(answers),
            about: String::new(),
        };
        let hello = peer.answer()?;
        let apart = hello["apart"].as_f64().unwrap_or(f64::NAN);
        if apart.is_nan() || apart > APART {
            return Err(format!("PyTorch token by token is {apart:.1e} from the whole").into());
        }
        peer.about = format!(
            "PyTorch {}, GPT of {} parameters; token by token is {apart:.0e} from the whole",
            hello["torch"].as_str().unwrap_or("?"),
            hello["parameters"]
        );
        Ok(peer)
    }

    /// Seconds to read a prompt of `len` tokens.
    pub(crate) fn prompt(&mut self, len: usize) -> Outcome<f64> {
        self.seconds(&format!("prompt {len}"))
    }

    /// Median seconds of a step of `rows` texts.
    pub(crate) fn decode(&mut self, rows: usize, steps: usize) -> Outcome<f64> {
        self.seconds(&format!("decode {rows} {steps}"))
    }

    fn seconds(&mut self, line: &str) -> Outcome<f64> {
        writeln!(self.lines, "{line}")?;
        self.lines.flush()?;
        let answer = self.answer()?;
        let seconds = answer["seconds"].as_f64();
        Ok(seconds.ok_or_else(|| format!("PyTorch's answer lacks `seconds`: {answer}"))?)
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
