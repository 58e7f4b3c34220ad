//! The model that a command is given: found and loaded by infinity-train, with notes on standard error.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use infinity_model::{ChatTemplate, Precision, Pretrained, Tokenizer};
use infinity_train::model_dir;
pub(crate) use infinity_train::model_dir::Found;
use infinity_train::run_dir::TOKENIZER;

use crate::terminal::{self, errors};

/// Which model a command is given.
#[derive(Debug, Args)]
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
    ///
    /// # Errors
    /// There is no such directory, or no model in it; the message says what was looked for.
    pub(crate) fn find(&self) -> anyhow::Result<Found> {
        Ok(model_dir::find_with(&self.model, self.adapter.as_deref())?)
    }
}

/// Loads a model onto a device, to compute in `precision`; on standard error which checkpoint it is, what the device
/// makes of the precision, and what in another family's files is not used, unless `quiet`.
///
/// # Errors
/// A file is missing, damaged, or does not fit the others, or the device cannot hold the weights.
pub(crate) fn load(
    found: &Found,
    precision: Precision,
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Pretrained> {
    let loaded = found.load(precision, device)?;
    if quiet {
        return Ok(loaded);
    }
    if let Some(text) = found.describe() {
        terminal::note(&text);
    }
    for note in &loaded.notes {
        terminal::warning(note);
    }
    if let Some(remark) = loaded.model.formats().remark() {
        terminal::note(&format!("precision {remark}"));
    }
    Ok(loaded)
}

/// How the conversations of a model are written: as what it learned from, else as the files say that lie in `directory`.
///
/// # Errors
/// A template that cannot be read.
pub(crate) fn template(found: &Found, directory: &Path) -> anyhow::Result<ChatTemplate> {
    Ok(match found.chat_template() {
        Some(path) => ChatTemplate::from_file(&path, directory)?,
        None => ChatTemplate::from_model_dir(directory)?,
    })
}

/// The tokenizer of the model in `directory`, where there is one.
///
/// # Errors
/// There is none.
pub(crate) fn needed(tokenizer: Option<Tokenizer>, directory: &Path) -> anyhow::Result<Tokenizer> {
    let shown = directory.display();
    tokenizer.with_context(|| format!("{shown} has no {TOKENIZER}, which text needs"))
}

/// Checks that what `flag` names can be written later, before there is something to lose.
///
/// # Errors
/// It is a directory, or no file can be made beside it.
pub(crate) fn can_hold(flag: &str, path: &Path) -> anyhow::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let shown = path.display();
    let refuse = |why: String| Err(errors::usage(format!("{flag}: {why}")));
    match (path.is_dir(), parent.is_dir()) {
        (true, _) => refuse(format!("{shown} is a directory")),
        (_, false) => refuse(format!(
            "there is no directory {} to write {shown} in",
            parent.display()
        )),
        _ => infinity_files::can_write(path)
            .or_else(|why| refuse(format!("{shown} cannot be written: {why}"))),
    }
}
