//! `infinity plot RUN…`: what runs logged, as a picture in SVG and PNG.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_plot::{Across, Run, figure};

use crate::terminal::{self, refuse};

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// Run directories, or their metrics.jsonl
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// File to write: .svg or .png; without either, both [default: plot.svg and plot.png in the
    /// run's directory, or in this one for several runs]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the horizontal axis shows: optimizer steps, training tokens, or seconds of training
    #[arg(long, value_name = "WHAT", default_value = "step", value_parser = ["step", "tokens", "time"])]
    x: String,
}

pub(crate) fn run(args: &PlotArgs) -> anyhow::Result<()> {
    let across = match &*args.x {
        "tokens" => Across::Tokens,
        "time" => Across::Time,
        _ => Across::Step,
    };
    let runs = read(&args.runs)?;
    let notes = runs.iter().flat_map(|run| &run.notes);
    notes.for_each(|note| terminal::warning(note));
    let svg = figure(&runs, across);
    for path in files(args)? {
        save(&svg, &path, true)?;
    }
    Ok(())
}

/// Whether a picture can be written to `path`.
pub(super) fn is_picture(path: &Path) -> bool {
    let end = path.extension();
    end.is_some_and(|end| end == "svg" || end == "png")
}

/// Writes a picture to a file that ends in .svg or .png, and says so where it is `told`.
pub(super) fn save(svg: &str, path: &Path, told: bool) -> anyhow::Result<()> {
    let bytes = match path.extension().is_some_and(|end| end == "png") {
        true => png(svg)?,
        false => svg.as_bytes().to_vec(),
    };
    let shown = path.display();
    infinity_files::write(path, &bytes).with_context(|| format!("cannot write {shown}"))?;
    match told {
        true => terminal::told(format!("written: {shown}")),
        false => Ok(()),
    }
}

/// The runs, with their paths for names where names alone do not tell them apart.
fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    let runs = paths.iter().map(|path| Run::read(path));
    let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, path) in runs.iter_mut().zip(paths) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = path.display().to_string();
        }
    }
    Ok(runs)
}

fn files(args: &PlotArgs) -> anyhow::Result<Vec<PathBuf>> {
    let path = match (&args.output, &args.runs[..]) {
        (Some(output), _) if is_picture(output) => return Ok(vec![output.clone()]),
        (Some(output), _) => output.clone(),
        (None, [run]) if run.is_dir() => run.join("plot"),
        (None, [file]) => file.with_file_name("plot"),
        (None, _) => "plot".into(),
    };
    if args.output.is_some()
        && (path.extension().is_some() || path.is_dir() || path.file_name().is_none())
    {
        refuse!(
            "--output {}: name a file that ends in .svg or .png, or in neither for both",
            path.display()
        );
    }
    let ends = ["svg", "png"];
    Ok(ends.map(|end| path.with_added_extension(end)).into())
}

/// The picture in pixels, two for each of its units.
#[cfg(feature = "png")]
fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    Ok(infinity_plot::png(svg, 2.0)?)
}

#[cfg(not(feature = "png"))]
fn png(_: &str) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("this build draws no PNG: name an .svg file, or build with `--features png`")
}
