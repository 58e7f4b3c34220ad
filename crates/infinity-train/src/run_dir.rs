//! The directory of a run.
//!
//! ```text
//! config.toml  config.effective.toml  run.json  metrics.jsonl
//! checkpoints/step-00000500/…  samples/step-00000500.txt  final/{model.safetensors,config.json,…}
//! ```

use crate::checkpoint::CheckpointStore;
use crate::config::RunConfig;
use crate::error::TrainError;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Paths and open files of one run.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    metrics: Option<File>,
}

impl RunDir {
    /// Opens the run directory of `config`: a new one, or the old one when `resume_at` says which
    /// step goes on there.
    ///
    /// # Errors
    /// If it is in use and neither resumed nor to be overwritten, or cannot be written.
    pub fn open(config: &RunConfig, resume_at: Option<u64>) -> Result<Self, TrainError> {
        let root = config.output_dir();
        let used = root
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some());
        if used && resume_at.is_none() {
            if !config.run.overwrite {
                return Err(TrainError::OutputExists { path: root });
            }
            clear(&root).map_err(|source| write_error(&root, source))?;
        }
        fs::create_dir_all(&root).map_err(|source| write_error(&root, source))?;
        let mut run = RunDir {
            root,
            metrics: None,
        };
        if config.logging.jsonl {
            run.metrics = Some(run.open_metrics(resume_at)?);
        }
        Ok(run)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the finished model goes.
    pub fn final_model(&self) -> PathBuf {
        self.root.join("final")
    }

    /// The run's checkpoints.
    pub fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(self.root.join("checkpoints"))
    }

    /// Writes what was asked for (`config_text`), what it means, and where it ran.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn describe(
        &self,
        config: &RunConfig,
        config_text: &str,
        facts: &Value,
    ) -> Result<(), TrainError> {
        let run = json!({
            "infinity_version": env!("CARGO_PKG_VERSION"),
            "burn_version": "0.22.1",
            "seed": config.run.seed,
            "device": config.run.device,
            "facts": facts,
        });
        self.write("config.toml", config_text)?;
        self.write("config.effective.toml", &config.to_toml())?;
        self.write("run.json", &format!("{run:#}\n"))
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn log(&mut self, line: &Value) -> Result<(), TrainError> {
        let path = self.root.join("metrics.jsonl");
        match &mut self.metrics {
            Some(file) => {
                writeln!(file, "{line}").map_err(|source| TrainError::Write { path, source })
            }
            None => Ok(()),
        }
    }

    /// Writes a sample of step `step`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sample(&self, step: u64, text: &str) -> Result<(), TrainError> {
        let directory = self.root.join("samples");
        fs::create_dir_all(&directory).map_err(|source| write_error(&directory, source))?;
        self.write(&format!("samples/step-{step:08}.txt"), text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(|source| TrainError::Write { path, source })
    }

    /// `metrics.jsonl`, without the lines after the step that goes on: those steps run again.
    fn open_metrics(&self, resume_at: Option<u64>) -> Result<File, TrainError> {
        let path = self.root.join("metrics.jsonl");
        let kept: String = match resume_at {
            Some(step) => fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .filter(|line| is_before(line, step))
                .flat_map(|line| [line, "\n"])
                .collect(),
            None => String::new(),
        };
        // Under another name first: a run killed here must not lose what it logged before.
        let temporary = self.root.join(".tmp-metrics.jsonl");
        let opened = fs::write(&temporary, kept)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| OpenOptions::new().append(true).open(&path));
        opened.map_err(|source| TrainError::Write { path, source })
    }
}

/// Whether a metrics line belongs to a step up to `step`. Half a line is no line.
fn is_before(line: &str, step: u64) -> bool {
    let parsed: Option<Value> = serde_json::from_str(line).ok();
    parsed
        .and_then(|line| line["step"].as_u64())
        .is_some_and(|at| at <= step)
}

/// Empties a directory that holds a run, and refuses one that does not look like a run's.
fn clear(root: &Path) -> io::Result<()> {
    let entries: Vec<_> = fs::read_dir(root)?.collect::<Result<_, _>>()?;
    let is_run = entries.iter().any(|entry| {
        let name = entry.file_name();
        name == "config.effective.toml" || name == "metrics.jsonl" || name == "checkpoints"
    });
    if !is_run {
        return Err(io::Error::other(
            "it is not empty and holds no run; only a run's directory is overwritten",
        ));
    }
    for entry in entries {
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn write_error(path: &Path, source: io::Error) -> TrainError {
    TrainError::Write {
        path: path.to_path_buf(),
        source,
    }
}
