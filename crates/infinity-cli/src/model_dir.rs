//! Where the model is: a model directory, or a run directory that holds one.

use std::path::{Path, PathBuf};

use infinity_model::{InfinityModel, Precision};

use crate::{failure, output};

/// What makes a directory a model directory.
const MARKER: &str = "config.json";

/// Where a run puts its finished model.
pub(crate) const FINAL: &str = "final";

/// The model directory meant by `given`: itself, or `final/` inside a run directory.
///
/// # Errors
/// There is no such directory, or no model in it; the message says what was looked for.
pub(crate) fn find(given: &Path) -> anyhow::Result<PathBuf> {
    let shown = given.display();
    if !given.exists() {
        return Err(failure::usage(format!(
            "there is no model directory {shown}"
        )));
    }
    if !given.is_dir() {
        return Err(failure::usage(format!(
            "{shown} is a file; a model is a directory with {MARKER} and model.safetensors"
        )));
    }
    let inside = given.join(FINAL);
    [given.to_owned(), inside].into_iter().find(|dir| dir.join(MARKER).is_file()).ok_or_else(|| {
        let run = given.join("checkpoints").is_dir();
        let hint = match run {
            true => "; it is a run that has not finished: its `train` command with --resume goes on with it",
            false => "",
        };
        failure::usage(format!(
            "{shown} is not a model directory: neither {MARKER} nor {FINAL}/{MARKER} is there{hint}"
        ))
    })
}

/// `model` computing in `precision`; on standard error what its device does about it.
///
/// # Errors
/// The device cannot hold the parameters in that format.
pub(crate) fn in_precision(
    model: InfinityModel,
    precision: Precision,
    quiet: bool,
) -> anyhow::Result<InfinityModel> {
    let model = model.with_precision(precision)?;
    if let Some(remark) = model.formats().remark().filter(|_| !quiet) {
        output::note(&format!("precision {remark}"));
    }
    Ok(model)
}

/// The run directory of a model that lies in its `final/`, with the configuration it was made by.
pub(crate) fn run_config(model: &Path) -> Option<PathBuf> {
    let path = model
        .canonicalize()
        .ok()?
        .parent()?
        .join("config.effective.toml");
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_run_stands_for_its_final_model() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        let message = |path: &Path| find(path).unwrap_err().to_string();
        assert!(message(&run.join("none")).contains("there is no model directory"));
        assert!(message(run).contains("neither config.json"));
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        assert!(message(run).contains("--resume"));
        fs::create_dir_all(run.join(FINAL)).unwrap();
        fs::write(run.join(FINAL).join(MARKER), "{}").unwrap();
        assert_eq!(find(run).unwrap(), run.join(FINAL));
        assert_eq!(find(&run.join(FINAL)).unwrap(), run.join(FINAL));
        assert!(message(&run.join(FINAL).join(MARKER)).contains("is a file"));
        assert_eq!(run_config(&run.join(FINAL)), None);
        fs::write(run.join("config.effective.toml"), "").unwrap();
        assert!(run_config(&run.join(FINAL)).is_some());
    }
}
