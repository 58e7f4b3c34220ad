//! The flags of the bench: sizes of the model, lengths, and how often everything is measured.

use crate::case::Case;
use infinity_model::ModelConfig;
use infinity_model::config::Mixer;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const USAGE: &str = "\
flags, each with a value (the default in brackets):
  --layers --hidden --heads --vocab   sizes of the model                    [2 128 4 256]
  --tokens             tokens of a training step, whatever the length       [16384]
  --lengths            window lengths, ascending      [1024,2048,4096,8192,16384]
  --softmax-up-to      longest window for softmax attention                 [16384]
  --rounds --steps     rounds (0: no training), timed steps of a round      [3 2]
  --positions          where decoding is measured                           [1000,100000]
  --softmax-positions  the same for softmax attention                       [1000,10000]
  --decode-rounds --decode-steps      rounds (0: no decoding), their steps  [20 100]
  --generate --every   tokens to generate (0: none), tokens between samples [200000 10000]
  --json               where the measurements are written                   [target/length.json]";

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) vocab: usize,
    pub(crate) tokens: usize,
    pub(crate) lengths: Vec<usize>,
    pub(crate) softmax_up_to: usize,
    pub(crate) rounds: usize,
    pub(crate) steps: usize,
    pub(crate) positions: Vec<usize>,
    pub(crate) softmax_positions: Vec<usize>,
    pub(crate) decode_rounds: usize,
    pub(crate) decode_steps: usize,
    pub(crate) generate: usize,
    pub(crate) every: usize,
    pub(crate) json: PathBuf,
    /// Set in child processes.
    pub(crate) case: Option<Case>,
}

impl Default for Flags {
    fn default() -> Self {
        Flags {
            layers: 2,
            hidden: 128,
            heads: 4,
            vocab: 256,
            tokens: 16_384,
            lengths: vec![1024, 2048, 4096, 8192, 16_384],
            softmax_up_to: 16_384,
            rounds: 3,
            steps: 2,
            positions: vec![1000, 100_000],
            softmax_positions: vec![1000, 10_000],
            decode_rounds: 20,
            decode_steps: 100,
            generate: 200_000,
            every: 10_000,
            json: "target/length.json".into(),
            case: None,
        }
    }
}

impl Flags {
    /// Reads `--key value` pairs.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Flags::default();
        // Cargo adds `--bench` to the arguments of every bench.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(key) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{key} has no value\n\n{USAGE}"))?;
            flags.set(&key, &value)?;
        }
        // Cargo runs benches in the package's folder; paths are given from the workspace's.
        flags.json = Path::new("../..").join(&flags.json);
        flags.check()?;
        Ok(flags)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "--layers" => self.layers = number(key, value)?,
            "--hidden" => self.hidden = number(key, value)?,
            "--heads" => self.heads = number(key, value)?,
            "--vocab" => self.vocab = number(key, value)?,
            "--tokens" => self.tokens = number(key, value)?,
            "--lengths" => self.lengths = ascending(key, value)?,
            "--softmax-up-to" => self.softmax_up_to = number(key, value)?,
            "--rounds" => self.rounds = number(key, value)?,
            "--steps" => self.steps = number(key, value)?,
            "--positions" => self.positions = ascending(key, value)?,
            "--softmax-positions" => self.softmax_positions = ascending(key, value)?,
            "--decode-rounds" => self.decode_rounds = number(key, value)?,
            "--decode-steps" => self.decode_steps = number(key, value)?,
            "--generate" => self.generate = number(key, value)?,
            "--every" => self.every = number(key, value)?,
            "--json" => self.json = value.into(),
            "--case" => self.case = Some(value.parse()?),
            _ => return Err(format!("unknown flag {key}\n\n{USAGE}")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if let Some(length) = self
            .lengths
            .iter()
            .find(|length| !self.tokens.is_multiple_of(**length))
        {
            return Err(format!(
                "--tokens {} is no multiple of the length {length}",
                self.tokens
            ));
        }
        if self.every == 0 || self.steps == 0 || self.decode_steps == 0 {
            return Err("--every, --steps and --decode-steps are at least 1".to_owned());
        }
        self.model(Mixer::Infinity)
            .validate()
            .map_err(|error| error.to_string())
    }

    /// The model that is measured.
    pub(crate) fn model(&self, mixer: Mixer) -> ModelConfig {
        ModelConfig {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            mixer,
            ..ModelConfig::first()
        }
    }
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{key} {value}: not a whole number\n\n{USAGE}"))
}

/// Numbers with commas between them, at least 1 and each above the one before.
fn ascending(key: &str, value: &str) -> Result<Vec<usize>, String> {
    let numbers: Vec<usize> = value
        .split(',')
        .map(|one| number(key, one))
        .collect::<Result<_, _>>()?;
    if numbers[0] == 0 || numbers.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("{key} {value}: positive and ascending\n\n{USAGE}"));
    }
    Ok(numbers)
}
