//! A conversation as what the model remembers of it: a state of fixed size, however long it is.
//!
//! No text is kept and none is read twice. What a message adds is what the chat template writes between an
//! answer and the next one, which is found by rendering a conversation of two turns. `undo`, `fork` and a
//! file each keep a state.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use infinity_model::generate::{Context, FinishReason, Generation, Identity, generate_from};
use infinity_model::{ChatTemplate, GenerationConfig, InfinityModel, Tokenizer};
use infinity_train::metrics::resident_bytes;
use serde::{Deserialize, Serialize};

use super::template::{later, messages};
use crate::model_dir::note_in;
use crate::terminal::{self, refuse};

/// States that `undo` goes back to, at most.
const MOST_UNDO: usize = 64;
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

/// One line of a conversation: moments that `undo` goes back to, and the present one, which is the last.
type Branch = VecDeque<Moment>;

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
    template: ChatTemplate,
    /// Instructions that a new conversation begins with.
    pub(super) system: Option<String>,
    branches: BTreeMap<String, Branch>,
    current: String,
}

impl Conversation {
    pub(super) fn new(model: InfinityModel, tokenizer: Tokenizer, template: ChatTemplate) -> Self {
        // A template writes the tokens that begin a text itself, where a model has them.
        let tokenizer = match template.is_plain() {
            true => tokenizer,
            false => tokenizer.with_special_tokens(false),
        };
        let context = Context::new(&model);
        let branch = Branch::from([Moment { context, turns: 0 }]);
        let current = "main".to_owned();
        Self {
            model,
            tokenizer,
            template,
            system: None,
            branches: BTreeMap::from([(current.clone(), branch)]),
            current,
        }
    }

    fn branch(&mut self) -> &mut Branch {
        let branch = self.branches.get_mut(&self.current);
        branch.expect("the current branch is there")
    }

    fn now(&self) -> &Moment {
        let now = self.branches[&self.current].back();
        now.expect("a branch has a present moment")
    }

    /// Makes `next` the present; `undo` comes back.
    fn step(&mut self, next: Moment) {
        let branch = self.branch();
        branch.push_back(next);
        if branch.len() > 1 + MOST_UNDO {
            branch.pop_front();
        }
    }

    /// Gives the model a message and takes its answer, which `on_text` gets as it comes. A message that was
    /// not read to its end is as if it had not been given.
    pub(super) fn say(
        &mut self,
        text: &str,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<Generation> {
        let now = self.now().clone();
        let system = self.system.as_deref();
        let prompt = match (now.turns, now.context.position() > 0) {
            (0, follows) => {
                (self.template).render(&messages(system, &[("user", text)]), follows)?
            }
            _ => later(&self.template, system, text)?,
        };
        // The end of the answer before may have been said by the model itself.
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let said = now.context.past.recent.last().copied();
        let ends =
            |token: &u32| config.eos_token_id.contains(token) || tokenizer.eos_id() == Some(*token);
        let ended = said.filter(|token| now.turns > 0 && ends(token));
        let ended = ended.and_then(|token| tokenizer.token(token));
        let ended = ended.unwrap_or_default();
        let prompt = prompt.strip_prefix(&*ended).unwrap_or(&prompt);
        let mut config = config.clone();
        // Texts that end an answer, where no token does.
        let stops = self.template.stops().iter();
        config.stop.extend(stops.map(|stop| (*stop).to_owned()));
        let start = now.context.clone();
        let (made, mut context) = generate_from(model, tokenizer, prompt, start, &config, on_text)?;
        if made.prompt_left > 0 {
            return Ok(made);
        }
        if made.finish == FinishReason::Stop {
            // What stopped it is not part of the answer, and the next message brings it again.
            let draws = context.past.draws;
            context = now.context;
            let answered = format!("{prompt}{}", made.text);
            let answered = match context.position() {
                0 => tokenizer.encode_text(&answered)?,
                _ => tokenizer.encode(&answered)?,
            };
            for piece in answered.chunks(PIECE) {
                context.read(model, piece)?;
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
        branch.len() > 1 && branch.pop_back().is_some()
    }

    pub(super) fn reset(&mut self) {
        let context = Context::new(&self.model);
        self.step(Moment { context, turns: 0 });
    }

    /// Goes on in a copy called `name`.
    pub(super) fn fork(&mut self, name: &str) -> anyhow::Result<()> {
        if self.branches.contains_key(name) {
            refuse!("there is a {name} already; /switch {name} goes there");
        }
        let copy = self.branch().clone();
        self.branches.insert(name.to_owned(), copy);
        self.switch(name)
    }

    pub(super) fn switch(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.branches.contains_key(name) {
            let names: Vec<&str> = self.branches.keys().map(String::as_str).collect();
            refuse!("there is no {name}, only {}", names.join(", "));
        }
        self.current = name.to_owned();
        terminal::remark(&format!("in {name}"));
        Ok(())
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let Moment { context, turns } = self.now();
        let (turns, system) = (*turns, self.system.clone());
        let note = serde_json::to_string(&Note { turns, system })?;
        let identity = Identity::of(&self.model, Some(&self.tokenizer));
        let notes = [(NOTE, note), ("command", terminal::command_line())];
        context.save_in(path, &identity, &notes, None)?;
        Ok(())
    }

    /// Goes on from a file: a conversation where it was left, or after any other text.
    pub(super) fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let context = Context::load(path, &self.model, Some(&self.tokenizer))?;
        let mut turns = 0;
        if let Some(note) = note_in::<Note>(path, NOTE)? {
            (turns, self.system) = (note.turns, note.system);
        }
        self.step(Moment { context, turns });
        Ok(())
    }

    pub(super) fn position(&self) -> u64 {
        self.now().context.position()
    }

    pub(super) fn stats(&self) -> String {
        let here = |name: &String| if *name == self.current { " (here)" } else { "" };
        let names = self.branches.keys();
        let names = names.map(|name| format!("{name}{}", here(name)));
        let names = names.collect::<Vec<_>>().join(", ");
        let grows = match self.model.config().grows_by() {
            Some(_) => "and more with every token",
            None => "whatever their number",
        };
        let Moment { context, turns } = self.now();
        format!(
            "tokens remembered   {}\nmessages            {turns}\nto take back        {}\n\
             state               {}, {grows}\nbranches            {names}\nresident memory     {}",
            terminal::grouped(context.position()),
            self.branches[&self.current].len() - 1,
            terminal::bytes(context.state.bytes() as u64),
            terminal::bytes(resident_bytes()),
        )
    }
}
