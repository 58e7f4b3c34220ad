//! Why the sources of dependencies cannot be had, and what to do about it.

use std::path::PathBuf;

/// Why sources of dependencies cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CargoError {
    /// No lock file upward from the current directory.
    #[error(
        "`data.source = \"cargo-registry\"` reads the dependencies of a Cargo workspace, but there is no Cargo.lock in {start} or above it; run this inside the workspace, or name a text of your own with `--train-file`"
    )]
    NoWorkspace {
        /// Where the search began.
        start: PathBuf,
    },
    /// The lock file cannot be read.
    #[error("cannot read {path}: {reason}")]
    BadLock {
        /// The lock file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A crate that is not a locked dependency.
    #[error("`{key}`: {lock} has no crate `{name}`{hint}")]
    NotLocked {
        /// Key of the configuration.
        key: &'static str,
        /// The lock file.
        lock: PathBuf,
        /// The crate asked for.
        name: String,
        /// A similar name, or nothing.
        hint: String,
    },
    /// Several versions of one crate are locked.
    #[error(
        "`{key}`: {lock} has several versions of `{name}` ({versions}); write one of them as `{name}@{example}`"
    )]
    SeveralVersions {
        /// Key of the configuration.
        key: &'static str,
        /// The lock file.
        lock: PathBuf,
        /// The crate asked for.
        name: String,
        /// The locked versions.
        versions: String,
        /// One of them.
        example: String,
    },
    /// Cargo itself cannot be started.
    #[error(
        "cannot run `{program}`: {source}; Cargo is needed to find the sources of dependencies"
    )]
    NoCargo {
        /// The program that was tried.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The sources are not on this machine.
    #[error(
        "the sources of {name} {version} are not on this machine; run `cargo fetch --locked` in {root}{detail}"
    )]
    NotDownloaded {
        /// The crate.
        name: String,
        /// Its locked version.
        version: String,
        /// The workspace.
        root: PathBuf,
        /// What Cargo said, if it said anything.
        detail: String,
    },
    /// A crate without Rust sources.
    #[error("`{key}`: the sources of {name} hold no UTF-8 .rs file")]
    NoSources {
        /// Key of the configuration.
        key: &'static str,
        /// The crate.
        name: String,
    },
}
