//! `infinity eval MODEL`: loss, perplexity and bits per byte of a model on a text.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_model::config::Mixer;
use infinity_model::count::state_bytes;
use infinity_model::{ModelConfig, Precision, Pretrained};
use infinity_train::config::{LoadedConfig, RunConfig};
use infinity_train::data::{self, DataConfig, DataEvent, EvalSource, Packing, TokenStore};
use infinity_train::{EvalReport, evaluate};
use serde_json::json;

use super::{eval_stream, eval_task};
use crate::args::Global;
use crate::model_dir::{self, Found};
use crate::{device, failure, interrupt, output, reporter};

/// Which model, on what, in which windows.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Model directory, the directory of a finished run, or a checkpoint: RUN/checkpoints/best
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Text to measure on (default: what the run validated on)
    #[arg(long, alias = "validation-file", value_name = "PATH")]
    pub(crate) file: Option<String>,
    /// Carry the state from one window to the next, as when reading a long text
    #[arg(long)]
    pub(crate) stateful: bool,
    /// Tokens of a window (default: as in training); a shorter text is one window
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_seq_length: Option<String>,
    /// Rows computed together
    #[arg(short, long, alias = "per-device-eval-batch-size", value_name = "N")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) batch_size: Option<String>,
    /// Batches to measure on; 0 = all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_eval_batches: Option<String>,
    /// Column or key of the text in .csv and .jsonl
    #[arg(long, value_name = "NAME", requires = "file")]
    pub(crate) text_column: Option<String>,
    /// Where tokenized text is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<String>,
    /// Number formats: f32, bf16-mixed, f16-mixed or bf16-true (default: as in training)
    #[arg(long, alias = "dtype", value_name = "FORMAT")]
    pub(crate) precision: Option<Precision>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stream: eval_stream::StreamArgs,
    #[command(flatten)]
    pub(crate) task: eval_task::TaskArgs,
}

/// Evaluates and prints.
pub(crate) fn run(args: EvalArgs, global: &Global) -> anyhow::Result<u8> {
    let found = model_dir::find(&args.model)?;
    let mut config = config(&args, &found)?;
    eval_task::check(&args.task, &config, args.file.as_deref())?;
    if args.stream.stream
        && let Some(task) = config.data.source.task()
    {
        return Err(failure::usage(format!(
            "--stream: this model learned `data.source = \"{task}\"`, whose rows are no stream; give --file PATH"
        )));
    }
    interrupt::ends()?;
    let chosen = device::open(&device::wanted(global))?;
    let quiet = global.quiet || args.json;
    let Pretrained {
        model, tokenizer, ..
    } = found.load(&chosen.device, quiet)?;
    let precision = args.precision.unwrap_or(config.run.precision);
    let model = model_dir::in_precision(model, precision, quiet)?;
    let made = args.task.task.is_some_and(|task| task.source().is_some());
    let text = (!made).then(|| text(&args, &config, global)).transpose()?;
    if args.task.task.is_some() {
        let run = eval_task::Run {
            model: &model,
            tokenizer: tokenizer.as_ref(),
            text,
            config: &config,
            device: &chosen.name,
        };
        return eval_task::run(&args.task, args.json, global, &run);
    }
    let text = text.expect("read where no task makes rows");
    config.data.max_seq_length = config
        .data
        .max_seq_length
        .min(longest_window(&args, &text)?);
    if args.stream.stream {
        let run = eval_stream::Run {
            model: &model,
            text: &text,
            config: &config,
            device: &chosen.name,
        };
        return eval_stream::run(&args.stream, args.json, global, &run);
    }
    let source = EvalSource::new(
        text,
        config.training.per_device_eval_batch_size,
        config.data.max_seq_length,
        config.eval.carry_state,
    )?
    .limited(config.eval.max_batches);
    if !global.quiet {
        warn_of_growth(model.config(), &source, config.data.max_seq_length);
    }
    let report = evaluate(&model, &source, config.training.loss_chunk)?;
    print(&args, &config, &chosen.name, &report)?;
    Ok(failure::OK)
}

/// A softmax model's state is its cache, which has every token in it.
fn warn_of_growth(model: &ModelConfig, source: &EvalSource, window: usize) {
    if model.mixer != Mixer::Softmax || !source.carry() {
        return;
    }
    let tokens = source.batches() * window as u64;
    output::warning(&format!(
        "`model.mixer = \"softmax\"` keeps every token of a carried state: its cache grows to {} \
         over {} tokens in each of {} rows, and every further token looks at all of its row",
        output::bytes(state_bytes(model, source.rows(), tokens)),
        output::grouped(tokens),
        source.rows(),
    ));
}

/// The run's configuration, or the defaults with the model's window, under the flags.
fn config(args: &EvalArgs, found: &Found) -> anyhow::Result<RunConfig> {
    let mut layers = found.layers()?;
    for (flag, key, value) in [
        (
            "--max-seq-length",
            "data.max_seq_length",
            &args.max_seq_length,
        ),
        (
            "--batch-size",
            "training.per_device_eval_batch_size",
            &args.batch_size,
        ),
        (
            "--max-eval-batches",
            "eval.max_batches",
            &args.max_eval_batches,
        ),
        ("--cache-dir", "data.cache_dir", &args.cache_dir),
    ] {
        if let Some(value) = value {
            layers = layers.flag(flag, key, value)?;
        }
    }
    let LoadedConfig { mut config, .. } = layers.resolve()?;
    // Not as a layer: a run must not carry what grows, but whoever asks to see it here may.
    config.eval.carry_state |= args.stateful;
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
    let defaults = DataConfig::default();
    DataConfig {
        train_file: file.into(),
        val_fraction: Some(0.0),
        text_column: column.map_or(defaults.text_column, str::to_owned),
        max_seq_length: config.data.max_seq_length,
        cache_dir: config.data.cache_dir.clone(),
        ..DataConfig::default()
    }
}

/// The tokens to measure on.
fn text(args: &EvalArgs, config: &RunConfig, global: &Global) -> anyhow::Result<TokenStore> {
    let named = config.data.source.task().is_some()
        || !config.data.train_file.as_os_str().is_empty()
        || !config.data.train_crates.is_empty();
    if args.file.is_none() && !named {
        return Err(failure::usage(
            "no text to measure on: this model lies in no run directory; give --file PATH",
        ));
    }
    if let Some(file) = args.file.as_ref().filter(|file| !Path::new(file).exists()) {
        return Err(failure::usage(format!(
            "cannot read the text to measure on: there is no file or directory {file}"
        )));
    }
    let mut notify = |event: DataEvent| {
        if global.verbose > 0 {
            output::note(&event.to_string());
        }
    };
    // Training asks for windows that the text fills; measuring takes what there is.
    let data = match config.data.source.task() {
        Some(_) => config.data.clone(),
        None => DataConfig {
            max_seq_length: 1,
            packing: Packing::Documents,
            ..config.data.clone()
        },
    };
    let prepared = data::prepare(&data, &config.tokenizer, &mut notify)
        .context("cannot read the text to measure on")?;
    if args.file.is_some() {
        return Ok(prepared.train);
    }
    if prepared.valid.is_empty() {
        return Err(failure::usage(
            "no text to measure on: this run kept none for validation (`data.val_fraction = 0`); \
             give --file PATH",
        ));
    }
    Ok(prepared.valid)
}

/// Tokens of the longest window that the text has: a window's last target is one token further.
fn longest_window(args: &EvalArgs, text: &TokenStore) -> anyhow::Result<usize> {
    let what = match &args.file {
        Some(file) => format!("the text {file}"),
        None => "the validation text of the run".to_owned(),
    };
    match text.len() {
        0 | 1 => Err(failure::usage(format!(
            "{what} has {} tokens, but measuring needs at least 2: one to predict, and one before it",
            text.len()
        ))),
        tokens => Ok(usize::try_from(tokens - 1).unwrap_or(usize::MAX)),
    }
}

fn print(
    args: &EvalArgs,
    config: &RunConfig,
    device: &str,
    report: &EvalReport,
) -> anyhow::Result<()> {
    let window = config.data.max_seq_length;
    let stateful = config.eval.carry_state;
    if args.json {
        output::line(
            &json!({
                "loss": report.loss, "perplexity": report.perplexity,
                "bits_per_byte": report.bits_per_byte, "tokens": report.tokens,
                "bytes": report.bytes, "seconds": report.seconds,
                "window": window, "stateful": stateful, "device": device,
            })
            .to_string(),
        )?;
        return Ok(());
    }
    let carried = if stateful {
        "state carried from window to window"
    } else {
        "each on its own"
    };
    output::line(&format!(
        "loss {:.4} | ppl {} | bpb {:.4} | {} tokens in windows of {window}, {carried} | \
         {:.1}s on {device}",
        report.loss,
        reporter::perplexity(report.perplexity),
        report.bits_per_byte,
        output::grouped(report.tokens),
        report.seconds,
    ))?;
    Ok(())
}
