//! Sampling flags, named as in Hugging Face's tools and llama.cpp, over a model's own settings.

use clap::Args;
use infinity_model::GenerationConfig;

use crate::numbers::count;

/// Flags of generation. What is not given is as the model's `generation_config.json` says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingFlags {
    /// Most tokens to generate [default: 256]
    #[arg(
        short = 'n',
        long,
        alias = "predict",
        value_name = "N",
        conflicts_with = "max_length",
        value_parser = count,
        allow_negative_numbers = true
    )]
    max_new_tokens: Option<usize>,
    /// Most tokens of prompt and new text together
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Below 1 is safer, above 1 wilder, 0 is greedy [default: 0.8]
    #[arg(
        short = 't',
        long,
        alias = "temp",
        value_name = "T",
        allow_negative_numbers = true
    )]
    temperature: Option<f64>,
    /// Keep the K most likely tokens; 0 = all [default: 50]
    #[arg(short = 'k', long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability; 1 = all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Keep tokens with this part of the best one's probability [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Divide the logits of recent tokens [default: 1]
    #[arg(
        long,
        alias = "repeat-penalty",
        value_name = "X",
        allow_negative_numbers = true
    )]
    repetition_penalty: Option<f64>,
    /// Tokens that the penalties look back on [default: 64]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    repeat_last_n: Option<usize>,
    /// Subtract from the logits of recent tokens [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f64>,
    /// Subtract from the logits of recent tokens, once per occurrence [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f64>,
    /// End at this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Draw tokens (true) or take the most likely (false)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = false)]
    #[arg(default_missing_value = "true", conflicts_with = "greedy")]
    do_sample: Option<bool>,
    /// Always take the most likely token
    #[arg(long)]
    greedy: bool,
    /// Go on after the token that ends a text
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingFlags {
    /// `base` with what the flags and the global seed say, checked.
    ///
    /// # Errors
    /// A value out of range, with its key, value and limit.
    pub(crate) fn over(
        &self,
        base: GenerationConfig,
        seed: Option<u64>,
    ) -> anyhow::Result<GenerationConfig> {
        let mut config = base;
        // A limit given here replaces the model's limit of the other kind.
        if self.max_new_tokens.is_some() || self.max_length.is_some() {
            config.max_new_tokens = self.max_new_tokens;
            config.max_length = self.max_length;
        }
        put(&mut config.temperature, self.temperature);
        put(&mut config.top_k, self.top_k);
        put(&mut config.top_p, self.top_p);
        put(&mut config.min_p, self.min_p);
        put(&mut config.repetition_penalty, self.repetition_penalty);
        put(&mut config.repeat_last_n, self.repeat_last_n);
        put(&mut config.presence_penalty, self.presence_penalty);
        put(&mut config.frequency_penalty, self.frequency_penalty);
        put(&mut config.do_sample, self.do_sample);
        config.seed = seed.or(config.seed);
        config.ignore_eos |= self.ignore_eos;
        if !self.stop.is_empty() {
            config.stop.clone_from(&self.stop);
        }
        if self.greedy {
            config = config.greedy();
        }
        config.validate()?;
        Ok(config)
    }
}

fn put<T: Copy>(place: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingFlags,
    }

    fn config(line: &str) -> anyhow::Result<GenerationConfig> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words)?
            .sampling
            .over(GenerationConfig::default(), Some(7))
    }

    #[test]
    fn the_original_projects_values_can_be_given() {
        let line = "--max-length 100 --temperature 0.9 --top-k 50 --top-p 0.95 --do-sample true";
        let config = config(line).unwrap();
        assert_eq!(
            (config.max_length, config.max_new_tokens),
            (Some(100), None)
        );
        assert_eq!(
            (config.temperature, config.top_k, config.top_p),
            (0.9, 50, 0.95)
        );
        assert!(config.do_sample && !config.is_greedy());
        assert_eq!(config.seed, Some(7));
    }

    #[test]
    fn greedy_has_three_spellings() {
        for line in ["--greedy", "--do-sample false", "--temperature 0"] {
            assert!(config(line).unwrap().is_greedy(), "{line}");
        }
        assert!(!config("").unwrap().is_greedy());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "--top-p 1.5",
            "--temperature nan",
            "-n 0",
            "--min-p 1",
            "-n 3 --max-length 4",
        ] {
            assert!(config(line).is_err(), "{line}");
        }
    }
}
