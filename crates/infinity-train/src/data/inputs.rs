//! The texts that `[data]` names: files, or the sources of dependencies.

use super::cargo_sources::CargoWorkspace;
use super::config::{DataConfig, DataSource, bad};
use super::error::DataError;
use super::event::DataEvent;
use super::source::Sources;
use super::write::Inputs;
use std::env;
use std::path::PathBuf;

/// Finds the text, without reading files of the user; messages about `texts` blame `key`.
pub(super) fn inputs(
    key: &'static str,
    texts: &[PathBuf],
    data: &DataConfig,
    notify: &mut dyn FnMut(DataEvent),
) -> Result<Inputs, DataError> {
    if data.source == DataSource::Files {
        let column = &data.text_column;
        let validation = &data.validation_file;
        let validation = (!validation.as_os_str().is_empty())
            .then(|| Sources::resolve("data.validation_file", validation, column))
            .transpose()?;
        return Ok(Inputs {
            train: Sources::concatenated(key, texts, column)?,
            validation,
            known_hashes: None,
        });
    }
    let here = env::current_dir().map_err(|source| DataError::Read {
        path: PathBuf::from("."),
        source,
    })?;
    let workspace = CargoWorkspace::find(&here)?;
    let mut crates = |key, names: &[String]| {
        let found = workspace.sources(key, names)?;
        notify(DataEvent::Crates {
            key,
            crates: found.crates.clone(),
            files: found.sources.files.len(),
            skipped: found.skipped,
            fingerprint: found.fingerprint.clone(),
        });
        Ok::<_, DataError>(found)
    };
    let train = crates("data.train_crates", &data.train_crates)?;
    let validation = match data.validation_crates.as_slice() {
        [] => None,
        names => Some(crates("data.validation_crates", names)?),
    };
    let mut held_out = validation.iter().flat_map(|found| &found.crates);
    if let Some(both) = held_out.find(|name| train.crates.contains(name)) {
        return bad(
            "data.validation_crates",
            both,
            "is also in `data.train_crates`",
        );
    }
    let known_hashes = Some((
        train.fingerprint,
        validation.as_ref().map(|found| found.fingerprint.clone()),
    ));
    Ok(Inputs {
        train: train.sources,
        validation: validation.map(|found| found.sources),
        known_hashes,
    })
}
