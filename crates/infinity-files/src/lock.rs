//! Locks that the system frees when a process ends, however it ends.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// A lock file, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock file at `path`, making it if needed; `None` if another holder has it. On a
    /// disk that knows no locks it is taken always.
    ///
    /// # Errors
    /// If the file cannot be opened or made.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            // Some network disks know no locks; working on them is better than not working.
            Err(TryLockError::Error(_)) | Ok(()) => Some(Self { _file: file }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let held = Lock::take(&path).unwrap().expect("nobody has it");
        assert!(Lock::take(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::take(&path).unwrap().is_some());
        assert!(Lock::take(&folder.path().join("no/such/folder")).is_err());
    }
}
