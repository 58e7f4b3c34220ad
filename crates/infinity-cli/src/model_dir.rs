//! The model that a command is given: found and loaded by infinity-train, with notes on standard error.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use infinity_model::{ChatTemplate, Precision, Pretrained, Tokenizer};
use infinity_train::config::ConfigLayers;
use infinity_train::model_dir;
use infinity_train::run_dir::TOKENIZER;

use crate::terminal::{self, errors};

/// A model that was found and not loaded yet.
#[derive(Debug)]
pub(crate) struct Found(model_dir::Found);

/// The model meant by `given`: a model directory, a run directory, `checkpoints/step-N` or `checkpoints/best` in a run
/// directory, or a directory of adapters; with the adapters in `adapter`, if that is given.
///
/// # Errors
/// There is no such directory, or no model in it; the message says what was looked for.
pub(crate) fn find(given: &Path, adapter: Option<&Path>) -> anyhow::Result<Found> {
    Ok(Found(model_dir::find_with(given, adapter)?))
}

impl Found {
    /// Loads it onto a device, to compute in `precision`; on standard error which checkpoint it is, what the device
    /// makes of the precision, and what in another family's files is not used, unless `quiet`.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not fit the others, or the device cannot hold the weights.
    pub(crate) fn load(
        &self,
        precision: Precision,
        device: &Device,
        quiet: bool,
    ) -> anyhow::Result<Pretrained> {
        let loaded = self.0.load(precision, device)?;
        if quiet {
            return Ok(loaded);
        }
        if let Some(text) = self.0.describe() {
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

    /// Whether it is adapters and the model that they belong to.
    pub(crate) fn has_adapters(&self) -> bool {
        self.0.has_adapters()
    }

    /// Writes the adapters alone, for PEFT.
    ///
    /// # Errors
    /// They cannot be loaded or written.
    pub(crate) fn save_adapter(&self, dir: &Path, device: &Device) -> anyhow::Result<()> {
        Ok(self.0.save_adapter(dir, device)?)
    }

    /// The `tokenizer.json` of the model.
    ///
    /// # Errors
    /// It is not there, or not the one that a checkpoint was trained with.
    pub(crate) fn tokenizer(&self) -> anyhow::Result<PathBuf> {
        Ok(self.0.tokenizer()?)
    }

    /// The file that says how the conversations were written that it learned from, if there is one.
    pub(crate) fn chat_template(&self) -> Option<PathBuf> {
        self.0.chat_template()
    }

    /// How its conversations are written: as what it learned from, else as the files say that lie in `directory`.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub(crate) fn template(&self, directory: &Path) -> anyhow::Result<ChatTemplate> {
        Ok(match self.chat_template() {
            Some(path) => ChatTemplate::from_file(&path, directory)?,
            None => ChatTemplate::from_model_dir(directory)?,
        })
    }

    /// The configuration of the run that made it; of a model that lies in no run, its window.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub(crate) fn layers(&self) -> anyhow::Result<ConfigLayers> {
        Ok(self.0.layers()?)
    }
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
