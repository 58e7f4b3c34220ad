//! `infinity tokenize INPUT… -o DIR`: text to token files, once, for many runs.
//!
//! `infinity train` does the same by itself and keeps the result in its cache; this verb is for
//! large texts, for learning a tokenizer, and for looking at what became of a text.

use std::path::PathBuf;

use clap::Args;
use infinity_train::config::{ConfigLayers, RunConfig};
use infinity_train::data::{DataEvent, tokenize_to};
use serde_json::json;

use super::config::tokenizer;
use super::flags::over;
use crate::terminal::{self, signals};

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// .txt, .jsonl or .csv files, or directories of them, read in this order
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Directory to make
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Text for validation (default: the end of all INPUTs)
    #[arg(long, value_name = "PATH", conflicts_with = "val_fraction")]
    validation_file: Option<String>,
    /// Part of the text, at its end, kept for validation
    #[arg(long, value_name = "FRACTION")]
    val_fraction: Option<String>,
    /// byte (the default), char, bpe:ENTRIES, or a tokenizer.json
    #[arg(long, alias = "tokenizer-name", value_name = "KIND|PATH")]
    tokenizer: Option<String>,
    /// Learn a byte-level BPE of N entries from the text
    #[arg(long, value_name = "N", conflicts_with = "tokenizer")]
    train_bpe: Option<String>,
    /// Column or key of the text in .csv and .jsonl
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// End the last document with the end-of-text token too
    #[arg(long)]
    append_eos: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: TokenizeArgs) -> anyhow::Result<()> {
    let config = config(&args)?;
    signals::ends()?;
    let mut notify = |event: DataEvent| {
        // The last event repeats what is printed below.
        if !args.json && !matches!(event, DataEvent::Ready { .. }) {
            terminal::remark(&event.to_string());
        }
    };
    let (data, kind, target) = (&config.data, &config.tokenizer, &args.output_dir);
    let made = tokenize_to(&args.inputs, data, kind, target, &mut notify)?;
    let directory = target.display();
    if made.train.is_empty() {
        terminal::warning(&format!(
            "{directory} has 0 training tokens: all of the text is kept for validation; give more \
             text, or a smaller --val-fraction"
        ));
    }
    if args.json {
        return terminal::line(json!({
            "directory": directory.to_string(), "vocab_size": made.tokenizer.vocab_size(),
            "train_tokens": made.train.len(), "validation_tokens": made.valid.len(),
            "train_bytes": made.train.text_bytes(), "validation_bytes": made.valid.text_bytes(),
            "train_documents": made.train.documents(),
        }));
    }
    let next = match made.train.is_empty() {
        true => String::new(),
        false => format!("\n\nTrain on it with:\n  infinity train --train-file {directory}"),
    };
    let per_token = made.train.text_bytes() as f64 / made.train.len().max(1) as f64;
    terminal::line(format!(
        "{directory}: {} training and {} validation tokens, vocabulary of {}, {per_token:.2} bytes \
         a token{next}",
        terminal::grouped(made.train.len()),
        terminal::grouped(made.valid.len()),
        terminal::grouped(made.tokenizer.vocab_size() as u64),
    ))
}

/// The sections `[data]` and `[tokenizer]` that the flags amount to, checked like any other.
fn config(args: &TokenizeArgs) -> anyhow::Result<RunConfig> {
    let append_eos = args.append_eos.then(|| "true".to_owned());
    let file = &args.validation_file;
    let flags = [
        ("--validation-file", "data.validation_file", file),
        ("--val-fraction", "data.val_fraction", &args.val_fraction),
        ("--text-column", "data.text_column", &args.text_column),
        ("--append-eos", "data.append_eos", &append_eos),
        ("--train-bpe", "tokenizer.train_bpe", &args.train_bpe),
    ];
    let mut layers = over(ConfigLayers::new(), flags)?;
    if let Some(given) = &args.tokenizer {
        layers = tokenizer(layers, given)?;
    }
    Ok(layers.resolve()?.config)
}
