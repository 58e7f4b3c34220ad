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

/// Checks that what `flag` names can be written later, before there is something to lose.
pub(crate) fn can_hold(flag: &str, path: &Path) -> anyhow::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let shown = path.display();
    let possible = match (path.is_dir(), parent.is_dir()) {
        (true, _) => Err(format!("{shown} is a directory")),
        (_, false) => Err(format!(
            "there is no directory {} to write {shown} in",
            parent.display()
        )),
        _ => infinity_files::can_write(path)
            .map_err(|why| format!("{shown} cannot be written: {why}")),
    };
    possible.map_err(|why| errors::usage(format!("{flag}: {why}")))
}
