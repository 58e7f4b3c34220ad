//! `infinity train [CONFIG]`: layer the configuration, say what will happen, train, say what came.

use std::io::{self, IsTerminal};
use std::path::{MAIN_SEPARATOR, Path};
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::Args;
use infinity_model::Formats;
use infinity_model::count::{
    forward_flops_per_token, state_bytes, state_bytes_per_token, training_flops_per_token,
};
use infinity_train::config::{Progress, RunConfig};
use infinity_train::run_dir::{FINAL, is_used};
use infinity_train::{Estimate, Resume, TrainControl, TrainReport, estimate, train};

use super::config::ConfigFlags;
use super::eval::{self, EvalArgs};
use crate::args::Global;
use crate::device::{Backend, Ranks};
use crate::model_dir::ModelArgs;
use crate::terminal::{self, errors, progress, refuse, signals};

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    config: ConfigFlags,
    /// Go on from a checkpoint of the output directory: the last, a step, or a directory
    #[arg(long, alias = "resume-from-checkpoint", value_name = "auto|STEP|DIR")]
    #[arg(num_args = 0..=1, default_missing_value = "auto", conflicts_with = "overwrite")]
    resume: Option<String>,
    /// Say what would be trained and what it takes, from a few steps of it, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or measures when only `--do-eval` was asked for.
pub(crate) fn run(args: TrainArgs, global: &Global) -> anyhow::Result<()> {
    let loaded = args.config.load(global)?;
    let (mut config, source) = (loaded.config, loaded.source);
    if args.config.only_evaluates() {
        return measure(&config, global);
    }
    let resume = args.resume.as_deref().map(resume).transpose()?;
    let directory = config.output_dir();
    if !args.dry_run {
        check_output(&directory, config.run.overwrite, resume.as_ref())?;
    }
    let ranks = Ranks::open(&mut config)?;
    if args.dry_run {
        return describe_only(config, source, &ranks);
    }
    config.logging.progress = shown(config.logging.progress, global.quiet)?;
    let progress = config.logging.progress;
    if progress == Progress::Tui {
        signals::remember();
    }
    if matches!(progress, Progress::Tui | Progress::None) {
        terminal::be_quiet();
    }
    let mut reporter = progress::to_stdout(progress, global.quiet);
    for line in announcement(&config, &ranks) {
        reporter.message(&line);
    }
    let interrupt = signals::listen(match progress {
        // The dashboard has the screen.
        Progress::Tui => "",
        _ => "stopping after this step; Ctrl-C again ends at once",
    })?;
    let control = TrainControl {
        resume,
        ..interrupt.control(reporter, source)
    };
    let prompt = config.eval.sample_prompts.first().cloned();
    let report = train(config, ranks.devices(), control)?;
    if report.interrupted {
        terminal::note(&stopped(&report));
        return errors::ended(errors::INTERRUPTED);
    }
    let prompt = prompt.as_deref().unwrap_or("Once upon a time");
    let result = result(&report, &directory.join(FINAL), prompt, global.quiet);
    if progress == Progress::Json {
        progress::to_stdout(progress, false).message(&result);
        return Ok(());
    }
    terminal::line(result)
}

/// What is said of a run that was stopped: how it goes on, where something of it was saved.
fn stopped(report: &TrainReport) -> String {
    let step = report.step;
    let next = match report.saved {
        Some(saved) if saved == step => "go on with the same command and --resume".to_owned(),
        Some(saved) => format!(
            "the same command and --resume goes on after step {saved}, the last that was saved"
        ),
        None => "nothing of it was saved".to_owned(),
    };
    format!("stopped at step {step}; {next}")
}

/// `--do-eval` without `--do-train`: the model that lies in the output directory.
fn measure(config: &RunConfig, global: &Global) -> anyhow::Result<()> {
    let args = EvalArgs {
        of: ModelArgs {
            model: config.output_dir(),
            adapter: None,
        },
        file: Some(config.data.validation_file.display().to_string()).filter(|f| !f.is_empty()),
        stateful: config.eval.carry_state,
        max_seq_length: Some(config.data.max_seq_length.to_string()),
        batch_size: Some(config.training.per_device_eval_batch_size.to_string()),
        max_eval_batches: Some(config.eval.max_batches.to_string()),
        cache_dir: Some(config.data.cache_dir.display().to_string()),
        precision: Some(config.run.precision),
        ..EvalArgs::default()
    };
    eval::run(args, global).context("--do-eval without --do-train measures a trained model")
}

/// How progress is shown, with `auto` decided: as lines, which stay in the terminal when the run is
/// over and in the log file of one that has no terminal.
fn shown(progress: Progress, quiet: bool) -> anyhow::Result<Progress> {
    match progress {
        Progress::Auto => Ok(Progress::Plain),
        Progress::Tui if quiet => Ok(Progress::None),
        // It draws on standard output and reads keys.
        Progress::Tui if !io::stdout().is_terminal() || !io::stdin().is_terminal() => {
            refuse!("--progress tui: a dashboard needs a terminal; use plain, json or none")
        }
        other => Ok(other),
    }
}

/// `--resume` in words that the library knows.
fn resume(given: &str) -> anyhow::Result<Resume> {
    match (given, given.parse()) {
        ("auto", _) => Ok(Resume::Latest),
        (_, Ok(step)) => Ok(Resume::Step(step)),
        _ if Path::new(given).is_dir() => Ok(Resume::Directory(given.into())),
        _ => refuse!(
            "--resume {given}: there is no such directory; give `auto`, a step, or a checkpoint \
             directory"
        ),
    }
}

/// An output directory that exists is somebody's work. Only `--resume auto` may find none: it is the
/// command of a job that is started again and again.
fn check_output(directory: &Path, overwrite: bool, resume: Option<&Resume>) -> anyhow::Result<()> {
    let shown = directory.display();
    if directory.exists() && !directory.is_dir() {
        refuse!("the output directory {shown} is a file");
    }
    match (is_used(directory), resume) {
        (false, Some(Resume::Step(_) | Resume::Directory(_))) => {
            refuse!(
                "nothing to resume: there is no run in the output directory {shown}; a run goes on by the \
                 command that began it, with --resume"
            )
        }
        (true, None) if !overwrite => refuse!(
            "the output directory {shown} exists and is not empty; --resume goes on with the run \
             in it, --overwrite replaces it, --output-dir names another"
        ),
        _ => Ok(()),
    }
}

/// What is known before the data is read.
fn announcement(config: &RunConfig, ranks: &Ranks) -> [String; 3] {
    let t = &config.training;
    let devices = match config.distributed.ranks() {
        1 => String::new(),
        several => format!(" × {several} devices"),
    };
    let (rows, window) = (t.per_device_train_batch_size, config.data.training_window());
    let (times, all) = (t.gradient_accumulation_steps, config.tokens_per_step());
    let all = terminal::grouped(all);
    [
        ranks.describe(),
        format!(
            "batch     {rows} rows{devices} × {window} tokens × {times} accumulated = {all} tokens a step"
        ),
        format!("run       {}", config.output_dir().display()),
    ]
}

/// `--dry-run`: takes some steps for their cost, and says what the run would be.
fn describe_only(mut config: RunConfig, source: String, ranks: &Ranks) -> anyhow::Result<()> {
    terminal::line(announcement(&config, ranks).join("\n"))?;
    let main = &ranks.main().device;
    let formats = Formats::new(config.run.precision, main);
    formats.check(main)?;
    terminal::line(format!("precision {}", formats.describe()))?;
    terminal::note("measuring some steps, about ten seconds …");
    let window = config.data.training_window();
    let interrupt = signals::listen("stopping after this step")?;
    let control = interrupt.clone().control(progress::silent(), source);
    config.logging.progress = Progress::None;
    let estimate = estimate(config, ranks.devices(), control)?;
    if interrupt.asked.load(Ordering::Relaxed) {
        return errors::ended(errors::INTERRUPTED);
    }
    terminal::line(estimated(&estimate, window).join("\n"))
}

fn estimated(e: &Estimate, window: usize) -> [String; 6] {
    let tokens = e.total_steps * e.tokens_per_step;
    let learn = terminal::count(e.parameters);
    let stay = terminal::count(e.frozen);
    let parameters = match e.frozen {
        0 => format!("{learn} parameters"),
        _ => format!("{stay} parameters that stay as they are, adapters of {learn} that learn"),
    };
    let flops = match e.frozen {
        0 => training_flops_per_token(&e.model, window),
        // No gradient of a weight is computed.
        _ => 2 * forward_flops_per_token(&e.model, window),
    };
    let memory = match e.memory_bytes {
        0 => "not measured here".to_owned(),
        peak => format!("{} of this process at its peak", terminal::bytes(peak)),
    };
    let row = terminal::bytes(state_bytes(&e.model, 1, window as u64));
    let further = match state_bytes_per_token(&e.model) {
        0 => String::new(),
        more => format!(
            " and {} more for every further token",
            terminal::bytes(more)
        ),
    };
    let speed = (e.tokens_per_step as f64 / e.step_s).round() as u64;
    let numbers = [e.total_steps, tokens, e.training_tokens, flops, speed];
    let [steps, tokens, all, flops, speed] = numbers.map(terminal::grouped);
    let (run, step_ms, eval_s) = (terminal::clock(e.run_s), e.step_s * 1e3, e.eval_s);
    [
        format!("model     {parameters}"),
        format!("length    {steps} steps, {tokens} tokens of {all} in the training text"),
        format!("work      {flops} FLOP a token, {row} of state a row{further}"),
        format!("memory    about {memory}"),
        format!(
            "time      about {run}: {step_ms:.0} ms a step, {speed} tok/s, {eval_s:.1} s a validation"
        ),
        "dry run: nothing was trained".to_owned(),
    ]
}

/// What came of a run: the last validation, where the model is, and how to use it.
fn result(report: &TrainReport, model: &Path, prompt: &str, quiet: bool) -> String {
    let mut text = match &report.eval {
        None => format!("finished {} steps", terminal::grouped(report.step)),
        Some(eval) => format!(
            "validation loss {:.4} | perplexity {} | bits per byte {:.4}",
            eval.loss,
            progress::perplexity(eval.perplexity),
            eval.bits_per_byte
        ),
    };
    if model.is_dir() && !quiet {
        let shown = model.display().to_string();
        let words = [&*shown, "-p", prompt].map(terminal::shell_word).join(" ");
        let program = program();
        text = format!("{text}\nmodel in {shown}\n\nGenerate with:\n  {program} generate {words}");
    }
    text
}

/// What stands for `infinity` at the start of a command line: `cargo run --release --` under Cargo,
/// the path where one was typed, else the name.
fn program() -> String {
    let variable = |name: &str| std::env::var(name).ok();
    let by_cargo = variable("CARGO").is_some()
        && variable("CARGO_PKG_NAME").as_deref() == Some(env!("CARGO_PKG_NAME"));
    let typed = std::env::args_os().next().unwrap_or_default();
    started(by_cargo, &typed.to_string_lossy())
}

fn started(by_cargo: bool, typed: &str) -> String {
    if by_cargo {
        let profile = match cfg!(debug_assertions) {
            true => "",
            false => " --release",
        };
        // Those besides the default: a command that Cargo runs must name them too.
        let features = Backend::compiled().map(Backend::name);
        let features = features.filter(|name| *name != "flex");
        let features: String = features.map(|name| format!(" --features {name}")).collect();
        return format!("cargo run{profile}{features} --");
    }
    // A name without a path was found on the PATH, and will be again.
    match typed.contains(['/', MAIN_SEPARATOR]) {
        true => terminal::shell_word(typed),
        false => env!("CARGO_BIN_NAME").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_on_is_promised_only_where_something_was_saved() {
        let said = |saved| {
            stopped(&TrainReport {
                step: 7,
                saved,
                interrupted: true,
                eval: None,
            })
        };
        assert!(said(Some(7)).ends_with("go on with the same command and --resume"));
        assert!(said(Some(4)).contains("goes on after step 4"));
        assert_eq!(said(None), "stopped at step 7; nothing of it was saved");
    }

    #[test]
    fn commands_start_as_this_one_did() {
        assert_eq!(started(false, "infinity"), "infinity");
        assert_eq!(started(false, ""), "infinity");
        assert_eq!(
            started(false, "./my builds/infinity"),
            "'./my builds/infinity'"
        );
        let by_cargo = started(true, "target/release/infinity");
        assert!(
            by_cargo.starts_with("cargo run") && by_cargo.ends_with(" --"),
            "{by_cargo}"
        );
    }
}
