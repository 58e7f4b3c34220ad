//! `infinity init [DIR]`: a folder with a run that trains from this program alone, and a text to read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use infinity_files::nearest;
use infinity_model::ModelConfig;
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

/// A run by its sizes.
struct Preset {
    name: &'static str,
    about: &'static str,
    hidden_size: usize,
    layers: usize,
    heads: usize,
    /// Entries of the BPE; 0 learns characters.
    entries: usize,
    window: usize,
    rows: usize,
    steps: usize,
    /// Seconds after which it ends in any case; 0: none.
    seconds: usize,
    stories: usize,
}

const TINY: Preset = Preset {
    name: "tiny",
    about: "parts of words; tells stories after three minutes",
    hidden_size: 128,
    layers: 3,
    heads: 2,
    entries: 1024,
    window: 128,
    rows: 12,
    steps: 400,
    seconds: 150,
    stories: 6000,
};

const PRESETS: [Preset; 4] = [
    Preset {
        name: "tiny-char",
        about: "characters; learns to spell in three minutes",
        entries: 0,
        window: 256,
        rows: 8,
        ..TINY
    },
    TINY,
    Preset {
        name: "small",
        about: "a size for text of your own, an hour or more on a processor",
        hidden_size: 256,
        layers: 6,
        heads: 4,
        entries: 2048,
        window: 256,
        rows: 16,
        steps: 3000,
        seconds: 0,
        stories: 20_000,
    },
    Preset {
        name: "medium",
        about: "a size for megabytes of text and a GPU, or for a night",
        hidden_size: 512,
        layers: 8,
        heads: 8,
        entries: 4096,
        window: 512,
        rows: 16,
        steps: 10_000,
        seconds: 0,
        stories: 50_000,
    },
];

const CONFIG: &str = "infinity.toml";
const BOOK: &str = "book.txt";
/// How many there are in it.
const STORIES: u64 = 400;

pub(crate) fn run(args: &InitArgs, global: &Global) -> anyhow::Result<()> {
    if args.list {
        for preset in &PRESETS {
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
    match global.quiet {
        true => Ok(()),
        false => terminal::line(next_steps(directory, preset)),
    }
}

fn preset(name: &str) -> anyhow::Result<&'static Preset> {
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
        return Ok(preset);
    }
    let names = PRESETS.each_ref().map(|preset| preset.name);
    let meant = nearest(name, names.iter().copied());
    let meant = meant.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    refuse!(
        "--preset: there is no `{name}`, only {}{meant}",
        names.join(", ")
    )
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
        format!(
            include_str!("infinity.toml"),
            name = self.name,
            seed = seed,
            hidden_size = self.hidden_size,
            layers = self.layers,
            heads = self.heads,
            intermediate_size = 2 * self.hidden_size,
            tokenizer = match self.entries {
                0 => "kind = \"char\"".to_owned(),
                entries => format!("kind = \"bpe\"\ntrain_bpe = {entries}"),
            },
            window = self.window,
            stories = self.stories,
            steps = self.steps,
            limit = match self.seconds {
                0 => String::new(),
                seconds => format!("max_seconds = {seconds}\n"),
            },
            rows = self.rows,
            every = self.steps / 4,
        )
    }

    fn config(&self) -> anyhow::Result<RunConfig> {
        let layers = ConfigLayers::new().text(self.name, &self.toml(1))?;
        Ok(layers.resolve()?.config)
    }

    /// For --list.
    fn line(&self) -> anyhow::Result<String> {
        let config = self.config()?;
        // Of characters there are as many as the stories have.
        let vocab_size = if self.entries == 0 { 60 } else { self.entries };
        let model = ModelConfig {
            vocab_size,
            ..config.model.clone()
        };
        let parameters = ParameterCount::of(&model).total() as f64 / 1e6;
        let tokens = config.tokens_per_step() * self.steps as u64;
        Ok(format!(
            "{:<10} {parameters:>5.1} M parameters, {:>5.1} M tokens  {}",
            self.name,
            tokens as f64 / 1e6,
            self.about
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_train::data::DataSource;

    #[test]
    fn every_preset_is_a_configuration_without_holes() {
        for preset in &PRESETS {
            let text = preset.toml(9);
            assert!(!text.contains(['@', '{', '}']), "{text}");
            let config = preset.config().unwrap();
            assert_eq!(config.data.source, DataSource::Stories);
            assert_eq!(config.run.name, preset.name);
            assert_eq!(config.model.hidden_size, preset.hidden_size);
            assert!(preset.line().unwrap().contains("M parameters"));
            // The other source, as the file says it is done.
            let own = text
                .replace(
                    "source = \"stories\"",
                    "source = \"files\"\ntrain_file = \"a.txt\"",
                )
                .replace(&format!("[data.stories]\ncount = {}", preset.stories), "");
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
