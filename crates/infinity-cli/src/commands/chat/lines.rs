//! Lines that a person types, or that come through a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use anyhow::Context as _;
use rustyline::{Config, DefaultEditor, error::ReadlineError};

use crate::args::variable;
use crate::terminal;

/// Where lines come from.
pub(super) enum Lines {
    /// Standard input that is no terminal.
    Pipe,
    /// A terminal, and where its lines are kept.
    Editor(Box<DefaultEditor>, Option<PathBuf>),
}

impl Lines {
    /// Standard input, in an editor with the lines of `history` if that is a terminal.
    pub(super) fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Lines::Pipe);
        }
        let config = Config::builder()
            .auto_add_history(true)
            .max_history_size(1000)?
            .build();
        let mut editor = DefaultEditor::with_config(config)?;
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            terminal::alarm(&format!("{}: {error}", path.display()));
        }
        Ok(Lines::Editor(Box::new(editor), history))
    }

    /// The next line, or several that end with a backslash as one; nothing at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut text = String::new();
        loop {
            let Some(line) = self.one(if text.is_empty() { "> " } else { "… " })? else {
                return Ok((!text.is_empty()).then_some(text));
            };
            match line.strip_suffix('\\') {
                Some(part) => text += &format!("{part}\n"),
                None => return Ok(Some(text + &line)),
            }
        }
    }

    fn one(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        match self {
            Lines::Pipe => piped(),
            Lines::Editor(editor, _) => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => {
                        terminal::note("Ctrl-D or /exit ends the chat")
                    }
                    Err(error) => return Err(error).context("cannot read from the terminal"),
                }
            },
        }
    }
}

fn piped() -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut bytes);
    if read.context("cannot read standard input")? == 0 {
        return Ok(None);
    }
    let line = terminal::utf8(bytes, "a line of standard input")?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Lines that were typed are kept for the next time.
impl Drop for Lines {
    fn drop(&mut self) {
        if let Lines::Editor(editor, Some(path)) = self {
            if let Some(parent) = path.parent() {
                let _ = std::fs::create_dir_all(parent);
            }
            if let Err(error) = editor.save_history(path) {
                terminal::alarm(&format!("{}: {error}", path.display()));
            }
        }
    }
}

/// The history's place, where the system has one for such things.
pub(super) fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let state = (folder("XDG_STATE_HOME").or_else(|| folder("LOCALAPPDATA")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    Some(state?.join("infinity").join("chat_history"))
}
