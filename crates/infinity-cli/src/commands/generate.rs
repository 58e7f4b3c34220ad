//! `infinity generate MODEL -p TEXT`: continue a prompt, token by token.
//!
//! The text goes to standard output as it is made; what it took goes to standard error.

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Args;
use infinity_model::generate::{Context, FinishReason, Generation, generate_from};
use infinity_model::{GenerationConfig, InfinityModel, Precision, Pretrained, Tokenizer};
use serde_json::{Value, json};

use crate::args::{Global, count, whole};
use crate::terminal::{self, errors, signals};
use crate::{device, model_dir};

/// What to continue, with what, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Model directory, the directory of a run, or a checkpoint: RUN/checkpoints/best
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The prompt (default: standard input, or nothing with --state-in)
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the prompt; - is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// How many continuations to make
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    num_samples: u64,
    /// Number formats: f32, bf16-mixed, f16-mixed or bf16-true
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Go on with the text that --state-out kept here
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Keep what the model remembers here, to go on with later; after Ctrl-C too
    #[arg(long, value_name = "FILE", conflicts_with = "num_samples")]
    state_out: Option<PathBuf>,
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
    let Pretrained {
        model,
        tokenizer,
        generation,
        ..
    } = found.load(&chosen.device, global.quiet)?;
    let model = model_dir::in_precision(model, args.precision, global.quiet)?;
    let tokenizer = tokenizer.with_context(|| {
        format!(
            "{} has no tokenizer.json, which text needs",
            args.model.display()
        )
    })?;
    let (config, unused) = args.sampling.over(generation, global.seed)?;
    let dropped = tokenizer.dropped(&prompt)?;
    if !global.quiet {
        unused.iter().for_each(|what| terminal::warning(what));
        if let Some(first) = dropped.first.filter(|_| dropped.check().is_ok()) {
            terminal::warning(&format!(
                "the tokenizer has no token for {} of the prompt's {} characters, {first:?} first: \
                 they are left out",
                dropped.characters, dropped.of
            ));
        }
    }
    let start = match &args.state_in {
        Some(path) => Context::load(path, &model, Some(&tokenizer))?,
        None => Context::new(&model),
    };
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
        let (made, context) = show.generate(&model, &tokenizer, start.clone(), &config)?;
        if let Some(path) = &args.state_out {
            let command = [("command", terminal::command_line())];
            context.save_noting(path, &model, Some(&tokenizer), &command)?;
        }
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
        model: &InfinityModel,
        tokenizer: &Tokenizer,
        start: Context,
        config: &GenerationConfig,
    ) -> anyhow::Result<(Generation, Context)> {
        let args = self.args;
        let streams = !args.no_stream && !args.json;
        let echo = if args.no_echo { "" } else { self.prompt };
        // The prompt comes with the first new text: what is refused before shows nothing.
        let mut owed = Some(echo);
        let mut broken = None;
        let mut on_text = |text: &str| {
            if streams && !text.is_empty() {
                let shown = format!("{}{text}", owed.take().unwrap_or_default());
                broken = terminal::piece(&shown).err();
            }
            match broken.is_some() || self.stop.load(Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let made = generate_from(model, tokenizer, self.prompt, start, config, &mut on_text);
        if made.is_err() && owed.is_none() {
            // The message begins a line of its own.
            terminal::line("")?;
        }
        let (made, context) = made?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        match (args.json, streams) {
            (true, _) => terminal::line(&as_json(self.prompt, &made).to_string())?,
            // Nothing continues a prompt that was not read to its end.
            (_, true) if made.prompt_left > 0 => {}
            (_, true) => terminal::line(owed.unwrap_or_default())?,
            (_, false) => terminal::line(&format!("{echo}{}", made.text))?,
        }
        Ok((made, context))
    }
}

/// The prompt from the flag, a file, or standard input; nothing where a kept text goes on.
fn read_prompt(args: &GenerateArgs) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    let stdin = Path::new("-");
    let path = args.prompt_file.as_deref().unwrap_or(stdin);
    if args.prompt_file.is_none() && args.state_in.is_some() {
        return Ok(String::new());
    }
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
    let name = match path == stdin {
        true => "standard input".into(),
        false => path.to_string_lossy(),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("the prompt in {name} is not UTF-8 text (byte {at})")
    })?;
    // Some programs begin a file with a mark that is no part of its text, as training text is read.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Editors and `echo` end a file with a line break that nobody means as part of the prompt.
    let line = text.strip_suffix('\n');
    let line = line.map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.to_owned())
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
    let read = made.prompt_tokens - made.prompt_left;
    let of = match made.prompt_left {
        0 => String::new(),
        _ => format!(" of {}", made.prompt_tokens),
    };
    format!(
        "prompt: {read}{of} tokens, {:.1} tok/s · decode: {} tokens, {:.1} tok/s · state {} · \
         position {} · {seed} · {ended} · {device}",
        rate(read, made.prefill_s),
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
        "prefill_tok_per_s": rate(made.prompt_tokens - made.prompt_left, made.prefill_s),
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

/// Flags of generation, named as in Hugging Face's tools and llama.cpp. What is not given is as the
/// model's `generation_config.json` says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingFlags {
    /// Most tokens to generate [default: 256]
    #[arg(short = 'n', long, alias = "predict", value_name = "N", value_parser = count)]
    #[arg(conflicts_with = "max_length")]
    max_new_tokens: Option<usize>,
    /// Most tokens of prompt and new text together
    #[arg(long, value_name = "N", value_parser = count)]
    max_length: Option<usize>,
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
    /// `base` with what the flags and the global seed say, checked, and warnings of flags that come
    /// to nothing.
    ///
    /// # Errors
    /// A value out of range, with its key, value and limit.
    fn over(
        &self,
        base: GenerationConfig,
        seed: Option<u64>,
    ) -> anyhow::Result<(GenerationConfig, Vec<String>)> {
        let mut config = base;
        // A limit given here replaces the model's limit of the other kind.
        if self.max_new_tokens.is_some() || self.max_length.is_some() {
            config.max_new_tokens = self.max_new_tokens;
            config.max_length = self.max_length;
        }
        let drawing: Vec<&str> = [
            ("--temperature", self.temperature.is_some_and(|t| t != 0.0)),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect();
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
        put(&mut config.temperature, self.temperature);
        put(&mut config.top_k, self.top_k);
        put(&mut config.top_p, self.top_p);
        put(&mut config.min_p, self.min_p);
        put(&mut config.repetition_penalty, self.repetition_penalty);
        put(&mut config.repeat_last_n, self.repeat_last_n);
        put(&mut config.presence_penalty, self.presence_penalty);
        put(&mut config.frequency_penalty, self.frequency_penalty);
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
        let unused = unused.map(|flag| format!("{flag} does nothing beside {why}"));
        let unused = unused.collect();
        Ok((config, unused))
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

    fn over(base: GenerationConfig, line: &str) -> anyhow::Result<(GenerationConfig, Vec<String>)> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words)?.sampling.over(base, Some(7))
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
