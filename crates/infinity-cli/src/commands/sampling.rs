//! Flags of generation, for every verb that generates: how tokens are drawn, and how many.

use clap::Args;
use infinity_model::GenerationConfig;

use crate::args::count;
use crate::terminal;

/// How much is generated.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct LimitFlags {
    /// Most tokens to generate [default: 256]
    #[arg(short = 'n', long, alias = "predict", value_name = "N", value_parser = count)]
    #[arg(conflicts_with = "max_length")]
    max_new_tokens: Option<usize>,
    /// Most tokens of prompt and new text together
    #[arg(long, value_name = "N", value_parser = count)]
    max_length: Option<usize>,
}

impl LimitFlags {
    /// `base` with what the flags say: a limit given here replaces the model's limit of the other kind.
    pub(crate) fn over(&self, mut base: GenerationConfig) -> GenerationConfig {
        if self.max_new_tokens.is_some() || self.max_length.is_some() {
            base.max_new_tokens = self.max_new_tokens;
            base.max_length = self.max_length;
        }
        base
    }
}

/// Flags of generation, named as in Hugging Face's tools and llama.cpp. What is not given is as the
/// model's `generation_config.json` says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingFlags {
    /// Below 1 is safer, above 1 wilder, 0 is greedy [default: 0.8]
    #[arg(short = 't', long, alias = "temp", value_name = "T")]
    temperature: Option<f64>,
    /// Keep the K most likely tokens; 0 = all [default: 50]
    #[arg(short = 'k', long, value_name = "K", value_parser = count)]
    top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability; 1 = all [default: 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Keep tokens with this part of the best one's probability [default: 0]
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Divide the logits of recent tokens [default: 1]
    #[arg(long, alias = "repeat-penalty", value_name = "X")]
    repetition_penalty: Option<f64>,
    /// Tokens that the penalties look back on [default: 64]
    #[arg(long, value_name = "N", value_parser = count)]
    repeat_last_n: Option<usize>,
    /// Subtract from the logits of recent tokens [default: 0]
    #[arg(long, value_name = "X")]
    presence_penalty: Option<f64>,
    /// Subtract from the logits of recent tokens, once per occurrence [default: 0]
    #[arg(long, value_name = "X")]
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
    /// `base` with what the flags and the global seed say, checked; warns of flags that come to nothing.
    pub(crate) fn over(
        &self,
        base: GenerationConfig,
        seed: Option<u64>,
    ) -> anyhow::Result<GenerationConfig> {
        let (config, unused) = self.layered(base, seed)?;
        unused.iter().for_each(|what| terminal::warning(what));
        Ok(config)
    }

    fn layered(
        &self,
        mut config: GenerationConfig,
        seed: Option<u64>,
    ) -> anyhow::Result<(GenerationConfig, Vec<String>)> {
        let mut drawing = vec![
            ("--temperature", self.temperature.is_some_and(|t| t != 0.0)),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
        ];
        drawing.retain(|(_, given)| *given);
        // Who says how to draw wants to draw, whatever the model's own settings are.
        let wants = self.do_sample == Some(true) || !drawing.is_empty();
        if wants && self.temperature.is_none() && config.temperature == 0.0 {
            config.temperature = GenerationConfig::default().temperature;
        }
        config.do_sample = match (self.greedy, self.do_sample) {
            (true, _) => false,
            (_, Some(given)) => given,
            _ => config.do_sample || wants,
        };
        config.temperature = self.temperature.unwrap_or(config.temperature);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.min_p = self.min_p.unwrap_or(config.min_p);
        config.repetition_penalty = self.repetition_penalty.unwrap_or(config.repetition_penalty);
        config.repeat_last_n = self.repeat_last_n.unwrap_or(config.repeat_last_n);
        config.presence_penalty = self.presence_penalty.unwrap_or(config.presence_penalty);
        config.frequency_penalty = self.frequency_penalty.unwrap_or(config.frequency_penalty);
        config.seed = seed.or(config.seed);
        config.ignore_eos |= self.ignore_eos;
        if !self.stop.is_empty() {
            config.stop.clone_from(&self.stop);
        }
        config.validate()?;
        let why = match (self.greedy, self.do_sample) {
            (true, _) => "--greedy",
            (_, Some(false)) => "--do-sample false",
            _ => "--temperature 0",
        };
        let unused = drawing.iter().filter(|_| config.is_greedy());
        let unused = unused.map(|(flag, _)| format!("{flag} does nothing beside {why}"));
        let unused = unused.collect();
        Ok((config, unused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limit: LimitFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    }

    fn over(base: GenerationConfig, line: &str) -> anyhow::Result<(GenerationConfig, Vec<String>)> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words)?;
        line.sampling.layered(line.limit.over(base), Some(7))
    }

    fn config(line: &str) -> anyhow::Result<GenerationConfig> {
        over(GenerationConfig::default(), line).map(|(config, _)| config)
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
    fn a_flag_that_says_how_to_draw_beats_a_model_that_does_not() {
        let greedy = GenerationConfig::default().greedy();
        let cold = GenerationConfig {
            temperature: 0.0,
            ..GenerationConfig::default()
        };
        for line in [
            "--temperature 1.5",
            "--top-k 5",
            "--top-p 0.9",
            "--min-p 0.1",
            "--do-sample",
        ] {
            for base in [&greedy, &cold] {
                let (config, unused) = over(base.clone(), line).unwrap();
                assert!(
                    !config.is_greedy() && unused.is_empty(),
                    "{line}: {config:?}"
                );
            }
        }
        assert_eq!(
            over(cold.clone(), "--temperature 1.5")
                .unwrap()
                .0
                .temperature,
            1.5
        );
        for line in [
            "",
            "--repetition-penalty 1.1",
            "--temperature 0",
            "--greedy",
        ] {
            assert!(over(greedy.clone(), line).unwrap().0.is_greedy(), "{line}");
        }
        for (line, words) in [
            (
                "--greedy --top-p 0.5",
                "--top-p does nothing beside --greedy",
            ),
            (
                "--do-sample false -t 2",
                "--temperature does nothing beside --do-sample false",
            ),
            ("-t 0 -k 5", "--top-k does nothing beside --temperature 0"),
        ] {
            let (config, unused) = over(GenerationConfig::default(), line).unwrap();
            assert!(config.is_greedy(), "{line}");
            assert_eq!(unused, [words], "{line}");
        }
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
