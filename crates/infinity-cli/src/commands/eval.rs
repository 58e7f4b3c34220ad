//! `infinity eval MODEL`: loss, perplexity and bits per byte of a model on a text; with `--stream`
//! the loss along one long text, bin by bin, with all of it behind every token and with a limited
//! context behind the same tokens.

#[path = "eval_compression.rs"]
mod compression;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_model::count::{ParameterCount, state_bytes};
use infinity_model::generate::Identity;
use infinity_model::{Context as Text, ModelConfig, Precision, Tokenizer};
use infinity_train::config::RunConfig;
use infinity_train::data::{self, DataConfig, EvalSource, Packing, TokenStore};
use infinity_train::evaluate::StreamBin;
use infinity_train::{EvalReport, StreamOptions, StreamReport, evaluate, evaluate_stream_from};
use serde_json::{Value, json};

use super::eval_task::{self, Run};
use super::flags::over;
use crate::args::{Global, MemoryFlags, count, whole};
use crate::model_dir::{self, Found, ModelArgs};
use crate::terminal::progress::perplexity;
use crate::terminal::{self, refuse, signals};

#[derive(Debug, Default, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) of: ModelArgs,
    /// Text to measure on (default: what the run validated on)
    #[arg(long, alias = "validation-file", value_name = "PATH")]
    pub(crate) file: Option<String>,
    /// Carry the state from one window to the next, as when reading a long text
    #[arg(long)]
    pub(crate) stateful: bool,
    /// Tokens of a window (default: as in training); a shorter text is one window
    #[arg(long, value_name = "N")]
    pub(crate) max_seq_length: Option<String>,
    /// Rows computed together
    #[arg(short, long, alias = "per-device-eval-batch-size", value_name = "N")]
    pub(crate) batch_size: Option<String>,
    /// Batches to measure on; 0 = all
    #[arg(long, value_name = "N")]
    pub(crate) max_eval_batches: Option<String>,
    /// Column or key of the text in .csv and .jsonl
    #[arg(long, value_name = "NAME", requires = "file")]
    pub(crate) text_column: Option<String>,
    /// Where tokenized text is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<String>,
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights (default: as in training)
    #[arg(long, alias = "dtype", value_name = "FORMAT")]
    pub(crate) precision: Option<Precision>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryFlags,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    #[command(flatten)]
    pub(crate) task: eval_task::TaskArgs,
}

pub(crate) fn run(args: EvalArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    let mut config = config(&args, &found)?;
    eval_task::check(&args.task, &config, args.file.as_deref())?;
    model_dir::can_hold("--state-out", args.stream.state_out.as_ref())?;
    if args.stream.stream
        && let Some(task) = config.data.source.task()
    {
        refuse!(
            "--stream: this model learned `data.source = \"{task}\"`, whose rows are no stream; give --file PATH"
        );
    }
    signals::ends()?;
    let precision = args.precision.unwrap_or(config.run.precision);
    let (chosen, loaded) = model_dir::load(&found, precision, global)?;
    let (model, tokenizer) = (args.memory.on(loaded.model)?, loaded.tokenizer.as_ref());
    // Texts of a model that others trained begin as its own reader has them begin.
    config.tokenizer.add_special_tokens |=
        args.file.is_some() && tokenizer.is_some_and(Tokenizer::adds_special_tokens);
    let made = args.task.task.is_some_and(|task| task.source().is_some());
    let text = (!made).then(|| text(&args, &config, global)).transpose()?;
    if let (None, Some(text)) = (args.task.task, &text) {
        let longest = longest_window(&args, text)?;
        config.data.max_seq_length = config.data.max_seq_length.min(longest);
    }
    let run = Run {
        json: args.json,
        model: &model,
        tokenizer,
        config: &config,
        device: &chosen.name,
    };
    if let Some(task) = args.task.task {
        return eval_task::run(&args.task, task, text.as_ref(), &run);
    }
    let text = text.expect("read where no task makes rows");
    if args.stream.stream {
        return run_stream(&args.stream, &text, &run);
    }
    let rows = config.training.per_device_eval_batch_size;
    let window = config.data.max_seq_length;
    let source = EvalSource::new(text, rows, window, config.eval.carry_state)?;
    let source = source.limited(config.eval.max_batches);
    warn_of_growth(model.config(), &source, window);
    let report = evaluate(&model, &source, config.training.loss_chunk)?;
    print(&run, &report)
}

/// The state of a model with full layers is their cache, which has every token in it.
fn warn_of_growth(model: &ModelConfig, source: &EvalSource, window: usize) {
    let Some(setting) = model.grows_by().filter(|_| source.carry()) else {
        return;
    };
    let (tokens, rows) = (source.batches() * window as u64, source.rows());
    let cache = terminal::bytes(state_bytes(model, rows, tokens));
    let tokens = terminal::grouped(tokens);
    terminal::warning(&format!(
        "`{setting}` keeps every token of a carried state: its cache grows to {cache} \
         over {tokens} tokens in each of {rows} rows, and every further token looks at all of its row"
    ));
}

/// The run's configuration, or the defaults with the model's window, under the flags.
fn config(args: &EvalArgs, found: &Found) -> anyhow::Result<RunConfig> {
    let window = &args.max_seq_length;
    let (rows, batches) = (&args.batch_size, &args.max_eval_batches);
    let flags = [
        ("--max-seq-length", "data.max_seq_length", window),
        ("--batch-size", "training.per_device_eval_batch_size", rows),
        ("--max-eval-batches", "eval.max_batches", batches),
        ("--cache-dir", "data.cache_dir", &args.cache_dir),
    ];
    let mut config = over(found.layers()?, flags)?.resolve()?.config;
    // Not as a layer: a run must not carry what grows, but whoever asks to see it here may.
    config.eval.carry_state |= args.stateful;
    if let Some(template) = found.chat_template()
        && !config.data.messages_column.is_empty()
    {
        // What it learned from is written as it was, wherever this is started.
        config.data.chat_template = template.display().to_string();
    }
    if let Some(file) = &args.file {
        config.data = of_one_file(&config, file, args.text_column.as_deref());
        config.tokenizer.kind = data::TokenizerKind::File;
        config.tokenizer.path = found.tokenizer()?;
        config.tokenizer.train_bpe = 0;
    }
    Ok(config)
}

/// All of `file` as one split, which [`text`] then takes.
fn of_one_file(config: &RunConfig, file: &str, column: Option<&str>) -> DataConfig {
    let mut data = DataConfig {
        train_file: file.into(),
        val_fraction: Some(0.0),
        max_seq_length: config.data.max_seq_length,
        cache_dir: config.data.cache_dir.clone(),
        ..DataConfig::default()
    };
    let mut ends = [".jsonl", ".ndjson", ".json"].iter();
    if let Some(column) = column {
        data.text_column = column.to_owned();
    } else if ends.any(|end| file.ends_with(end)) {
        // A model of conversations is measured on them, where a file may hold some.
        (data.messages_column).clone_from(&config.data.messages_column);
        data.chat_template.clone_from(&config.data.chat_template);
    }
    data
}

fn text(args: &EvalArgs, config: &RunConfig, global: &Global) -> anyhow::Result<TokenStore> {
    let of_files = config.data.source == data::DataSource::Files;
    if args.file.is_none() && of_files && config.data.train_file.as_os_str().is_empty() {
        refuse!("no text to measure on: this model lies in no run directory; give --file PATH");
    }
    if let Some(file) = &args.file
        && let Err(why) = Path::new(file).metadata()
    {
        let why = match why.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file or directory {file}"),
            _ => format!("{file}: {why}"),
        };
        refuse!("cannot read the text to measure on: {why}");
    }
    let mut notify = |line: String| {
        if global.verbose > 0 {
            terminal::note(&line);
        }
    };
    // Training asks for windows that the text fills; measuring takes what there is.
    let data = match config.data.source.task() {
        Some(_) => config.data.clone(),
        None => DataConfig {
            max_seq_length: 1,
            packing: Packing::Documents,
            // How a run passes states on is refused beside other windows than its own.
            initial_state: Default::default(),
            ..config.data.clone()
        },
    };
    let prepared = data::prepare(&data, &config.tokenizer, &mut notify)
        .context("cannot read the text to measure on")?;
    if args.file.is_some() {
        return Ok(prepared.train);
    }
    if prepared.valid.is_empty() {
        refuse!(
            "no text to measure on: this run kept none for validation (`data.val_fraction = 0`); \
             give --file PATH"
        );
    }
    Ok(prepared.valid)
}

/// Tokens of the longest window that the text has: a window's last target is one token further.
fn longest_window(args: &EvalArgs, text: &TokenStore) -> anyhow::Result<usize> {
    let what = match &args.file {
        Some(file) => format!("the text {file}"),
        None => "the validation text of the run".to_owned(),
    };
    let tokens = text.len();
    if tokens < 2 {
        refuse!(
            "{what} has {tokens} tokens, but measuring needs at least 2: one to predict, and one \
             before it"
        );
    }
    Ok(usize::try_from(tokens - 1).unwrap_or(usize::MAX))
}

fn print(run: &Run<'_>, report: &EvalReport) -> anyhow::Result<()> {
    let (window, device) = (run.config.data.max_seq_length, run.device);
    let stateful = run.config.eval.carry_state;
    if run.json {
        return terminal::line(json!({
            "loss": report.loss, "perplexity": report.perplexity,
            "bits_per_byte": report.bits_per_byte, "tokens": report.tokens,
            "bytes": report.bytes, "seconds": report.seconds,
            "window": window, "stateful": stateful, "device": device,
        }));
    }
    let carried = match stateful {
        true => "state carried from window to window",
        false => "each on its own",
    };
    let (loss, bpb, seconds) = (report.loss, report.bits_per_byte, report.seconds);
    let ppl = perplexity(report.perplexity);
    let tokens = terminal::grouped(report.tokens);
    terminal::line(format!(
        "loss {loss:.4} | ppl {ppl} | bpb {bpb:.4} | {tokens} tokens in windows of {window}, {carried} | \
         {seconds:.1}s on {device}"
    ))
}

/// How a stream is measured.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "One long stream")]
pub(crate) struct StreamArgs {
    /// Measure along the text by bins of positions: with all of it behind every token, and with
    /// the tokens of --against-context alone
    #[arg(long, conflicts_with_all = ["stateful", "max_eval_batches"])]
    pub(crate) stream: bool,
    /// Bins of equal numbers of tokens
    #[arg(long, value_name = "N", default_value_t = 20, requires = "stream", value_parser = count)]
    bins: usize,
    /// Tokens behind the first token of a span, for the comparison
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "stream", value_parser = count)]
    against_context: usize,
    /// Tokens of a span: the last one has N − 1 more behind it than the first
    #[arg(long, value_name = "N", default_value_t = 512, requires = "stream", value_parser = count)]
    span: usize,
    /// Spans compared in a bin, evenly spread; 0 = all
    #[arg(long, value_name = "N", default_value_t = 16, requires = "stream", value_parser = count)]
    spans_per_bin: usize,
    /// Tokens of the stream, from the start of the text; 0 = all of it
    #[arg(long, value_name = "N", requires = "stream", value_parser = whole::<u64>(0..=u64::MAX))]
    limit_tokens: Option<u64>,
    /// Go on from what --state-out kept: the text comes after all that was read before
    #[arg(long, value_name = "FILE", requires = "stream")]
    state_in: Option<PathBuf>,
    /// Keep what the model remembers after the stream here
    #[arg(long, value_name = "FILE", requires = "stream")]
    state_out: Option<PathBuf>,
}

/// Tokens that a model which keeps all of them reads without being told to.
const KEPT_TOKENS: u64 = 1 << 16;

fn run_stream(args: &StreamArgs, text: &TokenStore, run: &Run<'_>) -> anyhow::Result<()> {
    refuse_what_grows(args, run.model.config(), text.len())?;
    let options = StreamOptions {
        tokens: args.limit_tokens.unwrap_or(0),
        bins: args.bins,
        context: args.against_context,
        span: args.span,
        spans_per_bin: args.spans_per_bin,
        window: run.config.data.max_seq_length,
        rows: run.config.training.per_device_eval_batch_size,
        loss_chunk: run.config.training.loss_chunk,
    };
    let mut context = match &args.state_in {
        Some(path) => Text::load(path, run.model, run.tokenizer)?,
        None => Text::new(run.model),
    };
    if context.position() > 0 {
        let before = terminal::grouped(context.position());
        terminal::remark(&format!(
            "going on after {before} tokens that were read before"
        ));
    }
    let (state, progress) = (context.state.clone(), &mut terminal::progress::reading());
    let (report, state) = evaluate_stream_from(run.model, text, &options, state, progress)?;
    if let Some(path) = &args.state_out {
        context.state = state;
        // The stream's last token, from which nothing was predicted.
        let last = text.tokens(report.tokens - 1..report.tokens)?;
        context.read(run.model, &[last[0] as u32])?;
        let command = [("command", terminal::command_line())];
        let identity = Identity::of(run.model, run.tokenizer);
        context.save_in(path, &identity, &command, None)?;
    }
    match run.json {
        true => terminal::line(to_json(run, &options, &report))?,
        false => print_stream(run, &options, &report)?,
    }
    compression::check(&report)
}

/// The cache of full layers grows by every token, and so does the time of the next one.
fn refuse_what_grows(args: &StreamArgs, model: &ModelConfig, tokens: u64) -> anyhow::Result<()> {
    match model.grows_by() {
        Some(setting) if args.limit_tokens.is_none() && tokens > KEPT_TOKENS => refuse!(
            "`{setting}` keeps every token: after {} of them its cache has {}, and every \
             further token looks at all of it; say with --limit-tokens how far to read",
            terminal::grouped(tokens),
            terminal::bytes(state_bytes(model, 1, tokens)),
        ),
        _ => Ok(()),
    }
}

fn to_json(run: &Run<'_>, options: &StreamOptions, report: &StreamReport) -> Value {
    let model = run.model.config();
    let bins = report.bins.iter().map(|bin| {
        let compared = bin.compared.map(|compared| {
            json!({
                "tokens": compared.tokens, "stream": compared.stream,
                "limited": compared.limited, "excess": compared.excess(),
                "standard_error": compared.standard_error,
            })
        });
        json!({
            "from": bin.positions.start, "to": bin.positions.end, "loss": bin.loss,
            "exact": bin.exact, "compared": compared,
        })
    });
    json!({
        "tokens": report.tokens, "context": options.context, "span": options.span,
        "window": options.window, "mixer": model.mixer,
        "parameters": ParameterCount::of(model).total(),
        "state_bytes": state_bytes(model, 1, report.tokens),
        "device": run.device, "seconds": report.seconds,
        "compression": report.compression.as_ref().map(|cost| compression::to_json(model, cost)),
        "bins": bins.collect::<Vec<_>>(),
    })
}

fn print_stream(
    run: &Run<'_>,
    options: &StreamOptions,
    report: &StreamReport,
) -> anyhow::Result<()> {
    let most = (options.context + options.span - 1) as u64;
    let read = [options.context as u64, most, report.tokens];
    let [context, most, tokens] = read.map(terminal::grouped);
    let (window, seconds, device) = (options.window, report.seconds, run.device);
    terminal::line(format!(
        "one stream of {tokens} tokens in windows of {window}, against {context} to {most} tokens behind | \
         {seconds:.1}s on {device}"
    ))?;
    terminal::line(format!(
        "{:>23}  {:>8}  {:>9}  {:>8}  {:>8}  {:>17}",
        "positions", "loss", "compared", "stream", context, "stream / limited"
    ))?;
    for bin in &report.bins {
        terminal::line(row(bin))?;
    }
    match &report.compression {
        Some(cost) => compression::print(run.model.config(), cost),
        None => Ok(()),
    }
}

fn row(bin: &StreamBin) -> String {
    let [from, to] = [bin.positions.start, bin.positions.end].map(terminal::grouped);
    let positions = format!("{from}..{to}");
    let start = format!("{positions:>23}  {:>8.4}", bin.loss);
    let Some(compared) = bin.compared else {
        return format!("{start}  {:>9}", 0);
    };
    format!(
        "{start}  {:>9}  {:>8.4}  {:>8.4}  {:>+7.2} % ± {:.2} %",
        terminal::grouped(compared.tokens),
        compared.stream,
        compared.limited,
        100.0 * compared.excess(),
        100.0 * compared.standard_error / compared.limited,
    )
}
