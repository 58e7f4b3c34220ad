//! The model that a command is given: found and loaded by infinity-train, with notes on standard error.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_model::{ChatTemplate, Precision, Pretrained, Tokenizer, state_file};
use infinity_train::model_dir;
pub(crate) use infinity_train::model_dir::Found;
use infinity_train::run_dir::TOKENIZER;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::device::{self, Chosen};
use crate::terminal::{self, refuse};

#[derive(Debug, Default, Args)]
pub(crate) struct ModelArgs {
    /// Model directory, the directory of a run, or a checkpoint: RUN/checkpoints/best
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Directory, run or checkpoint with adapters to add to the model
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
}

impl ModelArgs {
    /// The model that is meant, with the adapters that are meant.
    pub(crate) fn find(&self) -> anyhow::Result<Found> {
        Ok(model_dir::find_with(&self.model, self.adapter.as_deref())?)
    }
}

/// Opens the device that is wanted and loads a model onto it, to compute in `precision`; on standard error which
/// checkpoint it is, what the device makes of the precision, and what in another family's files is not used.
pub(crate) fn load(
    found: &Found,
    precision: Precision,
    global: &Global,
) -> anyhow::Result<(Chosen, Pretrained)> {
    let chosen = device::open(&device::wanted(global))?;
    let loaded = found.load(precision, &chosen.device)?;
    if let Some(text) = found.describe() {
        terminal::remark(&text);
    }
    for note in &loaded.notes {
        terminal::warning(note);
    }
    if let Some(remark) = loaded.model.formats().remark() {
        terminal::remark(&format!("precision {remark}"));
    }
    Ok((chosen, loaded))
}

/// Where the tokenizer of a model lies, and how its conversations are written: as what it learned from, else as the
/// files there say.
pub(crate) fn conversations(found: &Found) -> anyhow::Result<(PathBuf, ChatTemplate)> {
    let mut directory = found.tokenizer()?;
    directory.pop();
    let template = match found.chat_template() {
        Some(path) => ChatTemplate::from_file(&path, &directory)?,
        None => ChatTemplate::from_model_dir(&directory)?,
    };
    Ok((directory, template))
}

/// The tokenizer of the model in `directory`, where there is one.
pub(crate) fn needed(tokenizer: Option<Tokenizer>, directory: &Path) -> anyhow::Result<Tokenizer> {
    let shown = directory.display();
    tokenizer.with_context(|| format!("{shown} has no {TOKENIZER}, which text needs"))
}

/// What a command has put into a state file as its entry `name`.
pub(crate) fn note_in<T: DeserializeOwned>(path: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let notes = state_file::notes(&bytes).with_context(|| shown.to_string())?;
    let note = notes.iter().find(|(key, _)| key == name);
    let read = note.map(|(_, note)| serde_json::from_str(note)).transpose();
    read.with_context(|| format!("{shown}: its entry {name:?} cannot be read"))
}

/// Checks that what `flag` names can be written later, before there is something to lose.
pub(crate) fn can_hold(flag: &str, path: Option<&PathBuf>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let (shown, parent) = (path.display(), path.parent().unwrap_or(path));
    if path.is_dir() {
        refuse!("{flag}: {shown} is a directory");
    }
    // No parent is the present directory.
    if !Path::new(".").join(parent).is_dir() {
        let parent = parent.display();
        refuse!("{flag}: there is no directory {parent} to write {shown} in");
    }
    match infinity_files::can_write(path) {
        Ok(()) => Ok(()),
        Err(why) => refuse!("{flag}: {shown} cannot be written: {why}"),
    }
}
