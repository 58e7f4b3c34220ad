//! `infinity export MODEL -o DIR`: a model as a directory of its own, in another number format or in several files; or
//! adapters, as PEFT has them or merged into their model.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::{copy_conversations, copy_template, save_like};
use infinity_model::{Precision, SaveOptions, WeightFormat, save_pretrained_with};

use crate::args::{Global, in_units};
use crate::device;
use crate::model_dir::{self, ModelArgs};
use crate::terminal::{self, refuse};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    of: ModelArgs,
    /// Directory to write; a model that is there is replaced with --overwrite
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Number format of a model's weights: f32, bf16 or f16 [default: f32]
    #[arg(long, value_name = "FORMAT")]
    dtype: Option<WeightFormat>,
    /// Most bytes of one weight file of a model, as in 5GB or 500MiB (default: one file)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_shard_size: Option<u64>,
    /// Write adapters and the model that they belong to as one model, instead of the adapters alone
    #[arg(long)]
    merge: bool,
    /// Write it as this folder of another family is written, from which it comes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dtype", "max_shard_size"])]
    like: Option<PathBuf>,
    /// Replace a model that is there
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &ExportArgs, global: &Global) -> anyhow::Result<()> {
    let (found, target) = (args.of.find()?, &args.output_dir);
    let shown = target.display();
    let mut inside = target.read_dir().into_iter().flatten();
    if target.exists() && (!target.is_dir() || inside.next().is_some()) {
        // Nothing but a model is anybody's to replace.
        let mut names = ["config.json", "adapter_config.json"].iter();
        if !names.any(|name| target.join(name).is_file()) {
            refuse!("{shown} is there and is no model directory: name another");
        }
        if !args.overwrite {
            refuse!("{shown} is there: --overwrite replaces the model in it");
        }
    }
    let of_models = [
        ("--like", args.like.is_some()),
        ("--dtype", args.dtype.is_some()),
        ("--max-shard-size", args.max_shard_size.is_some()),
    ];
    if found.has_adapters() && !args.merge {
        if let Some((flag, _)) = of_models.iter().find(|(_, given)| *given) {
            refuse!(
                "{flag} is for a model, and these are adapters, which are written in one file with the numbers that \
                 they have: --merge makes one of both"
            );
        }
        let chosen = device::open(&device::wanted(global))?;
        found.save_adapter(target, &chosen.device)?;
        settle(target, found.chat_template())?;
        return said("adapter", target);
    }
    if args.merge && !found.has_adapters() {
        let model = args.of.model.display();
        refuse!("--merge: {model} has no adapters");
    }
    let (_, loaded) = model_dir::load(&found, Precision::F32, global)?;
    let (model, tokenizer) = (loaded.model, loaded.tokenizer.as_ref());
    if let Some(like) = &args.like {
        save_like(target, &model, like)?;
        settle(target, Some(like.join(TEMPLATE)))?;
        return said("model", target);
    }
    let options = SaveOptions {
        format: Some(args.dtype.unwrap_or(WeightFormat::F32)),
        max_shard_bytes: args.max_shard_size,
    };
    save_pretrained_with(target, &model, tokenizer, &loaded.generation, &options)?;
    // How a conversation is written is no part of what is loaded.
    let mut template = found.chat_template();
    if let Some(from) = found.tokenizer().ok().as_deref().and_then(Path::parent) {
        copy_conversations(target, from, tokenizer)?;
        template = template.or_else(|| Some(from.join(TEMPLATE)));
    }
    settle(target, template)?;
    said("model", target)
}

/// Leaves in `target` the chat template in the file `template`, if it is there, and none of a model that was there before.
fn settle(target: &Path, template: Option<PathBuf>) -> anyhow::Result<()> {
    let own = target.join(TEMPLATE);
    match template.filter(|path| path.is_file()) {
        Some(path) => copy_template(target, &path)?,
        None if own.is_file() => fs::remove_file(own)?,
        None => {}
    }
    Ok(())
}

fn said(what: &str, target: &Path) -> anyhow::Result<()> {
    let shown = target.display();
    let files = target.read_dir()?.flatten().map(|entry| entry.path());
    let weights = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let sizes = weights.map(|path| path.metadata().map_or(0, |data| data.len()));
    let (files, bytes) = sizes.fold((0, 0), |(files, sum), size| (files + 1, sum + size));
    let bytes = terminal::bytes(bytes);
    terminal::line(match files {
        1 => format!("{what} in {shown}: {bytes} of weights"),
        files => format!("{what} in {shown}: {bytes} of weights in {files} files"),
    })
}

/// A number of bytes with a unit, of 1000 (`MB`) or 1024 (`MiB`), or without one.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
        ("", 1),
    ];
    let bytes = in_units(&text.trim().to_ascii_lowercase(), &UNITS);
    bytes.ok_or_else(|| {
        "it must be a whole number above 0 with or without a unit, as in 5GB".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("2 GiB", 2 << 30),
            ("300mb", 300_000_000),
            ("7", 7),
            ("8B", 8),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in [
            "",
            "GB",
            "0",
            "-1MB",
            "1.5GB",
            "9999999999TB",
            "5 apples",
            "ß",
        ] {
            assert!(size(wrong).unwrap_err().contains("5GB"), "{wrong}");
        }
    }
}
