//! The model that a command is given: found and loaded by infinity-train, with notes on standard error.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use infinity_model::{ChatTemplate, Precision, Pretrained, Tokenizer, state_file};
use infinity_train::model_dir;
pub(crate) use infinity_train::model_dir::Found;
use infinity_train::run_dir::TOKENIZER;
use serde::de::DeserializeOwned;

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

/// Loads a model onto a device, to compute in `precision`; on standard error which checkpoint it is, what the device
/// makes of the precision, and what in another family's files is not used.
pub(crate) fn load(
    found: &Found,
    precision: Precision,
    device: &Device,
) -> anyhow::Result<Pretrained> {
    let loaded = found.load(precision, device)?;
    if let Some(text) = found.describe() {
        terminal::remark(&text);
    }
    for note in &loaded.notes {
        terminal::warning(note);
    }
    if let Some(remark) = loaded.model.formats().remark() {
        terminal::remark(&format!("precision {remark}"));
    }
    Ok(loaded)
}

/// How the conversations of a model are written: as what it learned from, else as the files say that lie in `directory`.
pub(crate) fn template(found: &Found, directory: &Path) -> anyhow::Result<ChatTemplate> {
    Ok(match found.chat_template() {
        Some(path) => ChatTemplate::from_file(&path, directory)?,
        None => ChatTemplate::from_model_dir(directory)?,
    })
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
