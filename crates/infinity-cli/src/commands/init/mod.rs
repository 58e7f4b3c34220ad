//! `infinity init [DIR]`: a folder with a run that trains from this program alone, and a text to read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_files::nearest;
use infinity_model::count::ParameterCount;
use infinity_train::config::{ConfigLayers, RunConfig};
use infinity_train::data::book;

use crate::args::Global;
use crate::terminal::{self, refuse};

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Size of the run; --list shows what there is
    #[arg(long, value_name = "NAME", default_value = "tiny")]
    preset: String,
    /// Show the presets and make nothing
    #[arg(long)]
    list: bool,
    /// Write over an infinity.toml or book.txt that is there
    #[arg(long)]
    force: bool,
}

/// The presets, a line each: its name, what stands in infinity.toml for the words of the first line, what it is for.
const PRESETS: &str = "\
name      hidden_size layers heads width kind entries window stories steps seconds rows every
tiny-char 128 3 2  256 char    0 256  6000   400 150  8  100 | characters; learns to spell in three minutes
tiny      128 3 2  256 bpe  1024 128  6000   400 150 12  100 | parts of words; tells stories after three minutes
small     256 6 4  512 bpe  2048 256 20000  3000   0 16  750 | a size for text of your own, an hour or more on a processor
medium    512 8 8 1024 bpe  4096 512 50000 10000   0 16 2500 | a size for megabytes of text and a GPU, or for a night";

/// A line of [`PRESETS`].
struct Preset {
    name: &'static str,
    values: &'static str,
    about: &'static str,
}

fn presets() -> impl Iterator<Item = Preset> {
    let lines = PRESETS.lines().filter_map(|line| line.split_once(" | "));
    lines.map(|(values, about)| Preset {
        name: values.split(' ').next().unwrap_or_default(),
        values,
        about,
    })
}

const CONFIG: &str = "infinity.toml";
const BOOK: &str = "book.txt";
/// How many there are in it.
const STORIES: u64 = 400;

pub(crate) fn run(args: &InitArgs, global: &Global) -> anyhow::Result<()> {
    if args.list {
        for preset in presets() {
            terminal::line(preset.line()?)?;
        }
        return Ok(());
    }
    let preset = preset(&args.preset)?;
    let seed = global.seed.unwrap_or(1);
    let directory = &args.directory;
    let files = [
        (directory.join(CONFIG), preset.toml(seed)),
        (directory.join(BOOK), book(seed, STORIES)),
    ];
    let shown = directory.display();
    if directory.exists() && !directory.is_dir() {
        refuse!("{shown} is a file, not a folder");
    }
    // Nothing of a person's is written over unless that is said.
    let there = files.iter().find(|(path, _)| path.exists());
    if let Some((path, _)) = there.filter(|_| !args.force) {
        let path = path.display();
        refuse!("{path} is there already; --force writes over it");
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the folder {shown}"))?;
    for (path, text) in &files {
        infinity_files::write(path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    terminal::told(next_steps(directory, &preset))
}

fn preset(name: &str) -> anyhow::Result<Preset> {
    if let Some(preset) = presets().find(|preset| preset.name == name) {
        return Ok(preset);
    }
    let names: Vec<&str> = presets().map(|preset| preset.name).collect();
    let meant = nearest(name, names.iter().copied());
    let meant = meant.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    let names = names.join(", ");
    refuse!("--preset: there is no `{name}`, only {names}{meant}")
}

fn next_steps(directory: &Path, preset: &Preset) -> String {
    let (shown, name) = (directory.display(), preset.name);
    let enter = match directory == Path::new(".") {
        true => String::new(),
        false => format!("  cd {shown}\n"),
    };
    format!(
        "{shown}: {CONFIG}, a run ({}), and {BOOK}, {STORIES} stories about the same people, to read\n\n\
         {enter}  infinity train {CONFIG}\n\
         \x20 infinity generate runs/{name}/final -p \"One day\"\n\
         \x20 infinity stream runs/{name}/final {BOOK} --state-out book.state",
        preset.about
    )
}

impl Preset {
    fn toml(&self, seed: u64) -> String {
        let words = PRESETS.lines().next().into_iter();
        let words = words.flat_map(str::split_whitespace);
        let text = include_str!("infinity.toml").replace("{seed}", &seed.to_string());
        let values = words.zip(self.values.split_whitespace());
        values.fold(text, |text, (word, value)| {
            text.replace(&format!("{{{word}}}"), value)
        })
    }

    fn config(&self) -> anyhow::Result<RunConfig> {
        let layers = ConfigLayers::new().text(self.name, &self.toml(1))?;
        Ok(layers.resolve()?.config)
    }

    /// For --list.
    fn line(&self) -> anyhow::Result<String> {
        let (config, name, about) = (self.config()?, self.name, self.about);
        let mut model = config.model.clone();
        // Of characters there are as many as the stories have.
        let entries = Some(config.tokenizer.train_bpe).filter(|entries| *entries > 0);
        model.vocab_size = entries.unwrap_or(60);
        let tokens = config.tokens_per_step() * config.training.max_steps;
        let parameters = ParameterCount::of(&model).total();
        let [parameters, tokens] = [parameters, tokens].map(|n| n as f64 / 1e6);
        Ok(format!(
            "{name:<10} {parameters:>5.1} M parameters, {tokens:>5.1} M tokens  {about}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_train::data::DataSource;

    #[test]
    fn every_preset_is_a_configuration_without_holes() {
        assert_eq!(presets().count(), 4);
        let words = PRESETS.lines().next().unwrap_or_default();
        for preset in presets() {
            let [words, values] = [words, preset.values].map(|of| of.split_whitespace().count());
            assert_eq!(words, values, "{}", preset.name);
        }
        for (preset, hidden_size) in presets().zip([128, 128, 256, 512]) {
            let text = preset.toml(9);
            assert!(!text.contains(['@', '{', '}']), "{text}");
            let config = preset.config().unwrap();
            assert_eq!(config.data.source, DataSource::Stories);
            assert_eq!(config.run.name, preset.name);
            assert_eq!(config.model.hidden_size, hidden_size);
            assert!(preset.line().unwrap().contains("M parameters"));
            // The other source, as the file says it is done.
            let own = text
                .replace(
                    "source = \"stories\"",
                    "source = \"files\"\ntrain_file = \"a.txt\"",
                )
                .replace(
                    &format!("[data.stories]\ncount = {}", config.data.stories.count),
                    "",
                );
            let layers = ConfigLayers::new().text("own", &own).unwrap();
            assert_eq!(
                layers.resolve().unwrap().config.data.source,
                DataSource::Files
            );
        }
    }

    #[test]
    fn a_mistyped_preset_is_answered_with_the_one_that_is_meant() {
        let message = preset("tiny-cahr").err().unwrap().to_string();
        assert!(message.contains("tiny-cahr") && message.contains("did you mean `tiny-char`"));
    }
}
