//! A conversation as what the model remembers of it: a state of fixed size, however long it is.
//!
//! No text is kept and none is read twice. What a message adds is what the chat template writes between an
//! answer and the next one, which is found by rendering a conversation of two turns. `undo`, `fork` and a
//! file each keep a state.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context as _;
use infinity_model::generate::{Context, FinishReason, Generation, Identity, generate_from};
use infinity_model::{GenerationConfig, InfinityModel, Tokenizer, state_file};
use serde::{Deserialize, Serialize};

use super::template::Template;
use crate::terminal::{self, errors};

/// States that `undo` goes back to, at most.
const MOST_UNDO: usize = 64;
/// The branch that a chat begins in.
pub(super) const MAIN: &str = "main";
/// Name of what a chat adds to its state file.
const NOTE: &str = "chat";
/// Tokens that are read at once.
const PIECE: usize = 512;

/// A conversation up to some place.
#[derive(Clone, Debug)]
struct Moment {
    context: Context,
    /// Messages of the person so far; 0 also after a text that was no conversation.
    turns: u64,
}

/// One line of a conversation, and the moments before.
#[derive(Clone, Debug)]
struct Branch {
    now: Moment,
    before: VecDeque<Moment>,
}

/// What a state file says beside the state.
#[derive(Serialize, Deserialize)]
struct Note {
    turns: u64,
    #[serde(default)]
    system: Option<String>,
}

/// All branches of a conversation with one model.
pub(super) struct Conversation {
    model: InfinityModel,
    tokenizer: Tokenizer,
    template: Template,
    /// Instructions that a new conversation begins with.
    pub(super) system: Option<String>,
    branches: BTreeMap<String, Branch>,
    current: String,
}

/// What /stats shows.
pub(super) struct Stats {
    pub(super) position: u64,
    pub(super) turns: u64,
    pub(super) undo: usize,
    pub(super) state_bytes: usize,
    /// Whether the state grows with the text.
    pub(super) grows: bool,
    pub(super) branches: Vec<String>,
}

impl Conversation {
    pub(super) fn new(model: InfinityModel, tokenizer: Tokenizer, template: Template) -> Self {
        let tokenizer = match template.begins_texts() {
            true => tokenizer.with_special_tokens(false),
            false => tokenizer,
        };
        let now = Moment {
            context: Context::new(&model),
            turns: 0,
        };
        let branch = Branch {
            now,
            before: VecDeque::new(),
        };
        Self {
            model,
            tokenizer,
            template,
            system: None,
            branches: BTreeMap::from([(MAIN.to_owned(), branch)]),
            current: MAIN.to_owned(),
        }
    }

    fn branch(&mut self) -> &mut Branch {
        let branch = self.branches.get_mut(&self.current);
        branch.expect("the current branch is there")
    }

    /// Makes `next` the present; `undo` comes back.
    fn step(&mut self, next: Moment) {
        let branch = self.branch();
        branch
            .before
            .push_back(std::mem::replace(&mut branch.now, next));
        if branch.before.len() > MOST_UNDO {
            branch.before.pop_front();
        }
    }

    /// Gives the model a message and takes its answer, which `on_text` gets as it comes. A message that was
    /// not read to its end is as if it had not been given.
    ///
    /// # Errors
    /// A template or a tokenizer that refuses the message; a model that gives no numbers.
    pub(super) fn say(
        &mut self,
        text: &str,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<Generation> {
        let now = self.branch().now.clone();
        let system = self.system.as_deref();
        let prompt = match now.turns {
            0 => self
                .template
                .first(system, text, now.context.position() > 0)?,
            _ => self.template.later(system, text)?,
        };
        // The end of the answer before may have been said by the model itself.
        let said = now.context.past.recent.last().copied();
        let ended = said.filter(|token| {
            config.eos_token_id.contains(token) || self.tokenizer.eos_id() == Some(*token)
        });
        let ended = ended
            .and_then(|token| self.tokenizer.token(token))
            .unwrap_or_default();
        let prompt = match now.turns {
            0 => &*prompt,
            _ => prompt.strip_prefix(&*ended).unwrap_or(&prompt),
        };
        let config = GenerationConfig {
            stop: [config.stop.clone(), self.template.stops()].concat(),
            ..config.clone()
        };
        let (made, mut context) = generate_from(
            &self.model,
            &self.tokenizer,
            prompt,
            now.context.clone(),
            &config,
            on_text,
        )?;
        if made.prompt_left > 0 {
            return Ok(made);
        }
        if made.finish == FinishReason::Stop {
            // What stopped it is not part of the answer, and the next message brings it again.
            let draws = context.past.draws;
            context = now.context;
            let answered = format!("{prompt}{}", made.text);
            let answered = match context.position() {
                0 => self.tokenizer.encode_text(&answered)?,
                _ => self.tokenizer.encode(&answered)?,
            };
            for piece in answered.chunks(PIECE) {
                context.read(&self.model, piece)?;
            }
            context.past.draws = draws;
            context.past.keep_recent(&config);
        }
        self.step(Moment {
            context,
            turns: now.turns + 1,
        });
        Ok(made)
    }

    /// Goes back to before the last step; says whether there was one.
    pub(super) fn undo(&mut self) -> bool {
        let branch = self.branch();
        let before = branch.before.pop_back();
        let there = before.is_some();
        if let Some(before) = before {
            branch.now = before;
        }
        there
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        let context = Context::new(&self.model);
        self.step(Moment { context, turns: 0 });
    }

    /// Goes on in a copy called `name`.
    ///
    /// # Errors
    /// There is one of that name.
    pub(super) fn fork(&mut self, name: &str) -> anyhow::Result<()> {
        if self.branches.contains_key(name) {
            return Err(errors::usage(format!(
                "there is a {name} already; /switch {name} goes there"
            )));
        }
        let copy = self.branch().clone();
        self.branches.insert(name.to_owned(), copy);
        self.current = name.to_owned();
        Ok(())
    }

    /// Goes to another copy.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn switch(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.branches.contains_key(name) {
            let names: Vec<&str> = self.branches.keys().map(String::as_str).collect();
            return Err(errors::usage(format!(
                "there is no {name}, only {}",
                names.join(", ")
            )));
        }
        self.current = name.to_owned();
        Ok(())
    }

    /// Keeps it in a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        let note = Note {
            turns: self.branch().now.turns,
            system: self.system.clone(),
        };
        let note = serde_json::to_string(&note)?;
        let context = self.branch().now.context.clone();
        let identity = Identity::of(&self.model, Some(&self.tokenizer));
        context.save_noting(
            path,
            &identity,
            &[(NOTE, note), ("command", terminal::command_line())],
        )?;
        Ok(())
    }

    /// Goes on from a file: a conversation where it was left, or after any other text.
    ///
    /// # Errors
    /// The file is no state of this model and tokenizer.
    pub(super) fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let context = Context::load(path, &self.model, Some(&self.tokenizer))?;
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let notes = state_file::notes(&bytes)?;
        let note = notes.iter().find(|(key, _)| key == NOTE);
        let note = note
            .map(|(_, note)| serde_json::from_str::<Note>(note))
            .transpose();
        let note =
            note.with_context(|| format!("{}: its entry {NOTE:?} cannot be read", path.display()))?;
        if let Some(note) = &note {
            self.system.clone_from(&note.system);
        }
        let turns = note.map_or(0, |note| note.turns);
        self.step(Moment { context, turns });
        Ok(())
    }

    pub(super) fn stats(&mut self) -> Stats {
        let mark = |name: &String| match *name == self.current {
            true => format!("{name} (here)"),
            false => name.clone(),
        };
        let branches = self.branches.keys().map(mark).collect();
        let grows = self.model.config().grows_by().is_some();
        let branch = self.branch();
        Stats {
            position: branch.now.context.position(),
            turns: branch.now.turns,
            undo: branch.before.len(),
            state_bytes: branch.now.context.state.bytes(),
            grows,
            branches,
        }
    }
}
