//! `infinity eval MODEL --stream`: the loss along one long text, bin by bin, with all of it behind
//! every token and with a limited context behind the same tokens.

use clap::Args;
use infinity_model::InfinityModel;
use infinity_model::config::Mixer;
use infinity_model::count::{ParameterCount, state_bytes};
use infinity_train::config::RunConfig;
use infinity_train::data::TokenStore;
use infinity_train::evaluate::StreamBin;
use infinity_train::{StreamOptions, StreamReport, evaluate_stream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::args::Global;
use crate::numbers::{count, whole};
use crate::{failure, output};

/// How a stream is measured.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "One long stream")]
pub(crate) struct StreamArgs {
    /// Measure along the text by bins of positions: with all of it behind every token, and with
    /// the tokens of --against-context alone
    #[arg(long, conflicts_with_all = ["stateful", "max_eval_batches"])]
    pub(crate) stream: bool,
    /// Bins of equal numbers of tokens
    #[arg(long, value_name = "N", default_value_t = 20, requires = "stream")]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    bins: usize,
    /// Tokens behind the first token of a span, for the comparison
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "stream")]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    against_context: usize,
    /// Tokens of a span: the last one has N − 1 more behind it than the first
    #[arg(long, value_name = "N", default_value_t = 512, requires = "stream")]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    span: usize,
    /// Spans compared in a bin, evenly spread; 0 = all
    #[arg(long, value_name = "N", default_value_t = 16, requires = "stream")]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    spans_per_bin: usize,
    /// Tokens of the stream, from the start of the text; 0 = all of it
    #[arg(long, value_name = "N", requires = "stream")]
    #[arg(value_parser = whole::<u64>(0..=u64::MAX), allow_negative_numbers = true)]
    limit_tokens: Option<u64>,
}

/// What is measured.
pub(super) struct Run<'a> {
    pub(super) model: &'a InfinityModel,
    pub(super) text: &'a TokenStore,
    pub(super) config: &'a RunConfig,
    pub(super) device: &'a str,
}

/// Tokens that a model which keeps all of them reads without being told to.
const KEPT_TOKENS: u64 = 1 << 16;

/// Measures and prints.
pub(super) fn run(
    args: &StreamArgs,
    as_json: bool,
    global: &Global,
    run: &Run<'_>,
) -> anyhow::Result<u8> {
    refuse_what_grows(args, run)?;
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
    let mut told = Instant::now();
    let quiet = global.quiet;
    let report = evaluate_stream(run.model, run.text, &options, &mut |done, total| {
        if !quiet && told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            output::note(&format!(
                "read {} of {} tokens",
                output::grouped(done),
                output::grouped(total)
            ));
        }
    })?;
    if as_json {
        output::line(&to_json(run, &options, &report).to_string())?;
    } else {
        print(run, &options, &report)?;
    }
    Ok(failure::OK)
}

/// A softmax model's cache grows by every token, and so does the time of the next one.
fn refuse_what_grows(args: &StreamArgs, run: &Run<'_>) -> anyhow::Result<()> {
    let (model, tokens) = (run.model.config(), run.text.len());
    if model.mixer != Mixer::Softmax || args.limit_tokens.is_some() || tokens <= KEPT_TOKENS {
        return Ok(());
    }
    Err(failure::usage(format!(
        "`model.mixer = \"softmax\"` keeps every token: after {} of them its cache has {}, and every \
         further token looks at all of it; say with --limit-tokens how far to read",
        output::grouped(tokens),
        output::bytes(state_bytes(model, 1, tokens)),
    )))
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
            "compared": compared,
        })
    });
    json!({
        "tokens": report.tokens, "context": options.context, "span": options.span,
        "window": options.window, "mixer": model.mixer,
        "parameters": ParameterCount::of(model).total(),
        "state_bytes": state_bytes(model, 1, report.tokens),
        "device": run.device, "seconds": report.seconds,
        "bins": bins.collect::<Vec<_>>(),
    })
}

fn print(run: &Run<'_>, options: &StreamOptions, report: &StreamReport) -> anyhow::Result<()> {
    let context = output::grouped(options.context as u64);
    output::line(&format!(
        "one stream of {} tokens in windows of {}, against {context} to {} tokens behind | {:.1}s \
         on {}",
        output::grouped(report.tokens),
        options.window,
        output::grouped((options.context + options.span - 1) as u64),
        report.seconds,
        run.device,
    ))?;
    output::line(&format!(
        "{:>23}  {:>8}  {:>9}  {:>8}  {:>8}  {:>17}",
        "positions", "loss", "compared", "stream", context, "stream / limited"
    ))?;
    for bin in &report.bins {
        output::line(&row(bin))?;
    }
    Ok(())
}

fn row(bin: &StreamBin) -> String {
    let positions = format!(
        "{}..{}",
        output::grouped(bin.positions.start),
        output::grouped(bin.positions.end)
    );
    let start = format!("{positions:>23}  {:>8.4}", bin.loss);
    match bin.compared {
        None => format!("{start}  {:>9}", 0),
        Some(compared) => format!(
            "{start}  {:>9}  {:>8.4}  {:>8.4}  {:>+7.2} % ± {:.2} %",
            output::grouped(compared.tokens),
            compared.stream,
            compared.limited,
            100.0 * compared.excess(),
            100.0 * compared.standard_error / compared.limited,
        ),
    }
}
