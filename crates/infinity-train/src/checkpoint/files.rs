//! Files that are whole or not there: synced writes, and a mark to know a file again by.

use crate::error::CheckpointError;
use infinity_files::Fingerprint;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Size and fingerprint of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) bytes: u64,
    fingerprint: String,
}

impl Mark {
    /// How a file shows that it is not the one that was `written`.
    pub(super) fn differs_from(&self, written: &Self) -> String {
        match self.bytes == written.bytes {
            true => "its fingerprint is not that of what was written".to_owned(),
            false => format!(
                "it has {} bytes and was written with {}",
                self.bytes, written.bytes
            ),
        }
    }

    /// Of a file as it is; where it is to be compared with one that was written, by that one's algorithm.
    pub(super) fn of(path: &Path, written: Option<&Self>) -> io::Result<Self> {
        let mut fingerprint = written.map_or_else(Fingerprint::default, |written| {
            Fingerprint::like(&written.fingerprint)
        });
        Ok(Mark {
            bytes: fingerprint.file(path)?,
            fingerprint: fingerprint.hex(),
        })
    }
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    // Windows cannot open a directory as a file, and syncs renames itself.
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn write_error(path: &Path, error: io::Error) -> CheckpointError {
    CheckpointError::Write {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}
