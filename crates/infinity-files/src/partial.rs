//! Files and directories in the making: they appear whole or not at all, and leave nothing behind.
//!
//! What is written goes to a name beside its place, `.NAME.partial-PROCESS-COUNT`, then to the disk
//! (`fsync`), and only then takes its name; the folder is synced last. A lock, on the file itself or
//! for a directory on a file beside it, goes with the process, so that a partial whose lock is free
//! is nobody's: the next writer in the same folder removes it.

use crate::faults::{self, point};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MARK: &str = ".partial-";
const LOCK: &str = ".lock";
/// Bytes of a name kept in a partial's name: names have at most 255, and the mark needs some.
const NAME: usize = 200;

/// What this process has in the making.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Writes a file, replacing one of that name. A link is followed, and a file that is replaced keeps
/// its permissions, as with a plain write.
///
/// # Errors
/// If it cannot be written; what was there is there still.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file, partial| {
        faults::write_all(file, partial, bytes)
    })
}

/// Writes a file as [`write()`] does, by a function that is given the open file and its path.
///
/// # Errors
/// The function's, or if the file cannot be written; what was there is there still.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut File, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let path = &followed(path);
    let mut partial = Partial::create(path, Path::to_path_buf)?;
    fill(&mut partial.lock, &partial.path)?;
    if let Ok(replaced) = fs::metadata(path) {
        partial.lock.set_permissions(replaced.permissions())?;
    }
    point(&partial.path)?;
    partial.lock.sync_all()?;
    faults::rename(&partial.path, path)?;
    sync_directory(folder_of(path))
}

/// Whether a file could be written at `path`, by making one beside it and removing that.
///
/// # Errors
/// Why it could not.
pub fn can_write(path: &Path) -> io::Result<()> {
    Partial::create(&followed(path), Path::to_path_buf).map(drop)
}

/// A directory that disappears unless it is given its name.
#[derive(Debug)]
pub struct PartialDirectory(Partial);

impl PartialDirectory {
    /// Makes one beside `target`, so that renaming stays on one disk, and removes what processes
    /// that are gone have left there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(target: &Path) -> io::Result<Self> {
        let partial = Partial::create(target, lock_of)?;
        point(&partial.path)?;
        fs::create_dir(&partial.path)?;
        Ok(Self(partial))
    }

    /// Where it is while it is made.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Takes over what lies in the directory `old`, as far as `wanted` says so of a name there, without
    /// touching `old`: files as further names of the same file where the disk has them, else as copies.
    ///
    /// # Errors
    /// If something cannot be read or linked. Nothing to keep, or no such directory, is fine.
    pub fn keep_from(&self, old: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if wanted(&entry.file_name().to_string_lossy()) {
                link_tree(&entry.path(), &self.path().join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Puts its files on the disk and gives it the name `target`, in the place of what may be there:
    /// at once where the system can exchange two names, elsewhere by two renames.
    ///
    /// # Errors
    /// If it cannot be synced or renamed; what was there is there still.
    pub fn rename_to(self, target: &Path) -> io::Result<()> {
        sync_tree(self.path())?;
        if target.symlink_metadata().is_err() {
            faults::rename(self.path(), target)?;
        } else if !exchange(self.path(), target)? {
            let replaced = Self::create(target)?;
            let old = replaced.path().join("replaced");
            faults::rename(target, &old)?;
            faults::rename(self.path(), target)
                .inspect_err(|_| drop(faults::rename(&old, target)))?;
        }
        sync_directory(folder_of(target))
    }
}

/// Exchanges two names at once, so that what was there goes with the partial; false where the system or its disk cannot.
fn exchange(from: &Path, to: &Path) -> io::Result<bool> {
    point(to)?;
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let exchanged = renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE);
        Ok(exchanged.is_ok())
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        let _ = from;
        Ok(false)
    }
}

/// Removes a directory that must never stand half-removed under its name; none there is fine.
///
/// # Errors
/// If it cannot be renamed or removed.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let gone = PartialDirectory::create(path)?;
    faults::rename(path, &gone.path().join("removed"))?;
    point(gone.path())?;
    fs::remove_dir_all(gone.path())
}

/// Removes what this process has in the making: for a program that a signal ends in the middle.
/// Whoever is still writing there fails.
pub fn remove_unfinished() {
    // Held to the end: nobody makes another one meanwhile.
    let open = open();
    for path in open.iter() {
        // Files may appear while it is emptied.
        let _ = (0..100).find(|_| remove(path).is_ok() || path.symlink_metadata().is_err());
        let _ = fs::remove_file(lock_of(path));
    }
    std::mem::forget(open);
}

/// Puts the names in a directory on the disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    point(path)?;
    // Windows cannot open a directory as a file, and syncs renames itself.
    match cfg!(unix) {
        true => File::open(path)?.sync_all(),
        false => Ok(()),
    }
}

/// A file or directory in the making; its lock is held as long as it is open.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    lock: File,
}

impl Partial {
    /// Names one beside `target` and makes the file to lock, whose name `lock_of` makes of its own.
    fn create(target: &Path, lock_of: fn(&Path) -> PathBuf) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = folder_of(target);
        point(target)?;
        fs::create_dir_all(folder)?;
        remove_abandoned(folder);
        loop {
            let path = folder.join(name(target, COUNT.fetch_add(1, Ordering::Relaxed)));
            let file = lock_of(&path);
            let mut open = open();
            let lock = match File::create_new(&file) {
                // Left by a process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            open.push(path.clone());
            drop(open);
            let locked = !matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            // From here on, dropping it removes it.
            let partial = Self { path, lock };
            // Somebody may have taken it for abandoned in the moment before.
            if locked && file.exists() {
                return Ok(partial);
            }
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left; after an error, the error is what matters.
        let _ = point(&self.path).map(|()| {
            let _ = remove(&self.path);
            let _ = fs::remove_file(lock_of(&self.path));
        });
        open().retain(|path| *path != self.path);
    }
}

fn name(target: &Path, count: u64) -> OsString {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let kept = &name[..name.floor_char_boundary(NAME)];
    format!(".{kept}{MARK}{}-{count}", process::id()).into()
}

/// The lock file of a partial directory, made before it and removed after it.
fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK);
    name.into()
}

/// Whether a name is one that [`name`] makes, a lock's included.
fn is_partial(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let made = name.strip_suffix(LOCK).unwrap_or(name).rsplit_once(MARK);
    made.and_then(|(_, numbers)| numbers.split_once('-'))
        .is_some_and(|(process, count)| name.starts_with('.') && number(process) && number(count))
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != "");
    parent.unwrap_or(Path::new("."))
}

/// What a link leads to, so that writing replaces that and keeps the link.
fn followed(path: &Path) -> PathBuf {
    match path.is_symlink() {
        true => path.canonicalize().unwrap_or_else(|_| path.into()),
        false => path.into(),
    }
}

fn open() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of paths is never half-changed.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Syncs every file below a directory, then the directories.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    sync_directory(path)
}

/// Another name for a file, or a directory of such names.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    point(to)?;
    let kind = from.symlink_metadata()?;
    if kind.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            link_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return fs::set_permissions(to, kind.permissions());
    }
    // Some disks have no second names; a link to nowhere has nothing to copy.
    let linked = fs::hard_link(from, to);
    linked.or_else(|error| fs::copy(from, to).map(drop).map_err(|_| error))
}

/// Removes what no process is making any more in `folder`.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if !is_partial(&name.to_string_lossy()) {
            continue;
        }
        let lock = match path.is_dir() {
            true => File::open(lock_of(&path)),
            false => File::open(&path),
        };
        let free = match lock {
            Ok(lock) => lock.try_lock().is_ok(),
            // A directory's lock is there before and after it.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if free {
            // It is in nobody's way but the disk's.
            let _ = point(&path).and_then(|()| remove(&path));
        }
    }
}
