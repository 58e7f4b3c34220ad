//! The engine from outside: rows beside each other, sessions, kills, full disks.

mod http;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod recorded;
mod rows;
mod sessions;
mod support;
