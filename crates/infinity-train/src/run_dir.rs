//! The directory of a run.
//!
//! ```text
//! config.toml  config.effective.toml  run.json  tokenizer.json  metrics.jsonl
//! tensorboard/events.out.tfevents.…
//! checkpoints/step-00000500/…  samples/step-00000500.txt  final/{model.safetensors,config.json,…}
//! .lock                        held by the process that trains here
//! ```

use crate::checkpoint::CheckpointStore;
use crate::config::RunConfig;
use crate::error::{CheckpointError, TrainError};
use crate::tensorboard::EventFile;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EFFECTIVE: &str = "config.effective.toml";
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
/// The tokenizer, in a run's directory as in a model's.
pub const TOKENIZER: &str = "tokenizer.json";
const LOCK: &str = ".lock";

/// Paths and open files of one run.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Whether anything is written at all.
    writes: bool,
    metrics: Option<File>,
    events: Option<EventFile>,
    /// What [`RunDir::describe`] wrote: names and texts.
    described: Vec<(&'static str, String)>,
    /// Nobody else trains here as long as it is open.
    lock: Option<File>,
}

impl RunDir {
    /// Opens the run directory of `config`: a new one, or the old one when `resume_at` says which
    /// step goes on there.
    ///
    /// # Errors
    /// If another process trains there, it is in use and neither resumed nor to be overwritten, or
    /// cannot be written.
    pub fn open(config: &RunConfig, resume_at: Option<u64>) -> Result<Self, TrainError> {
        let root = config.output_dir();
        let failed = |source| write_error(&root, source);
        let starts_anew = resume_at.is_none() && is_used(&root);
        if starts_anew && !config.run.overwrite {
            return Err(TrainError::OutputExists { path: root });
        }
        if starts_anew {
            is_run(&root).map_err(failed)?;
        }
        let run = Self::locked(config)?;
        if starts_anew {
            clear(&root).map_err(failed)?;
        }
        run.with_logs(config, resume_at)
    }

    /// Opens the run directory of `config` for a run that begins again because the one there was
    /// ended before its first checkpoint, or there was none.
    ///
    /// # Errors
    /// If anything else is there, whatever `run.overwrite` says, or as [`open`](Self::open).
    pub fn restart(config: &RunConfig) -> Result<Self, TrainError> {
        let root = config.output_dir();
        saved_nothing(&root)?;
        let run = Self::locked(config)?;
        // Nobody else writes there any more, who may have saved something in between.
        saved_nothing(&root)?;
        clear(&root).map_err(|source| write_error(&root, source))?;
        run.with_logs(config, None)
    }

    /// The directory, made and locked.
    fn locked(config: &RunConfig) -> Result<Self, TrainError> {
        let mut run = RunDir {
            writes: true,
            ..Self::nowhere(config)
        };
        fs::create_dir_all(&run.root).map_err(|source| write_error(&run.root, source))?;
        run.lock = Some(lock(&run.root)?);
        Ok(run)
    }

    fn with_logs(mut self, config: &RunConfig, resume_at: Option<u64>) -> Result<Self, TrainError> {
        if config.logging.jsonl {
            self.metrics = Some(self.open_metrics(resume_at)?);
        }
        if config.logging.tensorboard {
            let directory = self.root.join(TENSORBOARD);
            let events = EventFile::create(&directory, resume_at);
            self.events = Some(events.map_err(|source| write_error(&directory, source))?);
        }
        Ok(self)
    }

    /// Stands for the run directory of `config` where nothing is to be written.
    pub(crate) fn nowhere(config: &RunConfig) -> Self {
        RunDir {
            root: config.output_dir(),
            writes: false,
            metrics: None,
            events: None,
            described: Vec::new(),
            lock: None,
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

    /// Writes what was asked for (`config_text`), what it means, where it ran, and the text of its
    /// `tokenizer.json`, which its checkpoints need to be used before there is a finished model.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn describe(
        &mut self,
        config: &RunConfig,
        config_text: &str,
        facts: &Value,
        tokenizer: String,
    ) -> Result<(), TrainError> {
        let run = json!({
            "infinity_version": env!("CARGO_PKG_VERSION"),
            "burn_version": "0.22.1",
            "seed": config.run.seed,
            "device": config.run.device,
            "facts": facts,
        });
        self.described = vec![
            ("config.toml", config_text.to_owned()),
            (EFFECTIVE, config.to_toml()),
            ("run.json", format!("{run:#}\n")),
            (TOKENIZER, tokenizer),
        ];
        let mut files = self.described.iter();
        files.try_for_each(|(name, text)| self.write(name, text))
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
    /// does. What has been removed meanwhile is made again, with a notice of each: descriptions as
    /// they were, logs from here on.
    ///
    /// # Errors
    /// If it cannot be written, or another process trains in the directory that was removed.
    pub fn sync(&mut self) -> Result<Vec<String>, TrainError> {
        let root = &self.root;
        let mut notices = Vec::new();
        let mut gone = |path: &Path, now: &str| {
            let shown = path.display();
            notices.push(format!(
                "{shown} has been removed while the run goes on; it {now}"
            ));
        };
        fs::create_dir_all(root).map_err(|source| write_error(root, source))?;
        if !root.join(LOCK).exists() {
            self.lock = Some(lock(root)?);
        }
        for (name, text) in &self.described {
            let path = root.join(name);
            if !path.exists() {
                self.write(name, text)?;
                gone(&path, "is written again");
            }
        }
        if let Some(file) = &self.metrics {
            let path = root.join(METRICS);
            let failed = |source| write_error(&path, source);
            if path.exists() {
                file.sync_data().map_err(failed)?;
            } else {
                let new = OpenOptions::new().append(true).create(true).open(&path);
                self.metrics = Some(new.map_err(failed)?);
                gone(&path, "begins anew");
            }
        }
        if self.events.as_ref().is_some_and(|events| !events.exists()) {
            let directory = root.join(TENSORBOARD);
            let events = EventFile::create(&directory, None);
            self.events = Some(events.map_err(|source| write_error(&directory, source))?);
            gone(&directory, "begins anew");
        }
        Ok(notices)
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

/// Whether there is anything in a run directory but its lock.
pub fn is_used(root: &Path) -> bool {
    let mut entries = root.read_dir().into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name() != LOCK)
}

/// Refuses a directory that holds anything but what a run leaves that was ended before its first
/// checkpoint: descriptions, logs, samples, half of a checkpoint.
pub(crate) fn saved_nothing(root: &Path) -> Result<(), CheckpointError> {
    let refuse = |found| CheckpointError::None {
        path: root.join("checkpoints"),
        found: Some(found),
    };
    let begun = root.join(EFFECTIVE).exists();
    let ours = |name: &str| match name.trim_end_matches(".tmp") {
        // A file of these names alone may be what somebody wrote for the run to come.
        "config.toml" | TOKENIZER => begun,
        name => [EFFECTIVE, "run.json", METRICS, LOCK].contains(&name),
    };
    let inside = |name: &str| match name {
        "checkpoints" => Some(".tmp-"),
        "samples" => Some("step-"),
        TENSORBOARD => Some("events.out.tfevents."),
        _ => None,
    };
    for (name, path) in entries(root).map_err(refuse)? {
        let Some(prefix) = inside(&name) else {
            match ours(&name) {
                true => continue,
                false => return Err(refuse(path)),
            }
        };
        let other = |(name, _): &(String, PathBuf)| !name.starts_with(prefix);
        let held = entries(&path).map_err(refuse)?;
        if let Some((_, found)) = held.into_iter().find(other) {
            return Err(refuse(found));
        }
    }
    Ok(())
}

/// Names and paths in a directory, none where there is no such directory.
///
/// # Errors
/// Gives the directory back if it cannot be looked into: it may hold anything.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, PathBuf> {
    let list = || -> io::Result<Vec<(String, PathBuf)>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ))
        };
        fs::read_dir(directory)?.map(entry).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(_) => Err(directory.to_path_buf()),
        Ok(entries) => Ok(entries),
    }
}

/// Takes the lock of a run directory. The system frees it when the process ends, however it does.
fn lock(root: &Path) -> Result<File, TrainError> {
    let path = root.join(LOCK);
    let opened = OpenOptions::new().append(true).create(true).open(&path);
    let file = opened.map_err(|source| write_error(&path, source))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(TrainError::InUse { path: root.into() }),
        // Some network disks know no locks; training on them is better than not training.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

/// Refuses a directory that does not look like a run's.
fn is_run(root: &Path) -> io::Result<()> {
    let files = [EFFECTIVE, METRICS, "checkpoints"];
    match files.iter().any(|name| root.join(name).exists()) {
        true => Ok(()),
        false => Err(io::Error::other(
            "it is not empty and holds no run; only a run's directory is overwritten",
        )),
    }
}

/// Empties a directory, but for its lock.
fn clear(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if entry.file_name() == LOCK => {}
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
