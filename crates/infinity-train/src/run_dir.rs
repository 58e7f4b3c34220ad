//! The directory of a run.
//!
//! ```text
//! run.json  config.toml  config.effective.toml  tokenizer.json  metrics.jsonl
//! tokenizer_config.json  chat_template.jinja   where the tokenizer has them, or rows are conversations
//! tensorboard/events.out.tfevents.…
//! checkpoints/step-00000500/…  samples/step-00000500.txt  final/{model.safetensors,config.json,…}
//! .lock                        held by the process that trains here
//! ```
//!
//! `run.json` is what makes a directory a run: none without it is overwritten, and then only files
//! that this program wrote are removed.

use crate::checkpoint::{BEST, PREFIX, TrainerState, is_part};
use crate::config::RunConfig;
use crate::error::{CheckpointError, TrainError};
use crate::metrics::tensorboard::EventFile;
use infinity_files::Lock;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::is_part as is_model_file;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Versions, seed, device, data.
pub(crate) const RUN: &str = "run.json";
/// The configuration as it was written.
pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const EFFECTIVE: &str = "config.effective.toml";
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const SAMPLES: &str = "samples";
/// Where a run puts its finished model.
pub const FINAL: &str = "final";
/// The tokenizer, in a run's directory as in a model's.
pub const TOKENIZER: &str = "tokenizer.json";
/// What is known of it, in either.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const LOCK: &str = ".lock";

/// How a run comes to its directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opens<'a> {
    /// A new run, over an old one where `run.overwrite` says so.
    Anew,
    /// Begins again because the one there was ended before its first checkpoint, or there was none.
    Again,
    /// Goes on from the checkpoint of this state.
    After(&'a TrainerState),
}

/// Paths and open files of one run.
#[derive(Debug, Default)]
pub(crate) struct RunDir {
    root: PathBuf,
    metrics: Option<File>,
    events: Option<EventFile>,
    /// Names and texts of the descriptions.
    described: Vec<(&'static str, String)>,
    /// Nobody else trains here as long as it is held. Without one nothing is written.
    lock: Option<Lock>,
}

impl RunDir {
    /// Opens the run directory of `config`, unless another process trains there or it holds anything that this run must
    /// not replace, with what a person should know of it in `notices`. `described` are names and texts of what says what
    /// the run is.
    pub(crate) fn open(
        config: &RunConfig,
        opens: Opens<'_>,
        described: Vec<(&'static str, String)>,
        notices: &mut Vec<String>,
    ) -> Result<Self, TrainError> {
        let root = config.output_dir();
        let replaces = matches!(opens, Opens::Anew) && is_used(&root);
        match opens {
            Opens::Anew if replaces && !config.run.overwrite => {
                return Err(TrainError::OutputExists { path: root });
            }
            Opens::Anew => {
                refuse_place(&root, config)?;
                if replaces {
                    refuse_foreign(&root)?;
                }
            }
            Opens::Again => saved_nothing(&root)?,
            Opens::After(_) => {}
        }
        let mut run = Self::nowhere(config);
        fs::create_dir_all(&root).map_err(failed(&root))?;
        run.lock = Some(lock(&root)?);
        if matches!(opens, Opens::Again) {
            // Nobody else writes there any more, who may have saved something in between.
            saved_nothing(&root)?;
        }
        if replaces || matches!(opens, Opens::Again) {
            clear(&root, notices).map_err(failed(&root))?;
        }
        run.described = described;
        run.described.push((EFFECTIVE, config.to_toml()));
        for (name, text) in &run.described {
            run.write(name, text)?;
        }
        if config.logging.jsonl {
            run.metrics = Some(run.open_metrics(opens, notices)?);
        }
        if config.logging.tensorboard {
            let after = match opens {
                Opens::After(state) => Some(state.step),
                _ => None,
            };
            let directory = root.join(TENSORBOARD);
            let events = EventFile::create(&directory, after);
            run.events = Some(events.map_err(failed(&directory))?);
        }
        Ok(run)
    }

    /// Stands for the run directory of `config` where nothing is to be written.
    pub(crate) fn nowhere(config: &RunConfig) -> Self {
        RunDir {
            root: config.output_dir(),
            ..Self::default()
        }
    }

    pub(crate) fn final_model(&self) -> PathBuf {
        self.root.join(FINAL)
    }

    /// Moves a finished model aside, of which the run that goes on is no longer: it keeps the number of
    /// the step it was made at. Gives its new place, if there was one.
    pub(crate) fn retire_final(&self, step: u64) -> Result<Option<PathBuf>, TrainError> {
        let path = self.final_model();
        if self.lock.is_none() || path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let to = self.free_name(|n| match n {
            1 => format!("{FINAL}-step-{step:08}"),
            n => format!("{FINAL}-step-{step:08}-{n}"),
        });
        fs::rename(&path, &to).map_err(failed(&path))?;
        Ok(Some(to))
    }

    /// The first path that nothing has of those with the names of 1, 2, ….
    fn free_name(&self, name: impl Fn(u64) -> String) -> PathBuf {
        let mut paths = (1..).map(|n| self.root.join(name(n)));
        let free = paths.find(|path| path.symlink_metadata().is_err());
        free.expect("names do not end")
    }

    /// Adds a line to `metrics.jsonl`, and its numbers to TensorBoard's events.
    pub(crate) fn log(&mut self, line: &Value) -> Result<(), TrainError> {
        if let Some(file) = &mut self.metrics {
            // One write: a run that is killed leaves at most one torn line, the last.
            let written = file.write_all(format!("{line}\n").as_bytes());
            written.map_err(failed(&self.root.join(METRICS)))?;
        }
        if let Some(events) = &mut self.events {
            let step = line["step"].as_u64().unwrap_or_default();
            let keys = line.as_object().into_iter().flatten();
            let numbers = keys.filter_map(|(key, value)| Some((key.as_str(), value.as_f64()?)));
            let scalars: Vec<_> = numbers.filter(|(key, _)| key.contains('/')).collect();
            let written = events.scalars(step, &scalars);
            written.map_err(failed(&self.root.join(TENSORBOARD)))?;
        }
        Ok(())
    }

    /// Makes sure that what was logged outlives the machine as the checkpoint of the same step
    /// does. What has been removed meanwhile is made again, with a notice of each: descriptions as
    /// they were, logs from here on.
    pub(crate) fn sync(&mut self) -> Result<Vec<String>, TrainError> {
        let root = &self.root;
        let mut notices = Vec::new();
        let mut gone = |path: &Path, now: &str| {
            let gone = format!("{} has been removed while the run goes on", path.display());
            notices.push(format!("{gone}; it {now}"));
        };
        fs::create_dir_all(root).map_err(failed(root))?;
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
            if path.exists() {
                file.sync_data().map_err(failed(&path))?;
            } else {
                let new = OpenOptions::new().append(true).create(true).open(&path);
                self.metrics = Some(new.map_err(failed(&path))?);
                gone(&path, "begins anew");
            }
        }
        if self.events.as_ref().is_some_and(|events| !events.exists()) {
            let directory = root.join(TENSORBOARD);
            let events = EventFile::create(&directory, None);
            self.events = Some(events.map_err(failed(&directory))?);
            gone(&directory, "begins anew");
        }
        Ok(notices)
    }

    pub(crate) fn sample(&self, step: u64, text: &str) -> Result<(), TrainError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let directory = self.root.join(SAMPLES);
        fs::create_dir_all(&directory).map_err(failed(&directory))?;
        self.write(&format!("{SAMPLES}/step-{step:08}.txt"), text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let path = self.root.join(name);
        infinity_files::write(&path, text.as_bytes()).map_err(failed(&path))
    }

    /// `metrics.jsonl`, without the lines after the step that goes on: those steps run again. A file
    /// that cannot be read, or holds anything but such lines, is kept beside it.
    fn open_metrics(
        &self,
        opens: Opens<'_>,
        notices: &mut Vec<String>,
    ) -> Result<File, TrainError> {
        let path = self.root.join(METRICS);
        let mut kept = String::new();
        if let Opens::After(state) = opens {
            let mut aside = None;
            match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => aside = Some(format!("cannot be read ({error})")),
                Ok(bytes) => {
                    // A torn end can be half a character, which must not cost the lines before it.
                    let text = String::from_utf8_lossy(&bytes);
                    let torn = !text.ends_with('\n');
                    let mut lines = text.lines().peekable();
                    while let Some(line) = lines.next() {
                        match step_of(line) {
                            Some((at, _)) if at > state.step => {}
                            Some((at, true)) if at == state.step && state.validation_owed => {}
                            Some(_) => kept.extend([line, "\n"]),
                            // Half a line is no line, and was never more.
                            None if torn && lines.peek().is_none() => {}
                            None => aside = Some("has lines that are no metrics".to_owned()),
                        }
                    }
                }
            }
            if let Some(why) = aside {
                let beside = self.free_name(|n| format!("{METRICS}.kept-{n}"));
                fs::rename(&path, &beside).map_err(failed(&path))?;
                let (path, beside) = (path.display(), beside.display());
                notices.push(format!("{path} {why}: it is kept as {beside}"));
            }
        }
        self.write(METRICS, &kept)?;
        let opened = OpenOptions::new().append(true).open(&path);
        opened.map_err(failed(&path))
    }
}

/// The step of a metrics line, and whether it is a validation's.
fn step_of(line: &str) -> Option<(u64, bool)> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some((line["step"].as_u64()?, line.get("eval/loss").is_some()))
}

/// Whether there is anything in a run directory but its lock.
pub fn is_used(root: &Path) -> bool {
    let mut entries = root.read_dir().into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name() != LOCK)
}

/// Refuses a place that is somebody's working directory or holds the text to learn from.
fn refuse_place(root: &Path, config: &RunConfig) -> Result<(), TrainError> {
    let Ok(real) = root.canonicalize() else {
        return Ok(());
    };
    let holds = |path: &Path| {
        path.canonicalize()
            .is_ok_and(|path| path.starts_with(&real))
    };
    if std::env::current_dir().is_ok_and(|here| holds(&here)) {
        let why = "it is, or holds, the directory this program was started in";
        return refuse(root, why);
    }
    let mut texts = [&config.data.train_file, &config.data.validation_file].into_iter();
    match texts.find(|text| !text.as_os_str().is_empty() && holds(text)) {
        Some(text) => refuse(root, &format!("it holds the text {}", text.display())),
        None => Ok(()),
    }
}

fn refuse(root: &Path, reason: &str) -> Result<(), TrainError> {
    Err(TrainError::OutputRefused {
        path: root.to_path_buf(),
        reason: reason.to_owned(),
    })
}

/// Refuses a directory that no run of this program has described.
fn refuse_foreign(root: &Path) -> Result<(), TrainError> {
    let described = fs::read(root.join(RUN)).ok();
    let run: Option<Value> = described.and_then(|text| serde_json::from_slice(&text).ok());
    if run.is_some_and(|run| run.get("infinity_version").is_some()) {
        return Ok(());
    }
    let why = format!(
        "it is not empty and holds no {RUN} of this program; only a run's directory is overwritten"
    );
    refuse(root, &why)
}

/// The names on a path; none where one of them is no text.
fn parts(path: &Path) -> Vec<&str> {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    names.unwrap_or_default()
}

/// Whether this program writes a file of this path in a run's directory.
fn is_written(path: &Path) -> bool {
    let parts = parts(path);
    // What a writer that was killed leaves beside the name: see infinity-files.
    let unfinished = |part: &str| part.starts_with('.') && part.contains(".partial-");
    if parts.iter().any(|part| unfinished(part)) {
        return true;
    }
    match parts[..] {
        [name] => matches!(
            name.strip_suffix(".tmp").unwrap_or(name),
            RUN | CONFIG | EFFECTIVE | TOKENIZER | TOKENIZER_CONFIG | TEMPLATE | METRICS
        ),
        [TENSORBOARD, name] => name.starts_with("events.out.tfevents."),
        [SAMPLES, name] => name.starts_with("step-"),
        [CHECKPOINTS, name] => [BEST, ".tmp-best"].contains(&name),
        [CHECKPOINTS, folder, name] => {
            let folder = folder.strip_prefix(".tmp-").unwrap_or(folder);
            folder.starts_with(PREFIX) && is_part(name)
        }
        [folder, name] => {
            (folder == FINAL || folder.starts_with("final-step-"))
                && (is_model_file(name) || name == TEMPLATE)
        }
        _ => false,
    }
}

/// Refuses a directory that holds anything but what a run leaves that was ended before its first
/// checkpoint: descriptions, logs, samples, half of a checkpoint.
pub(crate) fn saved_nothing(root: &Path) -> Result<(), CheckpointError> {
    let refuse = |found| CheckpointError::None {
        path: root.join(CHECKPOINTS),
        found: Some(found),
    };
    let begun = [RUN, EFFECTIVE].iter().any(|name| root.join(name).exists());
    let mut all = Vec::new();
    walk(root, Path::new(""), &mut all).map_err(refuse)?;
    let leftover = |path: &Path| match parts(path)[..] {
        [LOCK] => true,
        // A file of these names alone may be what somebody wrote for the run to come.
        [CONFIG | TOKENIZER | TEMPLATE | TOKENIZER_CONFIG] => begun,
        [CHECKPOINTS, folder, ..] => folder.starts_with('.') && is_written(path),
        [folder, _] if folder.starts_with(FINAL) => false,
        _ => is_written(path),
    };
    let other = all.into_iter().find(|path| !leftover(path));
    other.map_or(Ok(()), |path| Err(refuse(root.join(path))))
}

/// Adds the paths of all files below `root` that are in `folder` or below it, relative to `root`; none
/// where there is no such directory. Links are not followed. The error is the directory that cannot be
/// looked into: it may hold anything.
fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), PathBuf> {
    let entries = match fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(root.join(folder)),
        Ok(entries) => entries,
    };
    for entry in entries {
        let entry = entry.map_err(|_| root.join(folder))?;
        let path = folder.join(entry.file_name());
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => walk(root, &path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// Removes what runs have written in a directory, `run.json` last: one that is killed on the way can be
/// overwritten again. What is left of others is told, and refused in a checkpoint's folder, whose name the
/// new run may need.
fn clear(root: &Path, notices: &mut Vec<String>) -> io::Result<()> {
    let mut all = Vec::new();
    let unreadable = |path: PathBuf| io::Error::other(format!("{} cannot be read", path.display()));
    walk(root, Path::new(""), &mut all).map_err(unreadable)?;
    all.retain(|path| path != Path::new(LOCK));
    all.sort_by_key(|path| path == Path::new(RUN));
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|path| is_written(path));
    let in_the_way = |path: &&PathBuf| path.starts_with(CHECKPOINTS) && path.iter().count() > 2;
    if let Some(path) = others.iter().find(in_the_way) {
        let path = root.join(path);
        let reason = format!("{} is not from a run: move it away", path.display());
        return Err(io::Error::other(reason));
    }
    for path in &ours {
        fs::remove_file(root.join(path))?;
        // One that still holds something stays.
        let inside = |folder: &&Path| !folder.as_os_str().is_empty();
        for folder in path.ancestors().skip(1).take_while(inside) {
            let _ = fs::remove_dir(root.join(folder));
        }
    }
    for path in others {
        let path = root.join(path);
        notices.push(format!("{} is not from a run and stays", path.display()));
    }
    Ok(())
}

/// Takes the lock of a run directory.
fn lock(root: &Path) -> Result<Lock, TrainError> {
    let path = root.join(LOCK);
    Lock::take(&path).map_err(failed(&path))?.ok_or_else(|| {
        let root = root.display();
        TrainError::Failed(format!(
            "another process is training in {root}; wait for it, or name another directory"
        ))
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    move |source| TrainError::Write {
        path: path.to_path_buf(),
        source,
    }
}
