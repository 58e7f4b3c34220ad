//! `infinity plot RUN…`: what runs logged, as a picture in SVG and PNG.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use infinity_plot::{Across, Run, figure};

use crate::args::Global;
use crate::terminal::{self, errors};

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// Run directories, or their metrics.jsonl
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// File to write: .svg or .png; without either, both [default: plot.svg and plot.png in the
    /// run's directory, or in this one for several runs]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the horizontal axis shows
    #[arg(long, value_name = "WHAT", default_value = "step")]
    x: X,
}

/// What the horizontal axis shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum X {
    /// Optimizer steps
    Step,
    /// Training tokens
    Tokens,
    /// Seconds of training
    Time,
}

pub(crate) fn run(args: &PlotArgs, global: &Global) -> anyhow::Result<u8> {
    let across = match args.x {
        X::Step => Across::Step,
        X::Tokens => Across::Tokens,
        X::Time => Across::Time,
    };
    let runs = read(&args.runs)?;
    let notes = runs.iter().flat_map(|run| &run.notes);
    notes.for_each(|note| terminal::warning(note));
    let svg = figure(&runs, across);
    for path in files(args)? {
        save(&svg, &path)?;
        if !global.quiet {
            terminal::line(&format!("written: {}", path.display()))?;
        }
    }
    Ok(errors::OK)
}

/// Writes a picture to a file that ends in .svg or .png.
pub(super) fn save(svg: &str, path: &Path) -> anyhow::Result<()> {
    let bytes = match path.extension().and_then(|end| end.to_str()) {
        Some("png") => png(svg)?,
        Some("svg") => svg.as_bytes().to_vec(),
        _ => {
            return Err(errors::usage(format!(
                "{}: name a file that ends in .svg or .png",
                path.display()
            )));
        }
    };
    infinity_files::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
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
    let both = |path: &Path| {
        ["svg", "png"]
            .map(|end| path.with_added_extension(end))
            .to_vec()
    };
    let Some(output) = &args.output else {
        return Ok(match &args.runs[..] {
            [run] if run.is_dir() => both(&run.join("plot")),
            [file] => both(&file.with_file_name("plot")),
            _ => both(Path::new("plot")),
        });
    };
    match output.extension().and_then(|end| end.to_str()) {
        Some("svg" | "png") => Ok(vec![output.clone()]),
        None if !output.is_dir() && output.file_name().is_some() => Ok(both(output)),
        _ => Err(errors::usage(format!(
            "--output {}: name a file that ends in .svg or .png, or in neither for both",
            output.display()
        ))),
    }
}

/// The picture in pixels.
#[cfg(feature = "png")]
fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    /// Pixels for each unit of the picture.
    const SCALE: f32 = 2.0;
    Ok(infinity_plot::png(svg, SCALE)?)
}

#[cfg(not(feature = "png"))]
fn png(_: &str) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("this build draws no PNG: name an .svg file, or build with `--features png`")
}
