//! What a run logged: `metrics.jsonl`, line by line, also of a run that was killed or still runs.

use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file in a run directory.
const METRICS: &str = "metrics.jsonl";
/// Where a line stands.
const STEP: &str = "step";

/// The metrics of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it is called in a picture: the name of its directory.
    pub name: String,
    /// What a person should know about the file.
    pub notes: Vec<String>,
    lines: Vec<Value>,
}

impl Run {
    /// Reads the metrics of a run directory, or of a metrics file.
    ///
    /// Lines that are not whole are left out with a note: a run that was killed leaves half a line.
    ///
    /// # Errors
    /// If there is no such file, it cannot be read, or no line of it is whole.
    pub fn read(path: &Path) -> Result<Self, PlotError> {
        let mut file = path.to_path_buf();
        if path.is_dir() {
            file.push(METRICS);
            if !file.is_file() {
                return Err(PlotError::NoMetrics(path.to_path_buf()));
            }
        }
        let bytes = fs::read(&file).map_err(|source| PlotError::Read(file.clone(), source))?;
        // Half a character at a torn end must not cost the rest.
        let run = Run::parse(&name(&file), &String::from_utf8_lossy(&bytes));
        match run.lines.is_empty() {
            true => Err(PlotError::Empty(file)),
            false => Ok(run),
        }
    }

    /// The lines of `text` that are whole, and notes about the others.
    pub fn parse(name: &str, text: &str) -> Self {
        let (mut lines, mut torn) = (Vec::new(), Vec::new());
        for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.is_empty()) {
            match serde_json::from_str::<Value>(line) {
                Ok(value) if value[STEP].is_u64() => lines.push(value),
                _ => torn.push(number),
            }
        }
        let note = torn.first().map(|first| match torn.len() {
            1 if *first == text.lines().count() => {
                format!("{name}: the last line is not whole and was left out")
            }
            many => format!(
                "{name}: {many} lines are not metrics and were left out, line {first} first"
            ),
        });
        Run {
            name: name.to_owned(),
            notes: note.into_iter().collect(),
            lines,
        }
    }

    /// Values of `key` against steps or against another key, by ascending step. What was not finite
    /// is NaN.
    ///
    /// Lines that lack the key `across` (validations have no token count) take it from the logged
    /// steps around them.
    pub fn series(&self, key: &str, across: &str) -> Vec<(f64, f64)> {
        let step = |line: &Value| line[STEP].as_f64().unwrap_or_default();
        let known = self.lines.iter();
        let known = known.filter_map(|line| Some((step(line), line[across].as_f64()?)));
        let known: Vec<(f64, f64)> = known.collect();
        let found = self.lines.iter().filter_map(|line| {
            let value = line.get(key)?.as_f64().unwrap_or(f64::NAN);
            let x = line[across].as_f64();
            Some((x.or_else(|| between(&known, step(line)))?, value))
        });
        found.collect()
    }
}

/// The value at `at` on the line through `known`, or that of its nearer end.
fn between(known: &[(f64, f64)], at: f64) -> Option<f64> {
    let (before, after) = known.split_at(known.partition_point(|(x, _)| *x < at));
    match (before.last(), after.first()) {
        (Some((x0, y0)), Some((x1, y1))) => Some(y0 + (y1 - y0) * (at - x0) / (x1 - x0)),
        (end, other) => end.or(other).map(|(_, y)| *y),
    }
}

/// The name of the directory of `file`.
fn name(file: &Path) -> String {
    let directory = file.with_file_name(".").canonicalize().ok();
    let name = directory.as_deref().and_then(Path::file_name);
    name.map_or("run".into(), |name| name.to_string_lossy())
        .into_owned()
}

/// An error of reading metrics or drawing them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to read in the directory that was named.
    #[error(
        "there is no {METRICS} in {0}: it is no run directory, or its run had `logging.jsonl = false`"
    )]
    NoMetrics(PathBuf),
    /// Nothing was logged in this metrics file.
    #[error("{0} has no complete line: the run has logged nothing yet")]
    Empty(PathBuf),
    /// The metrics file cannot be read, and why.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// The picture cannot be turned into pixels.
    #[error("cannot draw the picture: {0}")]
    Raster(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "{\"step\":1,\"tokens\":10,\"train/loss\":4.0}\n\
        {\"step\":2,\"tokens\":20,\"train/loss\":null}\n{\"step\":3,\"eval/loss\":3.5}\n\
        {\"step\":4,\"tokens\":40,\"train/loss\":3.0}\n";

    #[test]
    fn values_stand_at_their_steps_or_tokens() {
        let run = Run::parse("a", LINES);
        let losses = run.series("train/loss", "step");
        assert_eq!((losses[0], losses[2]), ((1.0, 4.0), (4.0, 3.0)));
        assert!(losses[1].1.is_nan(), "a loss that was not finite is a gap");
        assert_eq!(run.series("eval/loss", "tokens"), [(30.0, 3.5)]);
        assert!(run.series("mem/bytes", "step").is_empty() && run.notes.is_empty());
    }

    #[test]
    fn a_torn_line_is_left_out_and_said() {
        let torn = Run::parse("a", &format!("{LINES}{{\"step\":5,\"train/lo"));
        assert_eq!(torn.series("train/loss", "step").len(), 3);
        assert!(torn.notes[0].contains("last line"), "{:?}", torn.notes);
        let odd = Run::parse("a", &format!("[]\n3\n{LINES}"));
        assert!(odd.notes[0].contains("2 lines") && odd.notes[0].contains("line 1"));
    }

    #[test]
    fn directories_and_files_are_found_or_named() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("first");
        fs::create_dir(&run).unwrap();
        let error = Run::read(&run).unwrap_err().to_string();
        assert!(
            error.contains("first") && error.contains(METRICS),
            "{error}"
        );
        fs::write(run.join(METRICS), "").unwrap();
        let error = Run::read(&run).unwrap_err().to_string();
        assert!(error.contains("logged nothing"), "{error}");
        fs::write(run.join(METRICS), LINES).unwrap();
        assert_eq!(Run::read(&run).unwrap().name, "first");
        assert_eq!(Run::read(&run.join(METRICS)).unwrap().name, "first");
        let error = Run::read(&temp.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none"), "{error}");
    }
}
