//! Files that are whole or absent, locks, fingerprints and suggestions: what every crate above shares.
//!
//! Every change of the disk that a writer here makes goes through [`faults`], so that a test can
//! fail any one of them.

#![forbid(unsafe_code)]

pub mod faults;
mod fingerprint;
mod lock;
mod partial;
mod suggest;

pub use fingerprint::{Fingerprint, fingerprint};
pub use lock::Lock;
pub use partial::{
    PartialDirectory, can_write, remove_directory, remove_unfinished, write, write_with,
};
pub use suggest::{ALIKE, nearest, similarity};
