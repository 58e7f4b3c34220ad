//! `infinity export MODEL -o DIR`: a model as a directory of its own, in another number format or in several files; or
//! adapters, as PEFT has them or merged into their model.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::{copy_conversations, copy_template, save_like};
use infinity_model::{Precision, Pretrained, SaveOptions, WeightFormat, save_pretrained_with};

use crate::args::Global;
use crate::device;
use crate::model_dir::{self, ModelArgs};
use crate::terminal::{self, errors};

/// Which model, where to, and how.
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

/// Loads and writes.
pub(crate) fn run(args: &ExportArgs, global: &Global) -> anyhow::Result<u8> {
    let (found, target) = (args.of.find()?, &args.output_dir);
    let shown = target.display();
    let mut inside = target.read_dir().into_iter().flatten();
    if target.exists() && (!target.is_dir() || inside.next().is_some()) {
        // Nothing but a model is anybody's to replace.
        let names = ["config.json", "adapter_config.json"];
        if !names.iter().any(|name| target.join(name).is_file()) {
            return Err(errors::usage(format!(
                "{shown} is there and is no model directory: name another"
            )));
        }
        if !args.overwrite {
            return Err(errors::usage(format!(
                "{shown} is there: --overwrite replaces the model in it"
            )));
        }
    }
    let chosen = device::open(&device::wanted(global))?;
    let of_models = [
        ("--like", args.like.is_some()),
        ("--dtype", args.dtype.is_some()),
        ("--max-shard-size", args.max_shard_size.is_some()),
    ];
    let given = of_models.into_iter().find(|(_, given)| *given);
    match (found.has_adapters(), args.merge) {
        (true, false) if given.is_some() => {
            let flag = given.map_or("", |(flag, _)| flag);
            return Err(errors::usage(format!(
                "{flag} is for a model, and these are adapters, which are written in one file with the numbers that \
                 they have: --merge makes one of both"
            )));
        }
        (true, false) => {
            found.save_adapter(target, &chosen.device)?;
            settle(target, found.chat_template())?;
            return said("adapter", target);
        }
        (false, true) => {
            let model = args.of.model.display();
            return Err(errors::usage(format!("--merge: {model} has no adapters")));
        }
        _ => {}
    }
    let Pretrained {
        model,
        tokenizer,
        generation,
        ..
    } = model_dir::load(&found, Precision::F32, &chosen.device, global.quiet)?;
    if let Some(like) = &args.like {
        save_like(target, &model, like)?;
        settle(target, Some(like.join(TEMPLATE)))?;
        return said("model", target);
    }
    let options = SaveOptions {
        format: Some(args.dtype.unwrap_or(WeightFormat::F32)),
        max_shard_bytes: args.max_shard_size,
    };
    save_pretrained_with(target, &model, tokenizer.as_ref(), &generation, &options)?;
    // How a conversation is written is no part of what is loaded.
    let mut template = found.chat_template();
    if let Some(from) = found.tokenizer().ok().as_deref().and_then(Path::parent) {
        copy_conversations(target, from, tokenizer.as_ref())?;
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

/// Says what was written.
fn said(what: &str, target: &Path) -> anyhow::Result<u8> {
    let shown = target.display();
    let files = target.read_dir()?.flatten().map(|entry| entry.path());
    let weights: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    let sizes = weights
        .iter()
        .filter_map(|path| Some(path.metadata().ok()?.len()));
    let bytes = terminal::bytes(sizes.sum());
    terminal::line(&match weights.len() {
        1 => format!("{what} in {shown}: {bytes} of weights"),
        files => format!("{what} in {shown}: {bytes} of weights in {files} files"),
    })?;
    Ok(errors::OK)
}

/// A number of bytes with a unit, of 1000 (`MB`) or 1024 (`MiB`), or without one.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let text = text.trim();
    let ends = |unit: &str| {
        let at = text
            .len()
            .checked_sub(unit.len())
            .filter(|at| text.is_char_boundary(*at))?;
        let (number, end) = text.split_at(at);
        end.eq_ignore_ascii_case(unit).then_some(number.trim_end())
    };
    let (number, unit) = (UNITS.into_iter())
        .find_map(|(unit, bytes)| Some((ends(unit)?, bytes)))
        .unwrap_or((text, 1));
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
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
