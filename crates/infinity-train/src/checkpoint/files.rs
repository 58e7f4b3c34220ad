//! Files that are whole or not there: synced writes, and a mark to know a file again by.

use crate::data::Fingerprint;
use crate::error::CheckpointError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
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

    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let (mut file, mut fingerprint) = (File::open(path)?, Fingerprint::default());
        let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Mark {
                    bytes,
                    fingerprint: fingerprint.hex(),
                });
            }
            bytes += read as u64;
            fingerprint.update(&buffer[..read]);
        }
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
