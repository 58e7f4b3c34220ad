//! `infinity generate MODEL -p TEXT`: continue a prompt, token by token.
//!
//! The text goes to standard output as it is made; what it took goes to standard error.

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use infinity_model::generate::{FinishReason, Generation};
use infinity_model::{GenerationConfig, Precision, Pretrained, Tokenizer, generate};
use serde_json::{Value, json};

use crate::args::{Global, count, whole};
use crate::terminal::{self, errors, signals};
use crate::{device, model_dir};

/// What to continue, with what, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Model directory, the directory of a finished run, or a checkpoint: RUN/checkpoints/best
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The prompt (default: standard input)
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the prompt; - is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// How many continuations to make
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX), allow_negative_numbers = true)]
    num_samples: u64,
    /// Number formats: f32, bf16-mixed, f16-mixed or bf16-true
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Show the text when it is finished, not token by token
    #[arg(long)]
    no_stream: bool,
    /// Show the new text only, without the prompt
    #[arg(long)]
    no_echo: bool,
    /// Print one JSON object per continuation
    #[arg(long)]
    json: bool,
}

/// Generates and prints.
pub(crate) fn run(args: GenerateArgs, global: &Global) -> anyhow::Result<u8> {
    let found = model_dir::find(&args.model)?;
    let prompt = read_prompt(&args)?;
    let chosen = device::open(&device::wanted(global))?;
    let loaded = found.load(&chosen.device, global.quiet)?;
    let Pretrained {
        model,
        tokenizer,
        generation,
        ..
    } = loaded;
    let model = model_dir::in_precision(model, args.precision, global.quiet)?;
    let tokenizer = tokenizer.with_context(|| {
        format!(
            "{} has no tokenizer.json, which text needs",
            args.model.display()
        )
    })?;
    let config = args.sampling.over(generation, global.seed)?;
    let interrupt = signals::listen("")?;
    interrupt.heeded.store(true, Ordering::SeqCst);
    let stop = interrupt.asked;
    let mut seed = config.seed;
    for number in 0..args.num_samples {
        let config = GenerationConfig {
            seed,
            ..config.clone()
        };
        let show = Show {
            args: &args,
            prompt: &prompt,
            stop: &stop,
        };
        let made = show.generate(&model, &tokenizer, &config)?;
        if !global.quiet && !args.json {
            terminal::note(&closing_line(&made, &chosen.name, config.is_greedy()));
        }
        if stop.load(Ordering::SeqCst) {
            return Ok(errors::INTERRUPTED);
        }
        // Each continuation has a seed of its own that can be given again.
        seed = Some(made.seed.wrapping_add(1));
        if number + 1 < args.num_samples && !args.json {
            terminal::line("")?;
        }
    }
    Ok(errors::OK)
}

/// How one continuation is shown.
struct Show<'a> {
    args: &'a GenerateArgs,
    prompt: &'a str,
    stop: &'a AtomicBool,
}

impl Show<'_> {
    fn generate(
        &self,
        model: &infinity_model::InfinityModel,
        tokenizer: &Tokenizer,
        config: &GenerationConfig,
    ) -> anyhow::Result<Generation> {
        let args = self.args;
        let streams = !args.no_stream && !args.json;
        let echo = if args.no_echo { "" } else { self.prompt };
        // The prompt comes with the first new text: what is refused before shows nothing.
        let mut owed = Some(echo);
        let mut broken = None;
        let mut on_text = |text: &str| {
            if streams {
                let shown = format!("{}{text}", owed.take().unwrap_or_default());
                broken = terminal::piece(&shown).err();
            }
            match broken.is_some() || self.stop.load(Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let made = generate(model, tokenizer, self.prompt, config, &mut on_text);
        if made.is_err() && owed.is_none() {
            // The message begins a line of its own.
            terminal::line("")?;
        }
        let made = made?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        match (args.json, streams) {
            (true, _) => terminal::line(&as_json(self.prompt, &made).to_string())?,
            (_, true) => terminal::line(owed.unwrap_or_default())?,
            (_, false) => terminal::line(&format!("{echo}{}", made.text))?,
        }
        Ok(made)
    }
}

/// The prompt from the flag, a file, or standard input.
fn read_prompt(args: &GenerateArgs) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    let stdin = Path::new("-");
    let path = args.prompt_file.as_deref().unwrap_or(stdin);
    let mut bytes = Vec::new();
    if path == stdin {
        if args.prompt_file.is_none() && io::stdin().is_terminal() {
            return Err(errors::usage(
                "no prompt: give -p TEXT, -f FILE, or text on standard input",
            ));
        }
        io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(path)
            .with_context(|| format!("cannot read the prompt {}", path.display()))?;
    }
    let name = if path == stdin {
        "standard input".into()
    } else {
        path.to_string_lossy()
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("the prompt in {name} is not UTF-8 text (byte {at})")
    })?;
    // Some programs begin a file with a mark that is no part of its text, as training text is read.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    // Editors and `echo` end a file with a line break that nobody means as part of the prompt.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// `prompt: 12 tokens, 1534.2 tok/s · decode: 256 tokens, 211.7 tok/s · state 1.6 MiB ·
/// position 268 · …`.
fn closing_line(made: &Generation, device: &str, greedy: bool) -> String {
    let seed = if greedy {
        "greedy".to_owned()
    } else {
        format!("seed {}", made.seed)
    };
    let ended = match made.finish {
        FinishReason::Length => "length",
        FinishReason::Eos => "end of text",
        FinishReason::Stop => "stop string",
        FinishReason::Interrupted => "interrupted",
    };
    format!(
        "prompt: {} tokens, {:.1} tok/s · decode: {} tokens, {:.1} tok/s · state {} · position {} \
         · {seed} · {ended} · {device}",
        made.prompt_tokens,
        rate(made.prompt_tokens, made.prefill_s),
        made.tokens.len(),
        rate(made.tokens.len(), made.decode_s),
        terminal::bytes(made.state_bytes as u64),
        made.position,
    )
}

fn as_json(prompt: &str, made: &Generation) -> Value {
    json!({
        "prompt": prompt,
        "text": made.text,
        "tokens": made.tokens,
        "prompt_tokens": made.prompt_tokens,
        "finish": made.finish.to_string(),
        "seed": made.seed,
        "prefill_tok_per_s": rate(made.prompt_tokens, made.prefill_s),
        "decode_tok_per_s": rate(made.tokens.len(), made.decode_s),
        "state_bytes": made.state_bytes,
        "position": made.position,
    })
}

/// Tokens per second, 0 when there is nothing to measure.
fn rate(tokens: usize, seconds: f64) -> f64 {
    match tokens as f64 / seconds {
        rate if rate.is_finite() => rate,
        _ => 0.0,
    }
}

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
