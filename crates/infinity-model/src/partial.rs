//! Directories in the making: they appear whole or not at all, and leave nothing behind.
//!
//! One is made beside its place, `.NAME.partial-PROCESS-COUNT`, with a locked file in it. The lock
//! goes with the process, however that ends, so that a directory whose lock is free is nobody's:
//! whoever makes the next one in the same place removes it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const MARK: &str = ".partial-";
const LOCK: &str = ".lock";

/// What this process has in the making.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory that disappears unless it is completed.
#[derive(Debug)]
pub struct PartialDirectory {
    path: PathBuf,
    lock: Option<File>,
}

impl PartialDirectory {
    /// Makes one beside `target`, so that renaming stays on one disk, and removes what processes
    /// that are gone have left there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(target: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent)?;
        remove_abandoned(parent);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = target.with_file_name(format!(".{name}{MARK}{}-{count}", process::id()));
            let made = {
                let mut open = open();
                let made = fs::create_dir(&path);
                open.extend(made.is_ok().then(|| path.clone()));
                made
            };
            match made {
                // Left by a process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // From here on, dropping it removes it.
            let mut partial = Self { path, lock: None };
            if partial.lock()? {
                return Ok(partial);
            }
        }
    }

    /// Takes its lock; false if somebody took it for abandoned in the moment before.
    fn lock(&mut self) -> io::Result<bool> {
        let path = self.path.join(LOCK);
        let file = match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let locked = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        self.lock = Some(file);
        Ok(locked && path.exists())
    }

    /// Where it is while it is made.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the name `target`, in the place of a directory that may be there.
    ///
    /// # Errors
    /// If it cannot be renamed; what was there is there still.
    pub fn rename_to(mut self, target: &Path) -> io::Result<()> {
        let replaced = match target.exists() {
            true => {
                let replaced = Self::create(target)?;
                fs::rename(target, replaced.path.join("replaced"))?;
                Some(replaced)
            }
            false => None,
        };
        // Some systems rename no directory with an open file in it.
        drop(self.lock.take());
        fs::remove_file(self.path.join(LOCK))
            .and_then(|()| fs::rename(&self.path, target))
            .inspect_err(|_| {
                if let Some(replaced) = &replaced {
                    let _ = fs::rename(replaced.path.join("replaced"), target);
                }
            })
    }
}

impl Drop for PartialDirectory {
    fn drop(&mut self) {
        drop(self.lock.take());
        // After a rename there is nothing left; after an error, the error is what matters.
        let _ = fs::remove_dir_all(&self.path);
        open().retain(|path| *path != self.path);
    }
}

/// Removes what this process has in the making: for a program that a signal ends in the middle.
/// Whoever is still writing there fails.
pub fn remove_unfinished() {
    // Held to the end: nobody makes another one meanwhile.
    let open = open();
    for path in open.iter() {
        // Files may appear while it is emptied.
        let _ = (0..100).find(|_| fs::remove_dir_all(path).is_ok() || !path.exists());
    }
    std::mem::forget(open);
}

fn open() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of paths is never half-changed.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the directories in `parent` that no process is making any more.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') || !name.contains(MARK) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::options().write(true).open(path.join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            // It is in nobody's way but the disk's.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_appears_whole_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("made");
        for text in ["one", "two"] {
            let partial = PartialDirectory::create(&target).unwrap();
            fs::write(partial.path().join("a.txt"), text).unwrap();
            partial.rename_to(&target).unwrap();
            assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), text);
            assert_eq!(names(&target), ["a.txt"]);
            assert_eq!(names(folder.path()), ["made"]);
        }
        drop(PartialDirectory::create(&target).unwrap());
        assert_eq!(names(folder.path()), ["made"]);
    }

    #[test]
    fn what_nobody_makes_any_more_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("made");
        let abandoned = folder.path().join(".made.partial-1-0");
        let foreign = folder.path().join(".notes.partial-draft");
        for path in [&abandoned, &foreign] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("a.txt"), "").unwrap();
        }
        fs::write(abandoned.join(LOCK), "").unwrap();
        let first = PartialDirectory::create(&target).unwrap();
        let second = PartialDirectory::create(&folder.path().join("other")).unwrap();
        assert!(!abandoned.exists(), "nobody holds its lock");
        assert!(foreign.exists(), "not made here");
        assert!(first.path().exists() && second.path().exists());
    }
}
