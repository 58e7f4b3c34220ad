//! PyTorch beside ours, in a process of its own: a GPT of the same width and layers that generates with a cache, or a
//! directory's own model in transformers.

use infinity_model::ModelConfig;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The network and its protocol, for any Python that has torch.
const GPT: &str = include_str!("gpt.py");
/// The same, for one that has transformers.
const OTHERS: &str = include_str!("others.py");

/// How far logits token by token may be from those of the whole there, in parts of the largest: in f32, and in bf16.
const APART: [f64; 2] = [1e-4, 5e-2];

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
    pub(crate) fn gpt(
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
        let sizes = sizes.map(|size| size.to_string());
        Self::start(python, GPT, &sizes, APART[0])
    }

    /// Starts `python` with the model in `dir`, its weights in bf16 or f32.
    pub(crate) fn transformers(python: &str, dir: &str, in_bf16: bool) -> Outcome<Self> {
        let dtype = if in_bf16 { "bfloat16" } else { "float32" };
        let threads = rayon::current_num_threads().to_string();
        let arguments = [dir.to_owned(), dtype.to_owned(), threads];
        Self::start(python, OTHERS, &arguments, APART[usize::from(in_bf16)])
    }

    fn start(python: &str, program: &str, arguments: &[String], most: f64) -> Outcome<Self> {
        let mut child = Command::new(python)
            .args(["-c", program])
            .args(arguments)
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
        if apart.is_nan() || apart > most {
            return Err(format!("PyTorch token by token is {apart:.1e} from the whole").into());
        }
        let of = |key: &str| hello[key].as_str().unwrap_or("?").to_owned();
        peer.about = format!(
            "PyTorch {}, {}; token by token is {apart:.0e} from the whole",
            of("torch"),
            of("about")
        );
        Ok(peer)
    }

    /// Its logits after `tokens`, of a model in a directory.
    pub(crate) fn last(&mut self, tokens: &[i64]) -> Outcome<Vec<f64>> {
        let tokens: Vec<String> = tokens.iter().map(i64::to_string).collect();
        let answer = self.asked(&format!("last {}", tokens.join(" ")))?;
        let logits = answer["logits"].as_array().map(|all| {
            let each = all.iter().map(|x| x.as_f64().unwrap_or(f64::NAN));
            each.collect()
        });
        Ok(logits.ok_or("PyTorch's answer lacks `logits`")?)
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
        let answer = self.asked(line)?;
        let seconds = answer["seconds"].as_f64();
        Ok(seconds.ok_or_else(|| format!("PyTorch's answer lacks `seconds`: {answer}"))?)
    }

    fn asked(&mut self, line: &str) -> Outcome<Value> {
        writeln!(self.lines, "{line}")?;
        self.lines.flush()?;
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
