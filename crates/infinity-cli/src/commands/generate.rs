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

use super::sampling::SamplingFlags;
use crate::args::Global;
use crate::numbers::whole;
use crate::{device, failure, interrupt, model_dir, output};

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
    let interrupt = interrupt::listen("")?;
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
            output::note(&closing_line(&made, &chosen.name, config.is_greedy()));
        }
        if stop.load(Ordering::SeqCst) {
            return Ok(failure::INTERRUPTED);
        }
        // Each continuation has a seed of its own that can be given again.
        seed = Some(made.seed.wrapping_add(1));
        if number + 1 < args.num_samples && !args.json {
            output::line("")?;
        }
    }
    Ok(failure::OK)
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
                broken = output::piece(&shown).err();
            }
            match broken.is_some() || self.stop.load(Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let made = generate(model, tokenizer, self.prompt, config, &mut on_text);
        if made.is_err() && owed.is_none() {
            // The message begins a line of its own.
            output::line("")?;
        }
        let made = made?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        match (args.json, streams) {
            (true, _) => output::line(&as_json(self.prompt, &made).to_string())?,
            (_, true) => output::line(owed.unwrap_or_default())?,
            (_, false) => output::line(&format!("{echo}{}", made.text))?,
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
            return Err(failure::usage(
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
        output::bytes(made.state_bytes as u64),
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
