//! The directory of a run.
//!
//! ```text
//! config.toml  config.effective.toml  run.json  metrics.jsonl  tensorboard/events.out.tfevents.…
//! checkpoints/step-00000500/…  samples/step-00000500.txt  final/{model.safetensors,config.json,…}
//! ```

use crate::checkpoint::CheckpointStore;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::tensorboard::EventFile;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";

/// Paths and open files of one run.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Whether anything is written at all.
    writes: bool,
    metrics: Option<File>,
    events: Option<EventFile>,
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
            writes: true,
            metrics: None,
            events: None,
        };
        if config.logging.jsonl {
            run.metrics = Some(run.open_metrics(resume_at)?);
        }
        if config.logging.tensorboard {
            let directory = run.root.join(TENSORBOARD);
            let events = EventFile::create(&directory, resume_at);
            run.events = Some(events.map_err(|source| write_error(&directory, source))?);
        }
        Ok(run)
    }

    /// Stands for the run directory of `config` where nothing is to be written.
    pub(crate) fn nowhere(config: &RunConfig) -> Self {
        RunDir {
            root: config.output_dir(),
            writes: false,
            metrics: None,
            events: None,
        }
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

    /// Adds a line to `metrics.jsonl`, and its numbers to TensorBoard's events.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn log(&mut self, line: &Value) -> Result<(), TrainError> {
        if let Some(file) = &mut self.metrics {
            let path = self.root.join(METRICS);
            // One write: a run that is killed leaves at most one torn line, the last.
            file.write_all(format!("{line}\n").as_bytes())
                .map_err(|source| write_error(&path, source))?;
        }
        if let Some(events) = &mut self.events {
            let path = self.root.join(TENSORBOARD);
            let step = line["step"].as_u64().unwrap_or_default();
            let keys = line.as_object().into_iter().flatten();
            let scalars: Vec<(&str, f64)> = keys
                .filter(|(key, _)| key.contains('/'))
                .filter_map(|(key, value)| Some((key.as_str(), value.as_f64()?)))
                .collect();
            events
                .scalars(step, &scalars)
                .map_err(|source| write_error(&path, source))?;
        }
        Ok(())
    }

    /// Makes sure that what was logged outlives the machine as the checkpoint of the same step
    /// does. Says so when the log has been removed meanwhile: it begins anew.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sync(&mut self) -> Result<Option<String>, TrainError> {
        let Some(file) = &self.metrics else {
            return Ok(None);
        };
        let path = self.root.join(METRICS);
        let failed = |source| write_error(&path, source);
        if path.exists() {
            file.sync_data().map_err(failed)?;
            return Ok(None);
        }
        fs::create_dir_all(&self.root).map_err(failed)?;
        let new = OpenOptions::new().append(true).create(true).open(&path);
        self.metrics = Some(new.map_err(failed)?);
        Ok(Some(format!(
            "{} has been removed while the run goes on; it begins anew",
            path.display()
        )))
    }

    /// Writes a sample of step `step`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sample(&self, step: u64, text: &str) -> Result<(), TrainError> {
        if !self.writes {
            return Ok(());
        }
        let directory = self.root.join("samples");
        fs::create_dir_all(&directory).map_err(|source| write_error(&directory, source))?;
        self.write(&format!("samples/step-{step:08}.txt"), text)
    }

    /// Beside its place first: what is there is whole.
    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.root.join(name);
        let temporary = path.with_added_extension("tmp");
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            TrainError::Write { path, source }
        })
    }

    /// `metrics.jsonl`, without the lines after the step that goes on: those steps run again.
    fn open_metrics(&self, resume_at: Option<u64>) -> Result<File, TrainError> {
        let path = self.root.join(METRICS);
        let kept: String = match resume_at {
            // A torn end can be half a character, which must not cost the lines before it.
            Some(step) => String::from_utf8_lossy(&fs::read(&path).unwrap_or_default())
                .lines()
                .filter(|line| is_before(line, step))
                .flat_map(|line| [line, "\n"])
                .collect(),
            None => String::new(),
        };
        self.write(METRICS, &kept)?;
        let opened = OpenOptions::new().append(true).open(&path);
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
