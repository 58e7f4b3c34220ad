//! Injected failures: a test chooses a folder and which change below it fails.
//!
//! The hook is compiled in always, so that what is tested is what is shipped; without a plan a
//! change costs a lock that nobody else wants.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());

struct Plan {
    folder: PathBuf,
    left: usize,
    fault: Fault,
    happened: bool,
}

/// How a change fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This one change fails with this error; later ones work.
    Error(ErrorKind),
    /// This one change panics, as a fault of the program does.
    Panic,
    /// This change and every later one fail, as if the process had been killed: nothing is cleaned up.
    Kill,
}

/// A plan to fail, in force until it is dropped.
#[derive(Debug)]
pub struct Injected(PathBuf);

/// Fails change number `n` (from 0) below `folder`, which must exist, by any thread of this process.
pub fn inject(folder: &Path, n: usize, fault: Fault) -> Injected {
    let folder = resolved(folder);
    plans().push(Plan {
        folder: folder.clone(),
        left: n,
        fault,
        happened: false,
    });
    Injected(folder)
}

impl Injected {
    /// Whether the chosen change was reached.
    pub fn happened(&self) -> bool {
        let reached = |plan: &Plan| plan.folder == self.0 && plan.happened;
        plans().iter().any(reached)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        plans().retain(|plan| plan.folder != self.0);
    }
}

/// Announces a change at `path`; writers that do not go through this crate call it themselves.
///
/// # Errors
/// The injected failure, if this change is the chosen one.
pub fn point(path: &Path) -> io::Result<()> {
    let mut plans = plans();
    if plans.is_empty() {
        return Ok(());
    }
    let path = resolved(path);
    let Some(plan) = plans.iter_mut().find(|plan| path.starts_with(&plan.folder)) else {
        return Ok(());
    };
    let chosen = plan.left == 0 && (plan.fault == Fault::Kill || !plan.happened);
    plan.left = plan.left.saturating_sub(1);
    plan.happened |= chosen;
    match plan.fault {
        _ if !chosen => Ok(()),
        Fault::Error(kind) => Err(kind.into()),
        Fault::Panic => panic!("a test asked for it"),
        Fault::Kill => Err(io::Error::other("killed by a test")),
    }
}

/// Writes all of `bytes`; an injected failure leaves half of them, as a full disk does.
pub(crate) fn write_all(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    point(path).inspect_err(|_| drop(file.write_all(&bytes[..bytes.len() / 2])))?;
    file.write_all(bytes)
}

/// Renames; every rename of this workspace's writers is this one.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    point(to)?;
    fs::rename(from, to)
}

fn plans() -> MutexGuard<'static, Vec<Plan>> {
    // A list of plans is never half-changed.
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path without links in its folder, so that a test's folder is found in it.
fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|part| part.exists());
    match there.and_then(|part| Some((part.canonicalize().ok()?, path.strip_prefix(part).ok()?))) {
        Some((real, rest)) => real.join(rest),
        None => path.to_path_buf(),
    }
}
