//! `infinity chat MODEL`: a conversation, at a terminal or through a pipe.

mod conversation;
mod lines;
mod template;
mod words;

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use infinity_model::{FinishReason, GenerationConfig, Precision};

use self::conversation::Conversation;
use self::lines::Lines;
use self::words::Said;
use super::generate::rate;
use super::sampling::{LimitFlags, SamplingFlags};
use crate::args::Global;
use crate::model_dir::{self, ModelArgs};
use crate::terminal::signals::Heeding;
use crate::terminal::{self, errors, refuse};

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    of: ModelArgs,
    /// Instructions for the model, before the first message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on from a kept state: a conversation, or a text that was read
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Keep the conversation here when it ends
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Where lines that were typed at a terminal are kept [default: infinity/chat_history in the
    /// user's state folder]
    #[arg(long, value_name = "FILE", conflicts_with = "no_history")]
    history: Option<PathBuf>,
    /// Keep no lines
    #[arg(long)]
    no_history: bool,
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
    #[command(flatten)]
    limit: LimitFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

pub(crate) fn run(args: ChatArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    model_dir::can_hold("--state-out", args.state_out.as_ref())?;
    let (chosen, loaded) = model_dir::load(&found, args.precision, global)?;
    let tokenizer = model_dir::needed(loaded.tokenizer, &args.of.model)?;
    let base = args.limit.over(loaded.generation);
    let (_, template) = model_dir::conversations(&found)?;
    let config = args.sampling.over(base, global.seed)?;
    terminal::remark(&format!(
        "{} on {} · {} · /help shows what there is, Ctrl-D ends",
        args.of.model.display(),
        chosen.describe(),
        match template.is_plain() {
            true => "no chat template: messages as plain text",
            false => "chat template of the model",
        }
    ));
    let mut conversation = Conversation::new(loaded.model, tokenizer, template);
    if let Some(path) = &args.state_in {
        conversation.load(path)?;
    }
    if args.system.is_some() {
        conversation.system.clone_from(&args.system);
    }
    let mut chat = Chat {
        conversation,
        config,
        heeding: Heeding::listen(&chosen.device)?,
    };
    let history = match (&args.history, args.no_history) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        _ => lines::history_file(),
    };
    let mut lines = Lines::open(history)?;
    // What was said is kept whatever ends it.
    let ended = chat.answer_all(&mut lines);
    if let Some(path) = &args.state_out {
        chat.conversation.save(path)?;
    }
    ended
}

struct Chat {
    conversation: Conversation,
    config: GenerationConfig,
    heeding: Heeding,
}

impl Chat {
    fn answer_all(&mut self, lines: &mut Lines) -> anyhow::Result<()> {
        while let Some(line) = lines.next()? {
            match self.answer(&line) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                // A closed pipe ends it; anything else is said, and the conversation goes on.
                Err(error) if errors::is_closed_pipe(&error) => return Err(error),
                Err(error) => terminal::error(&errors::message(&error)),
            }
        }
        Ok(())
    }

    /// Does what a line says; breaks at the end.
    fn answer(&mut self, line: &str) -> anyhow::Result<ControlFlow<()>> {
        let (command, rest) = match words::parse(line).map_err(errors::usage)? {
            Said::Text(text) if text.is_empty() => return Ok(ControlFlow::Continue(())),
            Said::Text(text) => return self.say(&text).map(ControlFlow::Continue),
            Said::Command(command, rest) => (command, rest),
        };
        let conversation = &mut self.conversation;
        match command {
            "exit" => return Ok(ControlFlow::Break(())),
            "help" => terminal::line(words::HELP)?,
            "save" => {
                conversation.save(Path::new(&rest))?;
                terminal::remark(&format!("kept in {rest}"));
            }
            "load" => {
                conversation.load(Path::new(&rest))?;
                let position = terminal::grouped(conversation.position());
                terminal::remark(&format!("{rest}: goes on after {position} tokens"));
            }
            "fork" => conversation.fork(&rest)?,
            "switch" => conversation.switch(&rest)?,
            "undo" => match conversation.undo() {
                true => terminal::remark("taken back"),
                false => refuse!("there is nothing to take back"),
            },
            "reset" => {
                conversation.reset();
                terminal::remark("a new conversation");
            }
            "system" if rest.is_empty() => {
                let system = conversation.system.as_deref();
                terminal::line(system.unwrap_or("no instructions; /system TEXT gives some"))?;
            }
            "system" => {
                conversation.system = Some(rest);
                conversation.reset();
                terminal::remark("a new conversation with these instructions");
            }
            "set" if rest.is_empty() => {
                for (name, value) in words::settings(&self.config) {
                    terminal::line(format!("{name:<20} {value}"))?;
                }
            }
            "set" => {
                let (name, value) = words::name_and_value(&rest);
                let config = words::with_setting(&self.config, name, value);
                self.config = config.map_err(errors::usage)?;
                terminal::remark(&format!("{} is {value}", name.replace('-', "_")));
            }
            "stats" => terminal::line(conversation.stats())?,
            other => unreachable!("/{other} is explained, but nothing is done"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A message, and its answer as it comes.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.heeding.begin();
        let mut begun = false;
        let mut on_text = |text: &str| {
            self.heeding.step();
            // A template leaves a blank to the answer that a reader does not want to see first.
            let text = if begun { text } else { text.trim_start() };
            begun |= !text.is_empty();
            self.heeding.show(text)
        };
        let made = self.conversation.say(text, &self.config, &mut on_text);
        self.heeding.end();
        self.heeding.shown()?;
        let made = made?;
        terminal::line("")?;
        if made.prompt_left > 0 {
            terminal::remark(
                "stopped before the message was read; it is as if it had not been given",
            );
        } else if made.finish == FinishReason::Interrupted {
            terminal::remark("stopped; what was said stays said, /undo takes it back");
        } else if io::stderr().is_terminal() {
            terminal::remark(&format!(
                "{} tokens, {:.1} tok/s · position {}",
                made.tokens.len(),
                rate(made.tokens.len(), made.decode_s),
                terminal::grouped(made.position)
            ));
        }
        Ok(())
    }
}
