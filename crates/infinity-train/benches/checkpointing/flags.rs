//! The flags of the bench.

use crate::case::Case;
use infinity_model::ModelConfig;
use std::str::FromStr;

const USAGE: &str = "\
flags, each with a value (the default in brackets):
  --layers --hidden --heads --vocab   sizes of the model                  [12 128 4 256]
  --rows --length         the batch of a step                             [1 2048]
  --rounds --steps        rounds (0: none of this), timed steps of each   [3 2]
  --long                  tokens of the long window (0: none)             [1048576]
  --long-layers --long-hidden         the model that reads it             [2 64]
  --check-length          tokens of the window on which it is checked     [8192]";

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) vocab: usize,
    pub(crate) rows: usize,
    pub(crate) length: usize,
    pub(crate) rounds: usize,
    pub(crate) steps: usize,
    pub(crate) long: usize,
    pub(crate) long_layers: usize,
    pub(crate) long_hidden: usize,
    pub(crate) check_length: usize,
    /// Set in child processes.
    pub(crate) case: Option<Case>,
}

impl Flags {
    /// Reads `--key value` pairs.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Flags {
            layers: 12,
            hidden: 128,
            heads: 4,
            vocab: 256,
            rows: 1,
            length: 2048,
            rounds: 3,
            steps: 2,
            long: 1 << 20,
            long_layers: 2,
            long_hidden: 64,
            check_length: 8192,
            case: None,
        };
        // Cargo adds `--bench` to the arguments of every bench.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(key) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{key} has no value\n\n{USAGE}"))?;
            flags.set(&key, &value)?;
        }
        for model in [flags.model(), flags.long_model()] {
            model.validate().map_err(|error| error.to_string())?;
        }
        if [flags.rows, flags.length, flags.steps, flags.check_length].contains(&0) {
            return Err("--rows, --length, --steps and --check-length are at least 1".to_owned());
        }
        Ok(flags)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let field = match key {
            "--layers" => &mut self.layers,
            "--hidden" => &mut self.hidden,
            "--heads" => &mut self.heads,
            "--vocab" => &mut self.vocab,
            "--rows" => &mut self.rows,
            "--length" => &mut self.length,
            "--rounds" => &mut self.rounds,
            "--steps" => &mut self.steps,
            "--long" => &mut self.long,
            "--long-layers" => &mut self.long_layers,
            "--long-hidden" => &mut self.long_hidden,
            "--check-length" => &mut self.check_length,
            "--case" => {
                self.case = Some(Case::from_str(value)?);
                return Ok(());
            }
            _ => return Err(format!("unknown flag {key}\n\n{USAGE}")),
        };
        *field = value
            .parse()
            .map_err(|_| format!("{key} {value}: not a whole number\n\n{USAGE}"))?;
        Ok(())
    }

    /// The model whose ways are compared.
    pub(crate) fn model(&self) -> ModelConfig {
        ModelConfig {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            ..ModelConfig::first()
        }
    }

    /// The model that reads the long window.
    pub(crate) fn long_model(&self) -> ModelConfig {
        ModelConfig {
            hidden_size: self.long_hidden,
            num_hidden_layers: self.long_layers,
            ..self.model()
        }
    }
}
