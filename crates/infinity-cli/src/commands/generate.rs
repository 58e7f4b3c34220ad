//! `infinity generate MODEL -p TEXT`: continue a prompt, token by token.
//!
//! The text goes to standard output as it is made; what it took goes to standard error.

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use infinity_model::compression::Width;
use infinity_model::generate::{Context, FinishReason, Generation, Identity, generate_from};
use infinity_model::state_file::SavedSize;
use infinity_model::{GenerateError, Precision};
use serde_json::{Value, json};

use super::sampling::{LimitFlags, SamplingFlags};
use crate::args::{Global, MemoryFlags, whole};
use crate::model_dir::{self, ModelArgs};
use crate::terminal::signals::Heeding;
use crate::terminal::{self, errors, refuse};

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
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>(1..=u64::MAX))]
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

pub(crate) fn run(args: GenerateArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    model_dir::can_hold("--state-out", args.state_out.as_ref())?;
    let prompt = read_prompt(&args)?;
    let (chosen, loaded) = model_dir::load(&found, args.precision, global)?;
    let model = args.memory.on(loaded.model)?;
    let tokenizer = model_dir::needed(loaded.tokenizer, &args.of.model)?;
    let base = args.limit.over(loaded.generation);
    let dropped = tokenizer.dropped(&prompt)?;
    let mut config = args.sampling.over(base, global.seed)?;
    if let Some(first) = dropped.first.filter(|_| dropped.check().is_ok()) {
        terminal::warning(&format!(
            "the tokenizer has no token for {} of the prompt's {} characters, {first:?} first: \
             they are left out",
            dropped.characters, dropped.of
        ));
    }
    let start = match &args.state_in {
        Some(path) => Context::load(path, &model, Some(&tokenizer))?,
        None => Context::new(&model),
    };
    let mut heeding = Heeding::listen(&chosen.device)?;
    heeding.begin();
    for number in 0..args.num_samples {
        let (made, context) = shown(&args, &prompt, &mut heeding, |on_text| {
            generate_from(&model, &tokenizer, &prompt, start.clone(), &config, on_text)
        })?;
        if let Some(path) = &args.state_out {
            let notes = [("command", terminal::command_line())];
            let identity = Identity::of(&model, Some(&tokenizer));
            let size = context.save_in(path, &identity, &notes, args.compress)?;
            if let Some(bits) = args.compress {
                terminal::remark(&kept(bits, size));
            }
        }
        if !args.json {
            terminal::remark(&closing_line(&made, &chosen.name, config.is_greedy()));
        }
        if heeding.stops() {
            return errors::ended(errors::INTERRUPTED);
        }
        // Each continuation has a seed of its own that can be given again.
        config.seed = Some(made.seed.wrapping_add(1));
        if number + 1 < args.num_samples && !args.json {
            terminal::line("")?;
        }
    }
    Ok(())
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
    let [memory, file] = [size.memory, size.file].map(|[exact, kept]| {
        let ratio = exact as f64 / kept as f64;
        let [exact, kept] = [exact, kept].map(|bytes| terminal::bytes(bytes as u64));
        format!("{exact} in {kept} ({ratio:.2} times)")
    });
    format!("kept in {bits} bits: memory {memory}, file {file}")
}

/// Shows the continuation of `prompt` that `make` makes, piece by piece or as a whole.
fn shown(
    args: &GenerateArgs,
    prompt: &str,
    heeding: &mut Heeding,
    make: impl FnOnce(
        &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(Generation, Context), GenerateError>,
) -> anyhow::Result<(Generation, Context)> {
    let streams = !args.no_stream && !args.json;
    let echo = if args.no_echo { "" } else { prompt };
    // The prompt comes with the first new text: what is refused before shows nothing.
    let mut owed = Some(echo);
    let made = make(&mut |text| {
        heeding.step();
        if !streams || text.is_empty() {
            return heeding.going_on();
        }
        heeding.show(&format!("{}{text}", owed.take().unwrap_or_default()))
    });
    if made.is_err() && owed.is_none() {
        // The message begins a line of its own.
        terminal::line("")?;
    }
    let (made, context) = made?;
    heeding.shown()?;
    match (args.json, streams) {
        (true, _) => terminal::line(as_json(prompt, &made))?,
        // Nothing continues a prompt that was not read to its end.
        (_, true) if made.prompt_left > 0 => {}
        (_, true) => terminal::line(owed.unwrap_or_default())?,
        (_, false) => terminal::line(format!("{echo}{}", made.text))?,
    }
    Ok((made, context))
}

/// The prompt from the flag, a file, or standard input; nothing where a kept text goes on.
fn read_prompt(args: &GenerateArgs) -> anyhow::Result<String> {
    let path = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => return Ok(prompt.clone()),
        (_, Some(path)) => path,
        _ if args.state_in.is_some() => return Ok(String::new()),
        _ if io::stdin().is_terminal() => {
            refuse!("no prompt: give -p TEXT, -f FILE, or text on standard input");
        }
        _ => Path::new("-"),
    };
    let (name, bytes) = match path == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            let read = io::stdin().read_to_end(&mut bytes);
            ("standard input".to_owned(), read.map(|_| bytes))
        }
        false => (path.display().to_string(), std::fs::read(path)),
    };
    let bytes = bytes.with_context(|| format!("cannot read the prompt from {name}"))?;
    let text = terminal::utf8(bytes, &format!("the prompt in {name}"))?;
    // Some programs begin a file with a mark that is no part of its text, as training text is read.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Editors and `echo` end a file with a line break that nobody means as part of the prompt.
    let line = text.strip_suffix('\n');
    let line = line.map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.to_owned())
}

fn closing_line(made: &Generation, device: &str, greedy: bool) -> String {
    let seed = match greedy {
        true => "greedy".to_owned(),
        false => format!("seed {}", made.seed),
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
    let (new, position) = (made.tokens.len(), made.position);
    let [reads, writes] = [rate(read, made.prefill_s), rate(new, made.decode_s)];
    let state = terminal::bytes(made.state_bytes as u64);
    format!(
        "prompt: {read}{of} tokens, {reads:.1} tok/s · decode: {new} tokens, {writes:.1} tok/s · state {state} · \
         position {position} · {seed} · {ended} · {device}"
    )
}

fn as_json(prompt: &str, made: &Generation) -> Value {
    json!({
        "prompt": prompt, "text": made.text, "tokens": made.tokens,
        "prompt_tokens": made.prompt_tokens, "finish": made.finish.to_string(), "seed": made.seed,
        "prefill_tok_per_s": rate(made.prompt_tokens - made.prompt_left, made.prefill_s),
        "decode_tok_per_s": rate(made.tokens.len(), made.decode_s),
        "state_bytes": made.state_bytes, "position": made.position,
    })
}

/// Tokens per second, 0 when there is nothing to measure.
pub(super) fn rate(tokens: usize, seconds: f64) -> f64 {
    match tokens as f64 / seconds {
        rate if rate.is_finite() => rate,
        _ => 0.0,
    }
}
