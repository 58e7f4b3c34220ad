//! `infinity train [CONFIG]`: layer the configuration, say what will happen, train, say what came.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_model::ModelConfig;
use infinity_model::count::{ParameterCount, state_bytes, training_flops_per_token};
use infinity_train::config::{LoadedConfig, Progress, RunConfig};
use infinity_train::data::{self, DataEvent};
use infinity_train::{Resume, TrainControl, TrainReport, train};

use super::eval::{self, EvalArgs};
use super::eval_stream::StreamArgs;
use super::layering::ConfigFlags;
use crate::args::Global;
use crate::device::{self, Chosen};
use crate::{failure, interrupt, model_dir, output, reporter};

/// A run: its configuration, and where it starts.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    config: ConfigFlags,
    /// Go on from a checkpoint of the output directory: the last, a step, or a directory
    #[arg(long, alias = "resume-from-checkpoint", value_name = "auto|STEP|DIR")]
    #[arg(num_args = 0..=1, default_missing_value = "auto", conflicts_with = "overwrite")]
    resume: Option<String>,
    /// Say what would be trained, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or measures when only `--do-eval` was asked for.
pub(crate) fn run(args: TrainArgs, global: &Global) -> anyhow::Result<u8> {
    let LoadedConfig {
        mut config, source, ..
    } = args.config.load(global)?;
    if args.config.only_evaluates() {
        return measure(&config, global);
    }
    let resume = resume(&args)?;
    let directory = config.output_dir();
    if !args.dry_run {
        check_output(&directory, config.run.overwrite, resume.is_some())?;
    }
    let chosen = device::open(&config.run.device)?;
    config.run.device.clone_from(&chosen.name);
    if args.dry_run {
        return describe_only(&config, &chosen);
    }
    let progress = config.logging.progress;
    let mut reporter = reporter::to_stdout(progress, global.quiet);
    announcement(&config, &chosen)
        .iter()
        .for_each(|line| reporter.message(line));
    let control = TrainControl {
        interrupt: interrupt::flag("stopping after this step; Ctrl-C again ends at once")?,
        reporter,
        resume,
        config_text: source,
    };
    let prompt = config.eval.sample_prompts.first().cloned();
    let report = train(config, chosen.device, control)?;
    if report.interrupted {
        output::note(&format!(
            "stopped at step {}; go on with the same command and --resume",
            report.step
        ));
        return Ok(failure::INTERRUPTED);
    }
    let prompt = prompt.as_deref().unwrap_or("Once upon a time");
    let result = result(
        &report,
        &directory.join(model_dir::FINAL),
        prompt,
        global.quiet,
    );
    match progress {
        Progress::Json => reporter::to_stdout(progress, false).message(&result),
        _ => output::line(&result)?,
    }
    Ok(failure::OK)
}

/// `--do-eval` without `--do-train`: the model that lies in the output directory.
fn measure(config: &RunConfig, global: &Global) -> anyhow::Result<u8> {
    let args = EvalArgs {
        model: config.output_dir(),
        file: Some(config.data.validation_file.display().to_string()).filter(|f| !f.is_empty()),
        stateful: config.eval.carry_state,
        max_seq_length: Some(config.data.max_seq_length.to_string()),
        batch_size: Some(config.training.per_device_eval_batch_size.to_string()),
        max_eval_batches: Some(config.eval.max_batches.to_string()),
        text_column: None,
        cache_dir: Some(config.data.cache_dir.display().to_string()),
        json: false,
        stream: StreamArgs::default(),
    };
    eval::run(args, global).context("--do-eval without --do-train measures a trained model")
}

/// `--resume` in words that the library knows.
fn resume(args: &TrainArgs) -> anyhow::Result<Option<Resume>> {
    let Some(given) = &args.resume else {
        return Ok(None);
    };
    Ok(Some(match given.parse::<u64>() {
        _ if given == "auto" => Resume::Latest,
        Ok(step) => Resume::Step(step),
        Err(_) => {
            let path = PathBuf::from(given);
            if !path.is_dir() {
                return Err(failure::usage(format!(
                    "--resume {given}: there is no such directory; give `auto`, a step, or a \
                     checkpoint directory"
                )));
            }
            Resume::Directory(path)
        }
    }))
}

/// An output directory that exists is somebody's work.
fn check_output(directory: &Path, overwrite: bool, resume: bool) -> anyhow::Result<()> {
    let shown = directory.display();
    if directory.exists() && !directory.is_dir() {
        return Err(failure::usage(format!(
            "the output directory {shown} is a file"
        )));
    }
    let used = directory
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if resume && !used {
        return Err(failure::usage(format!(
            "nothing to resume: there is no run in the output directory {shown}"
        )));
    }
    if used && !overwrite && !resume {
        return Err(failure::usage(format!(
            "the output directory {shown} exists and is not empty; --resume goes on with the run \
             in it, --overwrite replaces it, --output-dir names another"
        )));
    }
    Ok(())
}

/// What is known before the data is read.
fn announcement(config: &RunConfig, chosen: &Chosen) -> [String; 3] {
    let t = &config.training;
    [
        format!("device    {}", chosen.describe()),
        format!(
            "batch     {} rows × {} tokens × {} accumulated = {} tokens a step",
            t.per_device_train_batch_size,
            config.data.training_window(),
            t.gradient_accumulation_steps,
            output::grouped(config.tokens_per_step()),
        ),
        format!("run       {}", config.output_dir().display()),
    ]
}

/// `--dry-run`: reads the data, because the vocabulary decides the size, and builds nothing.
fn describe_only(config: &RunConfig, chosen: &Chosen) -> anyhow::Result<u8> {
    for line in announcement(config, chosen) {
        output::line(&line)?;
    }
    let mut notify = |event: DataEvent| output::note(&event.to_string());
    let prepared = data::prepare(&config.data, &config.tokenizer, &mut notify)?;
    let vocab_size = match config.model.vocab_size {
        0 => prepared.tokenizer.vocab_size(),
        given => given,
    };
    let model = ModelConfig {
        vocab_size,
        ..config.model.clone()
    };
    model.validate()?;
    let parameters = ParameterCount::of(&model).total();
    let steps_per_epoch = prepared.train.len() / config.tokens_per_step().max(1);
    let steps = config
        .training
        .total_steps(config.tokens_per_step(), steps_per_epoch);
    let window = config.data.training_window();
    let flops = training_flops_per_token(&model, window);
    for line in [
        format!("model     {} parameters", output::count(parameters)),
        format!(
            "length    {} steps, {} tokens of {} in the training text",
            output::grouped(steps),
            output::grouped(steps * config.tokens_per_step()),
            output::grouped(prepared.train.len()),
        ),
        format!("work      {} FLOP a token", output::grouped(flops)),
        format!(
            "memory    about {} for weights, gradients and optimizer, {} of state a row",
            // f32 weights, gradients, and the two moments of AdamW.
            output::bytes(4 * 4 * parameters),
            output::bytes(state_bytes(&model, 1, window as u64)),
        ),
        "dry run: nothing was trained".to_owned(),
    ] {
        output::line(&line)?;
    }
    Ok(failure::OK)
}

/// What came of a run: the last validation, where the model is, and how to use it.
fn result(report: &TrainReport, model: &Path, prompt: &str, quiet: bool) -> String {
    let mut text = format!("finished {} steps", output::grouped(report.step));
    if let Some(eval) = &report.eval {
        text = format!(
            "validation loss {:.4} | perplexity {} | bits per byte {:.4}",
            eval.loss,
            reporter::perplexity(eval.perplexity),
            eval.bits_per_byte
        );
    }
    if model.is_dir() && !quiet {
        let shown = model.display().to_string();
        let words = [&*shown, "-p", prompt].map(shell_word).join(" ");
        text = format!("{text}\nmodel in {shown}\n\nGenerate with:\n  infinity generate {words}");
    }
    text
}

/// `word` as a POSIX shell takes it literally.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell() {
        assert_eq!(shell_word("runs/a-1/final"), "runs/a-1/final");
        assert_eq!(shell_word("fn main() {\n"), "'fn main() {\n'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
