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
        let file = match path.is_dir() {
            true => path.join(METRICS),
            false => path.to_path_buf(),
        };
        if path.is_dir() && !file.is_file() {
            return Err(PlotError::NoMetrics {
                directory: path.to_path_buf(),
                file: METRICS,
            });
        }
        let bytes = fs::read(&file).map_err(|source| PlotError::Read {
            path: file.clone(),
            source,
        })?;
        // Half a character at a torn end must not cost the rest.
        let run = Run::parse(&name(&file), &String::from_utf8_lossy(&bytes));
        if run.lines.is_empty() {
            return Err(PlotError::Empty { path: file });
        }
        Ok(run)
    }

    /// The lines of `text` that are whole, and notes about the others.
    pub fn parse(name: &str, text: &str) -> Self {
        let all: Vec<&str> = text.lines().collect();
        let (mut lines, mut torn) = (Vec::new(), Vec::new());
        for (number, line) in all.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_str::<Value>(line) {
                Ok(value) if value[STEP].is_u64() => lines.push(value),
                _ => torn.push(number + 1),
            }
        }
        let notes = match torn[..] {
            [] => Vec::new(),
            [last] if last == all.len() => {
                vec![format!(
                    "{name}: the last line is not whole and was left out"
                )]
            }
            _ => vec![format!(
                "{name}: {} lines are not metrics and were left out, line {} first",
                torn.len(),
                torn[0]
            )],
        };
        Run {
            name: name.to_owned(),
            notes,
            lines,
        }
    }

    /// Values of `key` against steps or against another key, by ascending step. What was not finite
    /// is NaN.
    ///
    /// Lines that lack the key `across` (validations have no token count) take it from the logged
    /// steps around them.
    pub fn series(&self, key: &str, across: &str) -> Vec<(f64, f64)> {
        let known: Vec<(f64, f64)> = self
            .lines
            .iter()
            .filter_map(|line| Some((step(line), line.get(across)?.as_f64()?)))
            .collect();
        let found = self.lines.iter().filter_map(|line| {
            let value = line.get(key)?.as_f64().unwrap_or(f64::NAN);
            let x = match line.get(across).and_then(Value::as_f64) {
                Some(x) => x,
                None => between(&known, step(line))?,
            };
            Some((x, value))
        });
        found.collect()
    }
}

fn step(line: &Value) -> f64 {
    line[STEP].as_f64().unwrap_or_default()
}

/// The value at `at` on the line through `known`, or that of its nearer end.
fn between(known: &[(f64, f64)], at: f64) -> Option<f64> {
    let after = known.partition_point(|(x, _)| *x < at);
    match (after.checked_sub(1).map(|i| known[i]), known.get(after)) {
        (Some((x0, y0)), Some((x1, y1))) if *x1 > x0 => {
            Some(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
        }
        (_, Some((_, y))) => Some(*y),
        (Some((_, y)), None) => Some(y),
        (None, None) => None,
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
    /// There is nothing to read.
    #[error(
        "there is no {file} in {directory}: it is no run directory, or its run had `logging.jsonl = false`"
    )]
    NoMetrics {
        /// The directory that was named.
        directory: PathBuf,
        /// The file that is missing in it.
        file: &'static str,
    },
    /// Nothing was logged.
    #[error("{path} has no complete line: the run has logged nothing yet")]
    Empty {
        /// The metrics file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The metrics file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
