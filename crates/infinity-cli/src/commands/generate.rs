//! `infinity generate MODEL -p TEXT`: continue a prompt, token by token.
//!
//! The text goes to standard output as it is made; what it took goes to standard error.

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Args;
use infinity_model::compression::Width;
use infinity_model::generate::{Context, FinishReason, Generation, Identity, generate_from};
use infinity_model::state_file::SavedSize;
use infinity_model::{GenerationConfig, InfinityModel, Precision, Pretrained, Tokenizer};
use serde_json::{Value, json};

use super::sampling::{LimitFlags, SamplingFlags};
use crate::args::{Global, MemoryFlags, whole};
use crate::device;
use crate::model_dir::{self, ModelArgs};
use crate::terminal::signals::{self, Heeding};
use crate::terminal::{self, errors};

/// What to continue, with what, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    of: ModelArgs,
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
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
    #[command(flatten)]
    limit: LimitFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Go on with the text that --state-out kept here
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Keep what the model remembers here, to go on with later; after Ctrl-C too
    #[arg(long, value_name = "FILE", conflicts_with = "num_samples")]
    state_out: Option<PathBuf>,
    /// Keep it in 8 or 4 bits a number instead of exactly
    #[arg(long, value_name = "BITS", requires = "state_out", value_parser = bits)]
    compress: Option<Width>,
    #[command(flatten)]
    memory: MemoryFlags,
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
    let found = args.of.find()?;
    if let Some(path) = &args.state_out {
        model_dir::can_hold("--state-out", path)?;
    }
    let prompt = read_prompt(&args)?;
    let chosen = device::open(&device::wanted(global))?;
    let Pretrained {
        model,
        tokenizer,
        generation,
        ..
    } = model_dir::load(&found, args.precision, &chosen.device, global.quiet)?;
    let model = args.memory.on(model)?;
    let tokenizer = model_dir::needed(tokenizer, &args.of.model)?;
    let (config, unused) = args
        .sampling
        .over(args.limit.over(generation), global.seed)?;
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
    let mut heeding = Heeding::on(&chosen.device, &interrupt);
    heeding.begin();
    let stop = interrupt.asked;
    let mut seed = config.seed;
    for number in 0..args.num_samples {
        let config = GenerationConfig {
            seed,
            ..config.clone()
        };
        let mut show = Show {
            args: &args,
            prompt: &prompt,
            stop: &stop,
            heeding: &mut heeding,
        };
        let (made, context) = show.generate(&model, &tokenizer, start.clone(), &config)?;
        if let Some(path) = &args.state_out {
            let notes = [("command", terminal::command_line())];
            let identity = Identity::of(&model, Some(&tokenizer));
            let size = context.save_in(path, &model, &identity, &notes, args.compress)?;
            if let (Some(bits), false) = (args.compress, global.quiet) {
                terminal::note(&kept(bits, size));
            }
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

/// The widths of a file.
fn bits(text: &str) -> Result<Width, String> {
    match text.parse() {
        Ok(width @ (Width::Four | Width::Eight)) => Ok(width),
        _ => Err("it must be 8 or 4".to_owned()),
    }
}

/// What was kept, and what it would be exactly.
fn kept(bits: Width, size: SavedSize) -> String {
    let ratio = |[exact, kept]: [usize; 2]| exact as f64 / kept as f64;
    format!(
        "kept in {bits} bits: memory {} in {} ({:.2} times), file {} in {} ({:.2} times)",
        terminal::bytes(size.memory[0] as u64),
        terminal::bytes(size.memory[1] as u64),
        ratio(size.memory),
        terminal::bytes(size.file[0] as u64),
        terminal::bytes(size.file[1] as u64),
        ratio(size.file),
    )
}

/// How one continuation is shown.
struct Show<'a> {
    args: &'a GenerateArgs,
    prompt: &'a str,
    stop: &'a AtomicBool,
    heeding: &'a mut Heeding,
}

impl Show<'_> {
    fn generate(
        &mut self,
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
            self.heeding.step();
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
pub(super) fn rate(tokens: usize, seconds: f64) -> f64 {
    match tokens as f64 / seconds {
        rate if rate.is_finite() => rate,
        _ => 0.0,
    }
}
